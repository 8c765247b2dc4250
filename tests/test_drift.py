"""What must not drift apart: the command's options and the texts that tell of them; today's files and tomorrow's readers (tests/release)."""
import argparse
import json
import os
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
import torch

import lessons
from esrdgan import cli
from esrdgan.config import config_text, read_config
from esrdgan.discriminator import VGGDiscriminator
from esrdgan.generator import RRDBNet
from esrdgan.inference import PRECISIONS
from esrdgan.logs import read_lines
from esrdgan.recipes import RECIPES
from esrdgan.state import State, load
from esrdgan.weights import WEIGHTS, load_generator

RELEASE = Path(__file__).parent / "release"
OPTION = r"(?<![\w-])--[a-z][a-z-]*(?![\w-])"
OTHERS = {"--nproc_per_node", "--notebook-dir", "--version"}     # of torchrun, of Jupyter, of `esrdgan` itself


def commands():
    "{command: its long options}"
    top = cli.parser()
    [sub] = [a for a in top._actions if isinstance(a, argparse._SubParsersAction)]
    return {name: {o for a in p._actions for o in a.option_strings if o.startswith("--")} for name, p in sub.choices.items()}


def told(path):
    "A page's text; of a notebook the prose and the code that is not exported, for what defines an option does not tell of it."
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    cells = [("".join(c["source"])) for c in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    return "\n".join(text for text in cells if not text.startswith("#| export"))


def untold(options, text):
    return options - set(re.findall(OPTION, text)) - {"--help"}


def invented(known, text):
    "Options that a text gives to `esrdgan COMMAND` on one line, or names in backticks, and that do not exist."
    wrong = []
    for line in text.splitlines():
        line = line.split("#")[0] if "esrdgan " in line else line
        for command, rest in re.findall(r"esrdgan ([a-z][a-z-]*)((?: +[^\s;&|`]+)*)", line):
            if command in known:
                wrong += [f"{command} {o}" for o in set(re.findall(OPTION, rest)) - known[command]]
    wrong += [o for code in re.findall(r"`(--[^`\n]*)`", text) for o in set(re.findall(OPTION, code)) - set().union(*known.values()) - OTHERS]
    return wrong


@pytest.mark.parametrize("command", commands())
def test_every_option_is_told_of(command):
    "In README.md (made from nbs/index.ipynb) or in the room `cli`."
    text = told(lessons.ROOT / "README.md") + told(lessons.NBS / "tool" / "cli.ipynb")
    assert not untold(commands()[command], text), "tell of them in nbs/index.ipynb, 'The command line'"


def test_the_parser_knows_what_the_modules_know():
    "It repeats a few of their words, for it must not wait for PyTorch."
    [precision] = [a for a in cli._running()._actions if a.dest == "precision"]
    assert precision.choices == ["auto", *PRECISIONS]
    assert cli._KNOWN.split(", ") == [*RECIPES] and {cli.RECIPE, "esrgan"} <= {*RECIPES}
    assert {cli.MODEL, cli.FAITHFUL, cli.REAL} <= {*WEIGHTS}


def test_help_and_the_package_itself_do_not_wait_for_pytorch():
    "Modules imported, not seconds: a clock would measure the machine."
    heavy = ("torch", "torchvision", "numpy", "matplotlib", "PIL", "tqdm")
    for code in ("import esrdgan", "from esrdgan.cli import main; main(['--help'])", "from esrdgan.cli import main; main(['use'])", "from esrdgan.cli import main; main(['train', '--help'])"):
        script = f"{code}\nimport sys; print([m for m in {heavy} if m in sys.modules])"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=dict(os.environ, PYTHONPATH=str(lessons.ROOT)))
        assert done.stdout.splitlines()[-1] == "[]", (code, done.stdout[-200:], done.stderr[-400:])


PAGES = [lessons.ROOT / "README.md", lessons.ROOT / "CONTRIBUTING.md", *sorted((lessons.ROOT / "weights").glob("*.md")), *lessons.lessons()]


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_every_option_told_of_exists(path):
    assert not invented(commands(), told(path))


def test_a_planted_option_is_noticed():
    known = {"use": {"--out", "--tile"}, "test": {"--hr"}}
    assert untold({"--out", "--tiles", "--help"}, "esrdgan use --out x --tile 3") == {"--tiles"}
    assert invented(known, "esrdgan use a.png --tile 3 --hr x  # --fast\nesrdgan test --hr y; use `--out` or `--quick 3`") == ["use --hr", "--quick"]


# Files of release 0.1, kept for ever: made by `esrdgan train` (2 steps of each stage on data/train, 4 features) and `save_generator`.

NETWORK = dict(n_features=4, n_blocks=1, growth=2, scale=4, n_dense=1)


@pytest.mark.parametrize("name", ["checkpoint.pt", "generator.safetensors"])
def test_a_released_network_computes_what_it_did(name):
    model = load_generator(RELEASE / name)
    assert NETWORK.items() <= model.config.items()
    with torch.inference_mode():
        y = model(torch.linspace(0, 1, 3 * 6 * 5).reshape(1, 3, 6, 5))
    assert y.mean().item() == pytest.approx(.0163189, abs=1e-5) and y[0, :, 3, 4].tolist() == pytest.approx([.1457949, -.0519626, -.0542767], abs=1e-5)


def test_a_released_training_goes_on():
    state = State(RRDBNet(**NETWORK), VGGDiscriminator(2, 32, n_head=32), seed=5)
    load(state, RELEASE / "checkpoint.pt")
    assert (state.step, state.seed, state.config["run"]["name"]) == (2, 0, "release")
    assert all(torch.equal(v, load_generator(RELEASE / "checkpoint.pt").state_dict()[k]) for k, v in state.ema.state_dict().items())
    assert len(state.opt_g.state_dict()["state"]) == len(list(state.generator.parameters()))


def test_released_settings_mean_what_they_meant():
    config = read_config(RELEASE / "config.ini")
    saved = torch.load(RELEASE / "checkpoint.pt", weights_only=True)["config"]
    assert not config.warnings and (config.data.hr, config.gan.steps, config.discriminator.n_features) == ("data/train", 2, 2)
    then, now = ConfigParser(interpolation=None), ConfigParser(interpolation=None)
    then.read(RELEASE / "config.ini", encoding="utf-8")
    now.read_string(config_text(config))
    assert all(now[section][key] == value for section in then.sections() for key, value in then[section].items())
    assert saved["generator"]["n_features"] == 4


def test_a_released_log_is_read():
    rows = read_lines(RELEASE / "log.jsonl")
    assert [r["step"] for r in rows] == [1, 2] and {"pixel", "adversarial_d", "gradient_g", "psnr_y_crop4", "lpips"} <= rows[-1].keys()
