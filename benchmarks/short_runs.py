"""What matters in a PSNR training of a few minutes: one change at a time, each variant measured on the same held-out pictures.

    python benchmarks/short_runs.py FOLDER_OF_PICTURES

Starts from the settings `tiny-psnr`, shortened, with the sizes of `tour`. Variants see as many pixels as the first unless their name says otherwise.
The first runs with three seeds: differences smaller than theirs mean nothing. Each finished run is a line of benchmarks/short_runs.jsonl, which
lesson 15 reads; started again, the script makes only the runs that are missing. One thread, so that two run side by side.
"""
import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from esrdgan.build import RunPictures, build
from esrdgan.config import check_config
from esrdgan.data import Pairs, batches
from esrdgan.evaluate import Validator
from esrdgan.recipes import recipe_config
from esrdgan.train import train

RESULTS = Path(__file__).with_suffix(".jsonl")
CROPS = lambda patch, batch, steps: {"data.patch": patch, "data.batch_size": batch, "psnr.steps": steps}
SIZES = lambda features, blocks, growth: {"generator.n_features": features, "generator.n_blocks": blocks, "generator.growth": growth}
BASE = CROPS(64, 16, 800) | SIZES(24, 3, 12) | {"psnr.learning_rate": 1e-3, "psnr.warmup": 50, "tricks.ema": .99}
# what it is called, what is changed, which share of the pictures it learns from (every n-th)
VARIANTS = [
    ("as it is", {}, 1), ("as it is, seed 1", {"run.seed": 1}, 1), ("as it is, seed 2", {"run.seed": 2}, 1),
    ("64 crops of 32 px", CROPS(32, 64, 800), 1), ("4 crops of 128 px", CROPS(128, 4, 800), 1),
    ("4 crops, 4 times the steps", CROPS(64, 4, 3200), 1), ("8 crops, twice the steps", CROPS(64, 8, 1600), 1), ("64 crops, a quarter of the steps", CROPS(64, 64, 200), 1),
    ("rate 3e-4", {"psnr.learning_rate": 3e-4}, 1), ("rate 3e-3", {"psnr.learning_rate": 3e-3}, 1),
    ("rate constant", {"psnr.schedule": "constant"}, 1), ("beta2 .99", {"training.betas": (.9, .99)}, 1),
    ("no EMA", {"tricks.ema": 0.}, 1), ("rate constant, no EMA", {"psnr.schedule": "constant", "tricks.ema": 0.}, 1),
    ("L2", {"losses.pixel": "l2"}, 1), ("Charbonnier", {"losses.pixel": "charbonnier"}, 1),
    ("init scale 1", {"generator.init_scale": 1.}, 1), ("residual scales 1", {"generator.residual_scale": 1., "generator.rrdb_scale": 1.}, 1),
    ("wider, shorter: 40 features, 1 block", SIZES(40, 1, 20), 1), ("narrower, longer: 16 features, 6 blocks", SIZES(16, 6, 8), 1),
    ("1 block of growth 32", SIZES(24, 1, 32), 1),
    ("400 steps", {"psnr.steps": 400}, 1), ("1600 steps", {"psnr.steps": 1600}, 1), ("3200 steps", {"psnr.steps": 3200}, 1),
    ("1600 steps, half the pictures", {"psnr.steps": 1600}, 2), ("1600 steps, a tenth of the pictures", {"psnr.steps": 1600}, 10),
    ("3200 steps, a tenth of the pictures", {"psnr.steps": 3200}, 10),
]


def set_up(folder, changes):
    "The settings tiny-psnr with `changes`, {section.key: value}."
    config = recipe_config("tiny-psnr")
    config.data.hr = str(folder)
    for where, value in changes.items():
        section, key = where.split(".")
        setattr(getattr(config, section), key, value)
    return check_config(config)


def short_run(folder, changes, share):
    "Train and measure one variant; gives its row."
    config = set_up(folder, BASE | changes)
    state, settings, pictures = build(config, "psnr"), config.settings("psnr"), RunPictures(config)
    files = pictures.files[0][::share]
    crops = batches(Pairs(files, patch=config.data.patch), config.data.batch_size, config.run.seed)
    begin, losses = time.perf_counter(), [log.losses["pixel"] for log in train(state, crops, settings)]
    seconds, figures = time.perf_counter() - begin, Validator(pictures.valid, state.device, config.training.precision)(state.ema)[0]
    return dict(pictures=len(files), steps=settings.steps, crops=settings.steps * config.data.batch_size, seconds=round(seconds, 1),
                parameters=sum(p.numel() for p in state.generator.parameters()), last_losses=round(sum(losses[-50:]) / 50, 6)) | {k: round(v, 4) for k, v in figures.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="of large pictures; 20 of them are measured on, the rest learned from")
    folder = parser.parse_args().folder
    done = [json.loads(line)["name"] for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    for name, changes, share in VARIANTS:
        if name in done: continue
        row = dict(name=name, changes=changes) | short_run(folder, changes, share)
        with open(RESULTS, "a") as file: file.write(json.dumps(row) + "\n")
        print(f"{name:45} {row['psnr_y_crop4']:.3f} dB  {row['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
