"""Pictures for schemathesis, which knows none: whole ones, of the kinds that the API takes."""

import io
import random

import schemathesis
from hypothesis import strategies
from PIL import Image


def encoded(kind, width, height, seed):
    image = Image.new("RGB", (width, height))
    image.putdata([tuple(random.Random(seed + place).randbytes(3)) for place in range(width * height)])
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def pictures(kind):
    sides, seeds = strategies.integers(1, 24), strategies.integers(0, 99)
    return strategies.builds(encoded, strategies.just(kind), sides, sides, seeds)


for name in ["png", "jpeg", "webp"]:
    schemathesis.openapi.media_type(f"image/{name}", pictures(name))
