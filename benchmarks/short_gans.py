"""What matters in a GAN stage of a few minutes: one change at a time, three seeds each, measured on the same held-out pictures.

    python benchmarks/short_gans.py FOLDER_OF_PICTURES [--shard 0/2]

Starts from the weights `tiny-psnr` and from the settings in BASE. Each finished run is a line of benchmarks/short_gans.jsonl;
started again, the script makes only the runs that are missing. One thread; --shard 0/2 and 1/2 share the work between two processes.
"""
import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from esrdgan.build import RunPictures, build
from esrdgan.evaluate import back_projection, resize8
from esrdgan.image import mod_crop, quantize, read_image
from esrdgan.inference import upscale
from esrdgan.metrics import psnr_y_crop4
from esrdgan.perception import load_lpips
from esrdgan.resize import imresize
from esrdgan.train import train

from short_runs import set_up

RESULTS = Path(__file__).with_suffix(".jsonl")
DEPTHS = {2: .1, 7: .1, 14: 1., 21: 1., 28: 1.}         # VGG-16's conv1_2, 2_2, 3_3, 4_3, 5_3, weighed as Real-ESRGAN weighs VGG-19's
BASE = {"generator.start_from": "tiny-psnr", "psnr.steps": 0, "gan.steps": 400, "gan.learning_rate": 1e-4, "gan.d_learning_rate": 1e-4, "gan.schedule": "constant",
        "gan.milestones": (), "gan.pixel_weight": 1., "gan.perceptual_weight": 1., "gan.adversarial_weight": .1, "data.patch": 96, "data.batch_size": 4,
        "discriminator.n_features": 32, "features.network": "vgg16", "features.layers": DEPTHS, "training.betas": (.9, .99), "tricks.ema": .99}
VARIANTS = {
    "as it is": {},
    "no adversarial loss": {"gan.adversarial_weight": 0.}, "adversarial / 5": {"gan.adversarial_weight": .02}, "adversarial x 5": {"gan.adversarial_weight": .5},
    "not relativistic": {"losses.adversarial": "vanilla"}, "relativistic, R1 and R2": {"losses.adversarial": "relativistic", "gan.r1": 1., "gan.r2": 1.},
    "deepest layer only": {"features.layers": {28: 1.}}, "edge features": {"features.network": "edge_vgg16_small", "features.layers": {2: .1, 7: .1, 14: 1.}},
    "pixel / 100": {"gan.pixel_weight": .01}, "D four times as fast": {"gan.d_learning_rate": 4e-4},
    "U-Net judge": {"discriminator.kind": "unet"}, "real labels .9": {"tricks.smooth_real": .1},
    "noise on what D sees": {"tricks.instance_noise": .1, "tricks.instance_noise_steps": 400},
    "from new weights": {"generator.start_from": ""},
}


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


def short_run(folder, changes, seed):
    "Train and measure one variant; gives its row."
    config = set_up(folder, BASE | changes | {"run.seed": seed})
    state, settings, pictures = build(config, "gan"), config.settings("gan"), RunPictures(config)
    begin, logs = time.perf_counter(), [(log.losses, log.values) for log in train(state, pictures.batches(state), settings)]
    last = logs[-50:]
    gap = sum(values["d_real"] - values["d_fake"] for _, values in last if "d_real" in values) / len(last)
    return dict(steps=settings.steps, seconds=round(time.perf_counter() - begin, 1), logit_gap=round(gap, 4)) | measure(state.ema, pictures.files[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="of large pictures; 20 of them are measured on, the rest learned from")
    parser.add_argument("--shard", default="0/1", help="which part of the runs, such as 0/2")
    args = parser.parse_args()
    part, parts = map(int, args.shard.split("/"))
    for i, (seed, name) in enumerate((seed, name) for seed in (0, 1, 2) for name in VARIANTS):
        done = [(r["name"], r["seed"]) for r in map(json.loads, RESULTS.read_text().splitlines())] if RESULTS.exists() else []
        if i % parts != part or (name, seed) in done: continue
        row = dict(name=name, seed=seed) | short_run(args.folder, VARIANTS[name], seed)
        with open(RESULTS, "a") as file: file.write(json.dumps(row) + "\n")
        print(f"{name:25} seed {seed}  {row}", flush=True)


if __name__ == "__main__":
    main()
