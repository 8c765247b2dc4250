"""A folder of photographs, four times larger: seconds a picture, whole process, beside the same network as users of other tools run it.

    python benchmarks/folder.py [--count 50] [--model mini-gan] [--size 1152x864]

The photographs are those of `data/train`, brought to 1 megapixel each. Three processes, one after the other, each from its start to its last file:
`esrdgan use`; a loop over the pictures with spandrel, as its README shows it; the same loop with ONNX Runtime on the file that `esrdgan export` writes.
All three have the same weights, and read and write PNG. A peer that runs out of memory is named as such. Adds a table to benchmarks/folder.md. Linux and macOS only.
"""
import argparse
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import torch
from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from esrdgan.weights import load_generator, save_generator     # noqa: E402
from inference import processor        # noqa: E402

LOOP = """
import sys
from pathlib import Path
import numpy as np
from PIL import Image
{load}
for path in sorted(Path(sys.argv[1]).iterdir()):
    pixels = np.asarray(Image.open(path).convert("RGB"), np.float32).transpose(2, 0, 1)[None] / 255
    answer = enlarge(pixels)[0].clip(0, 1)
    Image.fromarray((answer.transpose(1, 2, 0) * 255).round().astype(np.uint8)).save(Path(sys.argv[2]) / path.name)
"""
SPANDREL = """
import torch
from spandrel import ModelLoader
model = ModelLoader().load_from_file(sys.argv[3]).eval()
def enlarge(pixels):
    with torch.inference_mode(): return model(torch.from_numpy(pixels)).numpy()
"""
ONNX = """
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[3], providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name
def enlarge(pixels): return session.run(None, {name: pixels})[0]
"""


def photographs(folder, count, size):
    "So many different pictures of that size."
    sources = sorted((HERE.parent / "data" / "train").glob("*.jpg"))
    for i in range(count):
        with Image.open(sources[i % len(sources)]) as picture:
            picture = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        if i // len(sources) % 2: picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if i // len(sources) // 2 % 2: picture = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        picture.save(folder / f"{i:03}.png")


def timed(command):
    "(seconds, GB at its peak, last line of what it said) of a process."
    code = f"import subprocess, sys, resource; p = subprocess.run({command!r}); print('PEAK', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(p.returncode)"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    seconds = time.perf_counter() - start
    peak = int(done.stdout.split("PEAK")[-1]) * (1 if sys.platform == "darwin" else 1024) / 1e9
    if done.returncode: return None, peak, (done.stderr.strip().splitlines() or ["killed"])[-1][:90]
    return seconds, peak, ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=50, help="photographs")
    parser.add_argument("--model", default="mini-gan", help="a name or a file")
    parser.add_argument("--size", default="1152x864", help="of each photograph")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pictures = folder / "in"
        pictures.mkdir()
        photographs(pictures, args.count, tuple(int(n) for n in args.size.split("x")))
        weights, graph = folder / "model.safetensors", folder / "model.onnx"
        save_generator(load_generator(args.model), weights)
        subprocess.run([sys.executable, "-m", "esrdgan", "export", str(weights), "--out", str(graph)], check=True, capture_output=True, cwd=HERE.parent)
        ours = [sys.executable, "-m", "esrdgan", "use", str(pictures), "--model", args.model, "--format", "png"]
        variants = {"esrdgan use": [*ours, "--out"], "esrdgan use --precision fp32": [*ours, "--precision", "fp32", "--out"],
                    "spandrel": [sys.executable, "-c", LOOP.replace("{load}", SPANDREL), str(pictures)],
                    "ONNX Runtime": [sys.executable, "-c", LOOP.replace("{load}", ONNX), str(pictures)]}
        for name, command in variants.items():
            out = folder / name.replace(" ", "_")
            out.mkdir()
            command = [*command, str(out)] + ([str(weights if name == "spandrel" else graph)] if not name.startswith("esrdgan") else [])
            seconds, peak, why = timed(command)
            assert seconds is None or len(list(out.glob("*.png"))) == args.count, f"{name}: a picture is missing"
            rows.append((name, seconds, peak, why))
            print(name, "failed: " + why if seconds is None else f"{seconds / args.count:.1f} s a picture", f"{peak:.1f} GB", flush=True)
    base = dict((name, seconds) for name, seconds, _, _ in rows)["spandrel"]
    lines = ["", f"## {processor()}, {torch.get_num_threads()} threads, {date.today()}", "", f"{args.count} photographs of {args.size}, {args.model}.", "",
             "| | seconds a picture | times as fast as spandrel | GB |", "|---|---|---|---|"]
    for name, seconds, peak, why in rows:
        if seconds is None: lines.append(f"| {name} | failed: {why} | | {peak:.1f} |")
        else: lines.append(f"| {name} | {seconds / args.count:.1f} | {f'{base / seconds:.2f}' if base else ''} | {peak:.1f} |")
    print("\n".join(lines))
    with open(HERE / "folder.md", "a", encoding="utf-8") as file: file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
