"""How much memory does a large photograph take? Each row is a process of its own: `esrdgan use` on one picture, its peak as the system counts it.

    python benchmarks/memory.py [--size 4000x3000] [--kinds rgb,rgba,16] [--model tiny-psnr]

The pictures are made of `data/valid/cat.png` laid side by side: a JPEG (rgb), a PNG with transparency (rgba) and one of 16 bits. A row is added to
benchmarks/memory.md for each. Linux and macOS only.
"""
import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from esrdgan.image import encode_png      # noqa: E402
from inference import processor           # noqa: E402


def made(kind, width, height, folder):
    "A file of that kind and size."
    cat = np.asarray(Image.open(HERE.parent / "data" / "valid" / "cat.png").convert("RGB"))
    pixels = np.tile(cat, (height // cat.shape[0] + 1, width // cat.shape[1] + 1, 1))[:height, :width]
    path = folder / ("photo.jpg" if kind == "rgb" else "photo.png")
    if kind == "rgb":
        Image.fromarray(pixels).save(path, quality=95)
    elif kind == "rgba":
        path.write_bytes(encode_png(np.dstack([pixels, pixels[..., :1]])))
    else:
        path.write_bytes(encode_png(pixels.astype(np.uint16) * 257))
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="4000x3000")
    parser.add_argument("--kinds", default="rgb,rgba,16")
    parser.add_argument("--model", default="tiny-psnr", help="a name or a file")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    if not args.one:
        for kind in args.kinds.split(","):      # the peak of children is that of the largest so far: each kind gets a parent of its own
            subprocess.run([sys.executable, __file__, "--one", kind, "--size", args.size, "--model", args.model], check=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        path, start = made(args.one, width, height, Path(folder)), time.perf_counter()
        subprocess.run([sys.executable, "-m", "esrdgan", "use", str(path), "--out", f"{folder}/out", "--model", args.model, "--max-pixels", str(width * height)],
                       check=True, cwd=HERE.parent)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
        size = next(Path(folder, "out").iterdir()).stat().st_size / 1e6
    row = f"| {processor()} | {width} x {height} {args.one} | {Path(args.model).name} | {peak:.2f} | {seconds:.0f} | {size:.0f} |"
    with open(HERE / "memory.md", "a", encoding="utf-8") as file:
        file.write(row + "\n")
    print(row)


if __name__ == "__main__":
    main()
