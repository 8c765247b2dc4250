"""Speed and memory of enlarging one picture, beside a peer, in one run.

    python benchmarks/inference.py [--side 128] [--rounds 5] [--compile]

The same random weights (64 features, 23 blocks: the size of ESRGAN and of Real-ESRGAN's x4plus) run through every variant;
speed does not depend on their values, so nothing is downloaded. The variants take turns, round after round, so that a
busy moment of the machine hits all of them alike; read the ratios, not the seconds. Peak memory is what one pass
adds, in a process of its own on a CPU, by PyTorch's own count on a GPU. Writes benchmarks/inference.md.
"""
import argparse
import math
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from esrdgan.generator import RRDBNet
from esrdgan.inference import upscale

HERE = Path(__file__).resolve().parent
OURS = {"ours, fp32": dict(precision="fp32"), "ours, bf16": dict(precision="bf16"), "ours, as picked for this device": dict(),
        "ours, fp32, tiles of 64 px": dict(precision="fp32", tile=64)}
PEER, COMPILED = "spandrel, fp32", "ours, fp32, torch.compile"


def processor():
    "The processor's name as the system gives it."
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def generator():
    "The large generator with random weights, its answers brought to 0..1."
    torch.manual_seed(0)
    model = RRDBNet().requires_grad_(False).eval()
    model.conv_last.bias.fill_(.5)
    return model


def variant(name, device):
    "A function lr -> sr on the CPU, ready to be timed."
    model = generator().to(device)
    if name == PEER:
        from spandrel import ModelLoader
        peer = ModelLoader().load_from_state_dict(model.state_dict()).to(device).eval()

        @torch.no_grad()
        def run(lr):
            return peer(lr[None].to(device))[0].cpu()
        return run
    if name == COMPILED:
        model.trunk, model.paint = torch.compile(model.trunk), torch.compile(model.paint)
        return lambda lr: upscale(model, lr, precision="fp32")
    return lambda lr: upscale(model, lr, **OURS[name])


def picture(side):
    return torch.rand(3, side, side, generator=torch.Generator().manual_seed(1))


def wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak(name, device, side):
    "Megabytes that one pass adds to the process; on a CPU this must be a fresh process."
    run, lr = variant(name, device), picture(side)
    run(lr[:, :16, :16])
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(lr)
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")                    # start the record anew: making the model had its own peak
    run(lr)
    return resident("VmHWM") - before


def resident(field):
    "Megabytes from Linux's account of this process; `getrusage` would count the parent's."
    line = next(s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith(field))
    return int(line.split()[1]) * 1024 / 1e6


def peak_elsewhere(name, side):
    "`peak` on the CPU in a process of its own; None where the system keeps no such record."
    if not sys.platform.startswith("linux"):
        return None
    done = subprocess.run([sys.executable, __file__, "--peak", name, "--side", str(side)], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def measure(names, device, side, rounds):
    "Median seconds, their ratio to the peer's (the median over rounds), peak memory, agreement with our fp32."
    runs, lr = {name: variant(name, device) for name in names}, picture(side)
    answers = {name: run(lr) for name, run in runs.items()}          # also warms up, and compiles
    seconds = {name: [] for name in names}
    for i in range(rounds):
        for name in names[i % len(names):] + names[:i % len(names)]:
            wait(device)
            start = time.perf_counter()
            runs[name](lr)
            wait(device)
            seconds[name].append(time.perf_counter() - start)
        print(f"{device.type}, round {i + 1} of {rounds}: " + ", ".join(f"{name} {seconds[name][-1]:.2f} s" for name in names), flush=True)
    rows = []
    for name in names:
        error = float((answers[name].clamp(0, 1) - answers[names[0]]).square().mean())
        rows.append(dict(name=name, seconds=statistics.median(seconds[name]),
                         ratio=statistics.median(a / b for a, b in zip(seconds[name], seconds[PEER])),
                         memory=peak(name, device, side) if device.type == "cuda" else peak_elsewhere(name, side),
                         agreement=-10 * math.log10(max(error, 1e-12))))
    return rows


def table(columns):
    "Markdown: a row per variant, four columns per device."
    head = "| |" + "".join(f" {d}: s | time / spandrel | peak MB | agreement |" for d in columns)
    lines = [head, "|---|" + "---:|" * (4 * len(columns))]
    for rows in zip(*columns.values()):
        cells = "".join(f" {r['seconds']:.2f} | {r['ratio']:.2f} | {'-' if r['memory'] is None else format(r['memory'], '.0f')} | "
                        f"{'exact to rounding' if r['agreement'] >= 100 else format(r['agreement'], '.1f') + ' dB'} |" for r in rows)
        lines.append(f"| {rows[0]['name']} |{cells}")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=128, help="side of the small picture in pixels")
    parser.add_argument("--rounds", type=int, default=5, help="how often each variant runs")
    parser.add_argument("--compile", action="store_true", help="torch.compile as well (needs a C++ compiler, and a minute)")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        return print(peak(args.peak, torch.device("cpu"), args.side))
    names = [*OURS, PEER] + [COMPILED] * args.compile
    columns = {"CPU": measure(names, torch.device("cpu"), args.side, args.rounds)}
    machine = f"{processor()}, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        columns["GPU"] = measure(names, torch.device("cuda"), args.side, args.rounds)
        machine += f"; {torch.cuda.get_device_name()}"
    text = (f"# Enlarging a {args.side} x {args.side} picture four times, 64 features, 23 blocks\n\nWritten by `benchmarks/inference.py` (`make bench`): "
            f"{machine}; PyTorch {torch.__version__}; median of {args.rounds} rounds in which the variants take turns.\n\n{table(columns)}\n\n"
            "*time / spandrel*: below 1 is faster than the peer. *peak MB*: memory that one pass adds. *agreement*: with ours in fp32 in one go. "
            "Tiles of 64 px read 32 px of context on each side: 2.25 times the pixels in a picture of 128, for the memory of one tile. "
            "Random weights hardly look beyond their neighbours; with the trained weights of x4plus, Set5's `baby` agrees to 49.7 dB between such tiles and one go, "
            "and to 48.7 dB between bf16 and fp32 (`tests/test_inference.py` asks for 45).\n")
    (HERE / "inference.md").write_text(text, encoding="utf-8")
    print("\n" + text)


if __name__ == "__main__":
    main()
