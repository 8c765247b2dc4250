"""Faulty and healthy runs for the doctor: the museum's exhibits, the trick lab's presets, and some of our own, with their logs.

    python doctor.py [--seeds 1 2 3 4 5 6]      make the runs that doctor.jsonl does not hold yet, one line each

A line holds the run's name, the cause it was made with, the seed, the settings, and the log, a list for each number (four digits).
The thresholds of the doctor were chosen on seeds 1, 2 and 4; the others test it (the room `doctor` shows the table).
"""
import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

import torch
from lessons import NBS, names_of

from esrdgan.state import TrainingError

FILE = HERE / "doctor.jsonl"
MUSEUM = {                          # the wrong pieces of the museum's second wing
    "healthy cloth": ((), "nothing wrong"),
    "D gets no gradient from fakes": (("d_loss",), "D is blind"),
    "G gets no gradient from D": (("g_loss",), "G hears nothing from D"),
    "lost fake label": (("labels",), "labels do not arrive"),
    "last layer x 100": (("start",), "D begins too loud"),
    "uniform noise": (("instance_noise",), "noise is not what was set"),
    "growing noise": (("noise_level",), "noise is not what was set"),
    "left in eval mode": (("resume",), "batch norm stands still")}
PRESETS = {
    "healthy": "nothing wrong", "D too strong": "D is far ahead", "D too weak": "learning rate too low", "no PSNR stage": "no PSNR stage",
    "noise that never decays": "noise never decays", "rates too high": "learning rate too high", "labels smoothed too much": "labels ask for nothing"}
OWN = {
    "adversarial weight 100": (dict(adversarial_weight=100.), "one loss drowns the others"),
    "pixel weight 10000": (dict(adversarial_weight=.1, pixel_weight=1e4), "one loss drowns the others"),
    "no loss but D's": (dict(adversarial_weight=1., pixel_weight=0., perceptual_weight=0.), "colour drift"),
    "both rates 1e-6": (dict(adversarial_weight=.1, learning_rate=1e-6, d_learning_rate=1e-6), "learning rate too low"),
    "rate of G 5e-3": (dict(adversarial_weight=.1, learning_rate=5e-3), "learning rate too high")}
STEPS = 100
CLOTH = "import math", "def measure(", "BROKEN = dict(", "HEALTHY = dict(", "def letters(", "def cloth(", "def labels(", "HEALTHY |= dict(", "def two_players"        # the museum's cells that its cloth needs


def columns(rows):
    "A list for each number; None where a step does not tell it."
    names = dict.fromkeys(name for row in rows for name in row if name != "seconds")
    short = {name: (lambda x: x) if name == "step" else (lambda x: float(f"{x:.4g}")) for name in names}
    return {name: [None if row.get(name) is None else short[name](row[name]) for row in rows] for name in names}


def passes(discriminator):
    "How often each batch norm of D has counted a batch; None when it has none."
    return next((m.num_batches_tracked.item() for m in discriminator.modules() if isinstance(m, torch.nn.BatchNorm2d)), None)


def museum(names, faults, seed):
    "The museum's run with these wrong pieces."
    run = names["two_players"](names["broken"](*faults), seed)
    return run["rows"], run["settings"], run["counted"][-1], "vanilla"


def preset(names, changes, seed):
    "A run of the trick lab with these controls."
    start = {name: w.value for name, w in names["CONTROLS"].items()}
    run = names["TrickRun"](**{**start, **changes, "seed": seed})
    try:
        run.step(STEPS)
    except TrainingError:
        pass
    return run.rows, run.settings, passes(run.state.discriminator), "relativistic_average"


def main(seeds):
    done = {(r["run"], r["seed"]) for r in map(json.loads, FILE.read_text().splitlines())} if FILE.exists() else set()
    with names_of(NBS / "17_bug_museum.ipynb", CLOTH) as rolls, names_of(NBS / "14_trick_lab.ipynb", ("import json", "def enlarge", "def change", "def step", "CONTROLS = ")) as lab:
        makers = {name: (cause, lambda seed, faults=faults: museum(rolls, faults, seed)) for name, (faults, cause) in MUSEUM.items()}
        makers |= {name: (cause, lambda seed, name=name: preset(lab, lab["PRESETS"][name], seed)) for name, cause in PRESETS.items()}
        makers |= {name: (cause, lambda seed, changes=changes: preset(lab, changes, seed)) for name, (changes, cause) in OWN.items()}
        for seed in seeds:
            for name, (cause, make) in makers.items():
                if (name, seed) in done or seed > 3 and name not in MUSEUM: continue      # the museum's take seconds
                rows, settings, counted, kind = make(seed)
                line = dict(run=name, cause=cause, seed=seed, adversarial=kind, passes=counted, settings=asdict(settings), log=columns(rows))
                with open(FILE, "a") as file: file.write(json.dumps(line) + "\n")
                print(name, seed, len(rows), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6])
    main(parser.parse_args().seeds)
