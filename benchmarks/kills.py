"""A small training of both stages, killed with SIGKILL at random moments again and again, against the same training left alone.

    python benchmarks/kills.py [KILLS]      (default 100; needs a system with fork)

Each start is a process of its own that goes on with the run (`run(..., resume=True)`) and is killed after a random time, wherever it stands: while it
checks pictures, loads, steps, measures, writes a line or a checkpoint. When a run has come to its end, its last checkpoints and its logs are compared
with those of the undisturbed run, number by number, and a new run is begun, until all kills are spent. Any difference ends the program with an error.

Measured on two busy cores: 100 kills at 32 different places (a place is the checkpoint that the next start found), 11 runs that came to their end,
every number as in the run left alone; ten minutes.
"""
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import redirect_stderr
from pathlib import Path

import torch

from esrdgan.config import Config, check_config
from esrdgan.image import write_image
from esrdgan.logs import read_lines
from esrdgan.run import run
from esrdgan.state import checkpoints


def training(home):
    "60 steps of each stage, a checkpoint every third, a measurement every sixth."
    for i in range(3):
        write_image(torch.rand(3, 48, 48, generator=torch.Generator().manual_seed(i)), home / "hr" / f"{i}.png")
    config = Config()
    config.run.device, config.data.hr, config.data.hold_out = "cpu", str(home / "hr"), 1
    config.data.patch, config.data.batch_size, config.data.workers = 32, 2, 1
    config.generator.n_features, config.generator.n_blocks, config.generator.growth = 8, 1, 4
    config.discriminator.n_features, config.discriminator.n_head = 4, 8
    config.features.network, config.features.layers = "edge_vgg16_small", {2: 1.}
    config.training.precision, config.training.validate_every, config.training.save_every = "fp32", 6, 3
    config.psnr.steps = config.gan.steps = 60
    config.tricks.ema, config.tricks.label_noise, config.tricks.instance_noise = .9, .05, .1
    return check_config(config)


def start(config, folder):
    "Go on with the run in a process of its own; its number."
    pid = os.fork()
    if pid: return pid
    status = 1
    try:
        with open(folder.with_suffix(".said"), "a") as said, redirect_stderr(said):
            try: run(config, folder, resume=True)
            except BaseException: traceback.print_exc(); raise
        status = 0
    finally: os._exit(status)


def stands(folder):
    "Where a killed run would go on."
    for stage in ("gan", "psnr"):
        if found := checkpoints(folder / stage): return f"{stage} {int(found[0].stem[5:])}"
    return "nothing yet"


def flat(x):
    if isinstance(x, dict): return [y for k in sorted(x, key=str) for y in (str(k), *flat(x[k]))]
    if isinstance(x, (list, tuple)): return [y for v in x for y in flat(v)]
    return [x]


def differ(a, b):
    "The first thing in which two finished runs differ; '' for none."
    for stage in ("psnr", "gan"):
        if read_lines(a / stage / "log.jsonl") != read_lines(b / stage / "log.jsonl"): return f"{stage}/log.jsonl"
        for name in (checkpoints(a / stage)[0].name, "best.pt"):
            x, y = (flat(torch.load(folder / stage / name, weights_only=True)) for folder in (a, b))
            if len(x) != len(y) or not all(torch.equal(p, q) if isinstance(p, torch.Tensor) else p == q for p, q in zip(x, y)): return f"{stage}/{name}"
    return ""


def main(kills):
    torch.set_num_threads(1)
    draw, begin = random.Random(0), time.time()
    with tempfile.TemporaryDirectory() as home:
        home = Path(home)
        os.environ["ESRDGAN_CACHE"] = str(home / "cache")
        config, alone = training(home), home / "alone"
        began = time.time()
        assert os.waitpid(start(config, alone), 0)[1] == 0, alone.with_suffix(".said").read_text()
        whole = time.time() - began
        done, runs, starts, where = 0, 0, 0, Counter()
        while done < kills:
            folder = home / f"run{runs}"
            while True:
                pid, starts = start(config, folder), starts + 1
                time.sleep(draw.uniform(0, .3 * whole))
                ended, status = os.waitpid(pid, os.WNOHANG)
                if not ended:
                    os.kill(pid, signal.SIGKILL)
                    status = os.waitpid(pid, 0)[1]
                if os.WIFSIGNALED(status):
                    done += 1
                    where[stands(folder)] += 1
                    if done == kills:       # the last run is left alone from here
                        assert os.waitpid(start(config, folder), 0)[1] == 0, folder.with_suffix(".said").read_text()
                        break
                else:
                    assert status == 0, folder.with_suffix(".said").read_text()
                    break
            assert not (wrong := differ(alone, folder)), f"{folder.name}: {wrong} is not what the undisturbed run has"
            runs += 1
    print(f"{kills} kills at {len(where)} different places, {starts} starts, {runs} runs that came to their end: every number as in the run left alone "
          f"({whole:.1f} s alone, {time.time() - begin:.0f} s in all)")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
