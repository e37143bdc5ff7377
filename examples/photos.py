"""Makes sample pictures, for users who have none.

photos/ has the samples that scikit-image and scikit-learn ship, some copies, and a broken file. digits/<class>/ has
the handwritten digits of scikit-learn, to train on.

Usage: python3 examples/photos.py [FOLDER]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benches" / "peers"))
import turns

turns.in_environment("photos", ["scikit-image", "scikit-learn"])

import shutil

import skimage
import sklearn.datasets
from PIL import Image

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
photos = folder / "photos"
(photos / "copies").mkdir(parents=True, exist_ok=True)
for source in [Path(skimage.__file__).parent / "data", Path(sklearn.datasets.__file__).parent / "images"]:
    for path in sorted(source.iterdir()):
        if path.suffix in (".png", ".jpg"):
            shutil.copy(path, photos)
for name in ["astronaut", "chelsea", "coffee"]:
    picture = Image.open(photos / f"{name}.png").convert("RGB")
    picture.resize((picture.width // 2, picture.height // 2)).save(photos / "copies" / f"{name}-half.jpg", quality=70)
    picture.save(photos / "copies" / f"{name}.webp", quality=60)
whole = (photos / "rocket.jpg").read_bytes()
(photos / "broken.jpg").write_bytes(whole[: len(whole) // 2])

digits = sklearn.datasets.load_digits()
for place, (pixels, label) in enumerate(zip(digits.images, digits.target)):
    path = folder / "digits" / str(label) / f"{place:04}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pixels * (255 / 16)).astype("uint8")).save(path)
print(f"{len(list(photos.rglob('*.*')))} files in {photos}, {len(digits.target)} in {folder / 'digits'}")
