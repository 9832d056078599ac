"""Makes the images of this folder, and what NumPy finds in the pixels that Pillow decodes: expected.json.

    pip install pillow numpy
    python3 test/tools/images/make.py && npm run format
"""

import json
import pathlib

import numpy as np
from PIL import Image

folder = pathlib.Path(__file__).parent
rng = np.random.default_rng(20)


def smooth(height, width, channels):
    """Returns an image with large areas, so that JPEG and WebP keep most of it."""
    small = rng.integers(0, 256, (3, 4, channels), dtype=np.uint8)
    bands = [Image.fromarray(small[:, :, c]).resize((width, height), Image.BILINEAR) for c in range(channels)]
    return np.stack([np.asarray(band) for band in bands], axis=-1)


rgb = Image.fromarray(smooth(21, 30, 3))
grey = Image.fromarray(smooth(17, 19, 1)[:, :, 0])
alpha = Image.fromarray(np.concatenate([smooth(9, 14, 3), smooth(9, 14, 1)], axis=-1), "RGBA")
deep = Image.fromarray(rng.integers(0, 65536, (8, 9), dtype=np.uint16))

rgb.save(folder / "rgb.jpg", quality=80)  # 4:2:0
rgb.save(folder / "progressive.jpg", quality=60, progressive=True, subsampling=0)
grey.save(folder / "grey.jpg", quality=80)
rgb.convert("CMYK").save(folder / "cmyk.jpg", quality=60)
rgb.save(folder / "rgb.png")
grey.save(folder / "grey.png")
alpha.save(folder / "alpha.png")
rgb.quantize(16).save(folder / "palette.png")
deep.save(folder / "deep.png")
rgb.save(folder / "lossy.webp", quality=70)
alpha.save(folder / "alpha.webp", lossless=True, exact=True)
rgb.save(folder / "lossless.webp", lossless=True)
rgb.save(folder / "animation.webp", save_all=True, append_images=[rgb.rotate(90)])

expected = {}
for path in sorted(folder.iterdir()):
    if path.suffix not in {".jpg", ".png", ".webp"} or path.stem in {"cmyk", "animation"}:
        continue
    image = Image.open(path)
    if path.stem == "deep":
        pixels = np.asarray(image).astype(np.float64)[:, :, None] / 65535
    else:
        image = image.convert("L" if image.mode == "L" else "RGB")
        pixels = np.atleast_3d(np.asarray(image)).astype(np.float64) / 255
    expected[path.name] = {
        "mean": pixels.mean(axis=(0, 1)).tolist(),
        "std": pixels.std(axis=(0, 1)).tolist(),
        "count": pixels.shape[0] * pixels.shape[1],
    }
(folder / "expected.json").write_text(json.dumps(expected, indent=2) + "\n")
