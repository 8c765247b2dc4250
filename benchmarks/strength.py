"""What lies between two networks: PSNR, LPIPS, agreement and colours along --strength, for both sizes.

    python benchmarks/strength.py FOLDER_WITH_Set5_AND_Set14

Each line of benchmarks/strength.jsonl is one picture at one strength, computed in fp32; bicubic has a line of its own per picture.
Started again, the script makes only the lines that are missing.
"""
import argparse
import json
from pathlib import Path

import torch

from esrdgan.evaluate import back_projection, read_pair, resize8
from esrdgan.image import list_pictures, quantize
from esrdgan.inference import upscale
from esrdgan.metrics import psnr_y_crop4
from esrdgan.perception import lpips
from esrdgan.resize import imresize
from esrdgan.weights import load_between

RESULTS = Path(__file__).with_suffix(".jsonl")
STRENGTHS = [0., .2, .4, .6, .8, 1.]


def measure(sr, hr, lr):
    "The four figures of one picture; shift: the largest move of a channel's mean, in 1/255."
    shift = (imresize(sr, 1 / 4) - lr).mean((1, 2)) * 255
    return dict(psnr_y_crop4=psnr_y_crop4(sr, hr), lpips=lpips(sr, hr), back_projection=back_projection(sr, lr), shift=shift.abs().max().item())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="with Set5 and Set14, each with HR and LRbicx4")
    sets = {name: (parser.parse_args().folder / name / "HR", parser.parse_args().folder / name / "LRbicx4") for name in ("Set5", "Set14")}
    sets["data/valid"] = Path(__file__).parent.parent / "data" / "valid", None
    done = [tuple(json.loads(line)[k] for k in ("model", "strength", "set", "image")) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    for model, strength in [("bicubic", 0.)] + [(m, s) for m in ("tiny", "mini") for s in STRENGTHS]:
        network = None if model == "bicubic" else load_between(f"{model}-gan", strength)
        for name, (hrs, lrs) in sets.items():
            for path in list_pictures(hrs):
                if (model, strength, name, path.stem) in done: continue
                small = None if lrs is None else next(p for p in list_pictures(lrs) if p.stem.startswith(path.stem))
                hr, lr = read_pair(path, small, 4)
                with torch.inference_mode(): sr = resize8(lr, 4) if network is None else quantize(upscale(network, lr, precision="fp32"))
                row = dict(model=model, strength=strength, set=name, image=path.stem) | {k: round(v, 5) for k, v in measure(sr, hr, lr).items()}
                with open(RESULTS, "a") as file: file.write(json.dumps(row) + "\n")
        print(model, strength, flush=True)


if __name__ == "__main__":
    main()
