"""Speed of a training step, beside the papers' code written straightforwardly, in one run.

    python benchmarks/training.py [--rounds 5] [--features 64] [--blocks 4] [--crops 8] [--patch 128] [--curves 300]

One step of each player: 8 crops of 128 px, a generator of 64 features and 4 blocks, the VGG-style discriminator, conv5_4 of VGG-19, the relativistic average loss. Weights are random:
speed does not depend on their values. `straightforward` is what one writes from the papers: float32, the usual memory layout, all of D and VGG in both steps. The variants take turns,
round after round; read the ratios. `data` is how long the trainer would wait for its crops. Adds a table to benchmarks/training.md. `--curves 300` trains fp32, bf16 and fp32 with another
seed for so many steps and gives the mean losses of each.
"""
import argparse
import statistics
import sys
import time
from datetime import date
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torchvision import models

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from esrdgan.data import Pairs, batches               # noqa: E402
from esrdgan.degrade import PRESETS, degrade          # noqa: E402
from esrdgan.discriminator import VGGDiscriminator    # noqa: E402
from esrdgan.features import FeatureNet               # noqa: E402
from esrdgan.generator import RRDBNet                 # noqa: E402
from esrdgan.inference import pick_device, pick_precision     # noqa: E402
from esrdgan.state import State                       # noqa: E402
from esrdgan.train import Settings, train             # noqa: E402
from inference import processor, wait                 # noqa: E402

MEAN, STD = (.485, .456, .406), (.229, .224, .225)
WEIGHTS = dict(pixel_weight=.01, perceptual_weight=1., adversarial_weight=.005)


def players(args):
    "G, D and the trunk of VGG-19, the same for the same sizes."
    torch.manual_seed(0)
    return RRDBNet(args.features, args.blocks), VGGDiscriminator(patch=args.patch), models.vgg19(weights=None).features[:35]


def straightforward(args, device, crops):
    "The step of the papers' code, as one writes it down; float32."
    g, d, vgg = (network.to(device) for network in players(args))
    for module in vgg:
        if isinstance(module, nn.ReLU): module.inplace = False
    vgg.eval().requires_grad_(False)
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (MEAN, STD))
    opt_g, opt_d = torch.optim.Adam(g.parameters(), 1e-4), torch.optim.Adam(d.parameters(), 1e-4)
    bce = F.binary_cross_entropy_with_logits

    def step():
        lr, hr = (x.to(device) for x in next(crops))
        sr = g(lr)
        for p in d.parameters(): p.requires_grad_(False)
        real, fake = d(hr).detach(), d(sr)
        adversarial = (bce(real - fake.mean(), torch.zeros_like(real)) + bce(fake - real.mean(), torch.ones_like(fake))) / 2
        perceptual = F.l1_loss(vgg((sr - mean) / std), vgg((hr - mean) / std).detach())
        loss = WEIGHTS["pixel_weight"] * F.l1_loss(sr, hr) + WEIGHTS["perceptual_weight"] * perceptual + WEIGHTS["adversarial_weight"] * adversarial
        opt_g.zero_grad()
        loss.backward()
        opt_g.step()
        for p in d.parameters(): p.requires_grad_(True)
        real, fake = d(hr), d(sr.detach())
        loss = (bce(real - fake.mean(), torch.ones_like(real)) + bce(fake - real.mean(), torch.zeros_like(fake))) / 2
        opt_d.zero_grad()
        loss.backward()
        opt_d.step()
    return step


def made(args, device, precision, seed=0):
    "Our players, in `precision`."
    g, d, vgg = players(args)
    features = FeatureNet(vgg, {34: 1.}, MEAN, STD).to(device, memory_format=torch.channels_last)
    features.trunk.to(precision)            # as `build` does
    return State(g.to(device), d.to(device), features, seed=seed, precision=precision)


def ours(args, device, crops, precision, **weights):
    "One step of the trainer."
    run = train(made(args, device, precision), crops, Settings(steps=10**9, learning_rate=1e-4, d_learning_rate=1e-4, **weights))
    return lambda: next(run)


def endless(args):
    "Crops that are there already: the step alone is timed."
    generator = torch.Generator().manual_seed(0)
    hr = torch.rand(args.crops, 3, args.patch, args.patch, generator=generator)
    while True: yield F.avg_pool2d(hr, 4), hr


def data_speed(args, change=None, n=10):
    "Seconds that a batch takes to make, without workers."
    crops = batches(Pairs(HERE.parent / "data" / "train", patch=args.patch, degrade=change), args.crops, 0)
    next(crops)
    start = time.perf_counter()
    for _ in range(n): next(crops)
    return (time.perf_counter() - start) / n


def curves(args, device):
    "Mean losses of the last half: fp32, bf16, and fp32 with other crops. Rows of a table, and the names of its columns."
    def losses(precision, seed):
        crops = batches(Pairs(HERE.parent / "data" / "train", patch=args.patch), args.crops, seed)
        run = train(made(args, device, precision, seed), crops, Settings(steps=args.curves, learning_rate=1e-4, d_learning_rate=1e-4, **WEIGHTS))
        return [log.losses for log in run]
    runs = {"fp32": losses(torch.float32, 0), "bf16": losses(torch.bfloat16, 0), "fp32, other crops": losses(torch.float32, 1)}
    half = {name: {key: statistics.mean(r[key] for r in rows[len(rows) // 2:]) for key in rows[0]} for name, rows in runs.items()}
    return [f"| {key} | " + " | ".join(f"{half[name][key]:.4f}" for name in runs) + " |" for key in half["fp32"]], list(runs)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in dict(rounds=5, features=64, blocks=4, crops=8, patch=128, curves=0).items(): parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    device, peer = pick_device(), "straightforward, fp32"
    fast = pick_precision(device)
    variants = {peer: straightforward(args, device, endless(args)), "ours, fp32": ours(args, device, endless(args), torch.float32, **WEIGHTS)}
    if fast != torch.float32: variants[f"ours, {str(fast)[6:]}"] = ours(args, device, endless(args), fast, **WEIGHTS)
    pixels = {f"PSNR stage, {str(kind)[6:]}": ours(args, device, endless(args), kind, pixel_weight=1.) for kind in dict.fromkeys((torch.float32, fast))}
    variants |= pixels
    seconds = {name: [] for name in variants}
    for round in range(args.rounds + 1):                        # the first warms up
        for name in [*variants][round % len(variants):] + [*variants][:round % len(variants)]:
            wait(device)
            start = time.perf_counter()
            variants[name]()
            wait(device)
            if round: seconds[name].append(time.perf_counter() - start)
        print(f"round {round} of {args.rounds}", flush=True)
    lines = ["", f"## {processor()}, {torch.get_num_threads()} threads, {device.type}, PyTorch {torch.__version__}, {date.today()}", "",
             f"{args.crops} crops of {args.patch} px, {args.features} features, {args.blocks} blocks, VGG-19.", "", "| step | seconds | times as fast (least to most) |", "|---|---|---|"]
    for name, values in seconds.items():
        ratios = [a / b for a, b in zip(seconds[peer], values)]
        told = "" if name in pixels else f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        lines.append(f"| {name} | {statistics.median(values):.2f} | {told} |")
    step = statistics.median(seconds[[*variants][-1 - len(pixels)]])
    for name, change in {"clean": None, "preset wild": lambda hr, scale, draw: degrade(hr, scale, draw, PRESETS["wild"])}.items():
        batch = data_speed(args, change)
        lines.append(f"| data, {name} | {batch:.3f} | {args.crops / batch:,.0f} crops a second; {batch / (step + batch):.1%} of a GAN step without workers |")
    if args.curves:
        rows, names = curves(args, device)
        lines += ["", f"Losses, mean of the last half of {args.curves} steps:", "", "| loss | " + " | ".join(names) + " |", "|---|" + "---|" * len(names), *rows]
    print("\n".join(lines))
    with open(HERE / "training.md", "a", encoding="utf-8") as file: file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
