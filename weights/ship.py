"""From a finished run to what lies in this folder: NAME.safetensors (fp16) and NAME.jsonl, the run's log without most of its lines.

    python weights/ship.py NAME RUN_FOLDER      such as: tiny-psnr runs/tiny-psnr/psnr

Prints what the registry (the room `weights`) and the card need: size, sha256, step, and what half the bits cost.
"""
import argparse
import json
from functools import partial
from pathlib import Path

import torch

from esrdgan.evaluate import evaluate
from esrdgan.fetch import sha256
from esrdgan.inference import upscale
from esrdgan.logs import read_lines
from esrdgan.run import result
from esrdgan.weights import load_generator, save_generator

HERE = Path(__file__).resolve().parent


def kept(row):
    "The first 200 steps (what a repetition is compared with), every hundredth, and those that were measured."
    return row["step"] <= 200 or row["step"] % 100 == 0 or "psnr_y_crop4" in row


def score(model):
    "Mean PSNR of data/valid, in dB, computed in fp32."
    return evaluate(model, HERE.parent / "data" / "valid", enlarge=partial(upscale, precision="fp32")).means[-1]["psnr_y_crop4"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("folder", help="of the run's stage, with its log and its best checkpoint")
    args = parser.parse_args()
    best = result(args.folder)
    whole = load_generator(best)
    path = save_generator(whole, HERE / f"{args.name}.safetensors", half=True)
    rows = [row for row in read_lines(Path(args.folder) / "log.jsonl") if kept(row)]
    (HERE / f"{args.name}.jsonl").write_text("".join(json.dumps({k: round(v, 9) for k, v in row.items()}) + "\n" for row in rows), encoding="utf-8")
    exact, half = score(whole), score(load_generator(path))
    print(f"{path.name}: {path.stat().st_size:,} bytes, sha256 {sha256(path)}\n{best}: step {torch.load(best, weights_only=True)['step']:,}")
    print(f"data/valid: {exact:.4f} dB from fp32, {half:.4f} dB from fp16")


if __name__ == "__main__":
    main()
