"""Does what `similiai serve` does, with FastAPI, PyTorch, Pillow and NumPy: same weights, views, gallery and answers.

serve_fastapi.py starts it in its environment. THREADS is the number of threads of PyTorch.
"""

import io
import json
import os
from pathlib import Path

import numpy
import pyarrow.parquet
import torch
import torch_networks
from fastapi import FastAPI, HTTPException, Request
from PIL import Image, ImageFilter
from safetensors import safe_open
from torch.nn.functional import normalize, pad

ARTIFACTS = Path(__file__).resolve().parents[2] / "artifacts"
NAMES = {"scale": "weight", "offset": "bias", "running_mean": "running_mean", "running_variance": "running_var"}
torch.set_num_threads(int(os.environ["THREADS"]))
torch.set_grad_enabled(False)


def network():
    state = {}
    with safe_open(ARTIFACTS / "train" / "model.safetensors", "pt") as file:
        about = json.loads(file.metadata()["similiai"])
        for name in file.keys():
            parts = name.split(".")
            if parts[-1] not in ("epsilon", "momentum"):
                parts[-1] = NAMES[parts[-1]] if parts[-2].startswith("norm") else parts[-1]
                state[".".join(parts)] = file.get_tensor(name)
    made = torch_networks.build("residual", dropout=False)
    made.load_state_dict(state, strict=False)
    return made.eval().to(memory_format=torch.channels_last), about


NETWORK, ABOUT = network()
TABLE = pyarrow.parquet.read_table(ARTIFACTS / "embed" / "embeddings.parquet")
GALLERY = TABLE["embedding"].combine_chunks().flatten().to_numpy().reshape(len(TABLE), -1)
ROWS = TABLE.select(["id", "path", "label_name", "split"]).to_pylist()
app = FastAPI()


def prepare(image):
    """Crops, resizes, sharpens and scales `image`. Returns an array of shape (3, side, side)."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    how, into = ABOUT["preparation"], ABOUT["preprocessing"]
    image = image.crop((left, top, left + side, top + side)).resize((how["size"],) * 2, Image.LANCZOS)
    sharpen = how["sharpen"]
    image = image.filter(ImageFilter.UnsharpMask(sharpen["radius"], round(100 * sharpen["amount"]), sharpen["threshold"]))
    block = how["size"] // into["side"]
    values = numpy.asarray(image, numpy.float32).reshape(into["side"], block, into["side"], block, 3).mean((1, 3)) / 255
    return torch.from_numpy((values - into["mean"]) / into["deviation"]).permute(2, 0, 1)


def embed(picture):
    shift, side = ABOUT["shift"], picture.shape[-1]
    wide = pad(picture[None], (shift,) * 4, mode="reflect")[0]
    moves = [(0, 0), (shift, 0), (-shift, 0), (0, shift), (0, -shift)]
    views = [wide[:, shift + down : shift + down + side, shift + right : shift + right + side] for down, right in moves]
    views = torch.stack(views + [view.flip(2) for view in views]).contiguous(memory_format=torch.channels_last)
    return normalize(NETWORK(views).mean(0), dim=0).numpy()


def nearest(data, k):
    try:
        image = Image.open(io.BytesIO(data)).convert("RGB")
    except OSError as error:
        raise HTTPException(415, str(error)) from error
    distances = numpy.linalg.norm(GALLERY - embed(prepare(image)), axis=1)
    ids = numpy.argpartition(distances, k)[:k]
    return [ROWS[i] | {"distance": float(distances[i])} for i in ids[numpy.lexsort((ids, distances[ids]))]]


@app.post("/api/search")
async def search(request: Request, k: int = 5):
    data = await request.body()
    # Answers one query after the other: PyTorch uses all its threads for each.
    return {"results": nearest(data, k)}
