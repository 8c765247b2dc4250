"""Which tricks help a short GAN stage: each off against on, five seeds each, measured on data/valid.

    python benchmarks/ablations.py [--shard 0/2]

The base run is the healthy run of lesson 14's lab: tiny-psnr, 300 steps, four crops of 48 px. A variant changes one thing in it (VARIANTS), or in
another variant where that is the fair comparison (AGAINST). Each finished run is a line of benchmarks/ablations.jsonl; started again, the script makes
only the runs that are missing. One thread; --shard 0/2 and 1/2 share the work between two processes. Lesson 14 reads the file.
"""
import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from esrdgan.build import build
from esrdgan.data import Pairs, batches
from esrdgan.evaluate import back_projection, resize8
from esrdgan.image import mod_crop, quantize, read_image
from esrdgan.inference import upscale
from esrdgan.metrics import psnr_y_crop4
from esrdgan.perception import load_lpips
from esrdgan.resize import imresize
from esrdgan.train import train
from esrdgan.weights import load_generator

from short_runs import set_up

HERE = Path(__file__).parent
RESULTS, TRAIN, VALID = HERE / "ablations.jsonl", HERE.parent / "data" / "train", HERE.parent / "data" / "valid"
TEXTURED = "brick bridge dune1 dune2 forest1 forest2 grass gravel hills1 hills2 hills3 leaf meadow1 stream1 stream2 stream3 stream4 thicket1 thicket2 thicket3"
BASE = {"generator.start_from": "tiny-psnr", "psnr.steps": 0, "gan.steps": 300, "gan.learning_rate": 5e-4, "gan.d_learning_rate": 5e-4, "gan.schedule": "cosine",
        "gan.milestones": (), "gan.warmup": 0, "gan.pixel_weight": 10., "gan.perceptual_weight": 1., "gan.consistency_weight": 0., "gan.adversarial_weight": .1,
        "data.patch": 48, "data.batch_size": 4, "discriminator.n_features": 32, "features.network": "edge_vgg16_small", "features.layers": {},
        "losses.adversarial": "relativistic_average", "training.betas": (.9, .99), "tricks.ema": .98}
NEW = {"generator.start_from": "", "gan.steps": 600}
VARIANTS = {
    "as it is": {},
    "no D": {"gan.adversarial_weight": 0.}, "no perceptual loss": {"gan.perceptual_weight": 0.}, "no EMA": {"tricks.ema": 0.}, "constant rates": {"gan.schedule": "constant"},
    "vanilla loss": {"losses.adversarial": "vanilla"}, "paired relativistic loss": {"losses.adversarial": "relativistic"},
    "no norm in D": {"discriminator.norm": "none"}, "instance norm in D": {"discriminator.norm": "instance"}, "spectral norm in D": {"discriminator.norm": "spectral"},
    "no norm, R1": {"discriminator.norm": "none", "gan.r1": 1.}, "no norm, R1 and R2": {"discriminator.norm": "none", "gan.r1": 1., "gan.r2": 1.},
    "two D steps for one of G": {"tricks.d_steps": 2}, "D four times as fast": {"gan.d_learning_rate": 2e-3}, "D four times as slow": {"gan.d_learning_rate": 1.25e-4},
    "LR noise .02": {"tricks.lr_noise": .02}, "real labels .9": {"tricks.smooth_real": .1}, "labels .9 and .1": {"tricks.smooth_real": .1, "tricks.smooth_fake": .1},
    "label noise .1": {"tricks.label_noise": .1}, "flips .1": {"tricks.flip": .1}, "instance noise .1, fading": {"tricks.instance_noise": .1, "tricks.instance_noise_steps": 300},
    "new weights, 600 GAN steps": NEW, "new weights, 300 PSNR and 300 GAN steps": NEW,
    "three perceptual layers": {"features.layers": {2: .1, 7: .1, 14: 1.}}, "clip 1": {"tricks.clip": 1.}, "consistency 20": {"gan.consistency_weight": 20.},
    "U-Net as D": {"discriminator.kind": "unet", "discriminator.n_features": 16},
    "adversarial x 3": {"gan.adversarial_weight": .3}, "adversarial / 3": {"gan.adversarial_weight": .033}, "pixel / 10": {"gan.pixel_weight": 1.},
    "saturating loss": {"losses.adversarial": "saturating"},
}
AGAINST = {"no norm, R1": "no norm in D", "no norm, R1 and R2": "no norm in D", "new weights, 600 GAN steps": "new weights, 300 PSNR and 300 GAN steps"}   # all others: "as it is"
START = "tiny-psnr, the start"      # measured once, as it is
PSNR_FIRST = {"new weights, 300 PSNR and 300 GAN steps": 300}       # steps with the pixel loss alone


@torch.no_grad()
def measure(generator, files):
    "Means over the pictures: decibels, LPIPS, agreement with the small picture in decibels, shift of the mean colour in 1/255."
    lpips, rows = load_lpips(), []
    for path in files:
        hr = mod_crop(read_image(path), 4)
        lr = resize8(hr, 1 / 4)
        sr = quantize(upscale(generator, lr))
        shift = (imresize(sr, 1 / 4) - lr).mean((1, 2)).abs().max().item() * 255
        rows.append((psnr_y_crop4(sr, hr), lpips(sr[None], hr[None]).item(), back_projection(sr, lr), shift))
    return {k: round(sum(column) / len(rows), 4) for k, column in zip(("psnr_y_crop4", "lpips", "back_projection", "shift"), zip(*rows))}


def ablation(name, seed):
    "Train and measure one variant; gives its row."
    valid = sorted(VALID.glob("*.png"))
    if name == START: return dict(steps=0, seconds=0., logit_gap=0.) | measure(load_generator("tiny-psnr"), valid)
    config = set_up(TRAIN, BASE | VARIANTS[name] | {"run.seed": seed})
    state, settings = build(config, "gan"), config.settings("gan")
    crops = batches(Pairs([TRAIN / f"{x}.jpg" for x in TEXTURED.split()], patch=config.data.patch), config.data.batch_size, seed)
    weights, alone = (settings.adversarial_weight, settings.perceptual_weight), PSNR_FIRST.get(name, 0)
    if alone: settings.adversarial_weight = settings.perceptual_weight = 0.
    begin, gaps = time.perf_counter(), []
    for log in train(state, crops, settings):
        if log.step == alone: settings.adversarial_weight, settings.perceptual_weight = weights      # read at the next step
        if log.step > settings.steps - 50 and "d_real" in log.values: gaps.append(log.values["d_real"] - log.values["d_fake"])
    seconds = round(time.perf_counter() - begin, 1)
    return dict(steps=settings.steps, precision=str(state.precision).removeprefix("torch."), seconds=seconds, logit_gap=round(sum(gaps) / max(len(gaps), 1), 4)) | measure(state.ema, valid)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shard", default="0/1", help="which part of the runs, such as 0/2")
    part, parts = map(int, parser.parse_args().shard.split("/"))
    for i, (name, seed) in enumerate([(START, 0), *((name, seed) for name in VARIANTS for seed in range(5))]):
        done = [(r["name"], r["seed"]) for r in map(json.loads, RESULTS.read_text().splitlines())] if RESULTS.exists() else []
        if i % parts != part or (name, seed) in done: continue
        row = dict(name=name, against=AGAINST.get(name, "as it is"), seed=seed) | ablation(name, seed)
        with open(RESULTS, "a") as file: file.write(json.dumps(row) + "\n")
        print(f"{name:40} seed {seed}  {row}", flush=True)


if __name__ == "__main__":
    main()
