"""Lesson 14's live lab without a browser: every control, every preset, taken out of the notebook as the learner has it.

Equal means equal to the last digit: both runs are made in this process, on one thread, from one seed. The signatures of the presets are
phenomena of whole stretches of training, with wide margins; each line says what was seen on three seeds (bfloat16, AVX-512).
"""
import math
from functools import cache

import pytest
import torch

from esrdgan.state import TrainingError
from lessons import NBS, names_of


@pytest.fixture(scope="module")
def lesson():
    "The lesson's names up to its controls; no lab is drawn."
    with names_of(NBS / "14_trick_lab.ipynb", ("import json", "def enlarge", "def change", "def step", "CONTROLS = ")) as names:
        yield names


@pytest.fixture(scope="module")
def begin(lesson):
    start = {name: w.value for name, w in lesson["CONTROLS"].items()}

    def begin(**changes):
        "A run with the start's values and these."
        return lesson["TrickRun"](**{**start, **changes})
    return begin


def told(run):
    "All numbers of the last step that a seed decides, and the weights of both players and the average."
    networks = run.state.generator, run.state.discriminator, run.state.ema
    return {k: v for k, v in run.rows[-1].items() if k != "seconds"}, [torch.cat([p.detach().flatten() for p in n.parameters()]) for n in networks]


def same(one, other):
    (a, x), (b, y) = told(one), told(other)
    return a == b and all(map(torch.equal, x, y))


ON = dict(adversarial_weight=.1)
NOISE = ON | dict(instance_noise=.2, instance_noise_steps=50)
# control: (what the run has before, what it is moved to); the next step has to differ
MOVES = dict(
    adversarial_weight=(ON, .3), loss=(ON, "vanilla"), pixel_weight=(ON, 2.), perceptual_weight=(ON, 0.), consistency_weight=(ON, 20.), r1=(ON, 1.), r2=(ON, 1.),
    learning_rate=(ON, 1e-4), d_learning_rate=(ON, 1e-3), d_steps=(ON, 3), schedule=(ON, "constant"), clip=(ON, .1), ema=(ON, .5), smooth_real=(ON, .2), smooth_fake=(ON, .2),
    label_noise=(ON, .3), flip=(ON, .45), instance_noise=(ON, .2), instance_noise_steps=(NOISE, 100), instance_noise_decay=(NOISE, "cosine"), lr_noise=(ON, .05))
# moves that change nothing as the run stands
IDLE = [("instance_noise_steps", ON, 100), ("instance_noise_decay", ON, "cosine"), ("clip", ON, 1e6), ("loss", {}, "vanilla"), ("smooth_real", {}, .2), ("label_noise", {}, .3), ("flip", {}, .3),
        ("r1", {}, 1.), ("d_steps", {}, 3), ("instance_noise", {}, .2), ("pixel_weight", ON, 10.), ("axis", ON, "seconds"), ("doctor", ON, "yes")]


def test_every_steering_control_is_tried(lesson):
    assert set(MOVES) == set(lesson["STEERS"]) - {"axis", "doctor"}


@pytest.fixture(scope="module")
def twins(begin):
    "Unmoved runs at step 3, each made once: their fourth step."
    @cache
    def fourth(setup):
        run = begin(**dict(setup))
        run.step(4)
        return run
    return lambda setup: fourth(tuple(setup.items()))


@pytest.mark.parametrize("name", MOVES)
def test_a_control_moved_in_mid_run_acts_on_the_next_step(name, begin, twins):
    setup, value = MOVES[name]
    run = begin(**setup)
    run.step(3)
    run.change(name, value)
    run.step(1)
    assert run.marks == [dict(step=3, seconds=run.marks[0]["seconds"])] and not same(run, twins(setup))


@pytest.mark.parametrize("name, setup, value", IDLE)
def test_a_control_that_has_nothing_to_say_changes_nothing(name, setup, value, begin, twins):
    run = begin(**setup)
    run.step(3)
    run.change(name, value)
    run.step(1)
    assert same(run, twins(setup))


@pytest.mark.parametrize("name, value", [("seed", 2), ("start", "new weights"), ("d", "U-Net"), ("norm", "instance"), ("norm", "none"), ("norm", "spectral"), ("last", 10.)])
def test_what_begins_a_run_changes_it_from_the_first_step(name, value, begin):
    runs = begin(**ON), begin(**ON, **{name: value})
    for run in runs: run.step(1)
    assert not same(*runs)


def test_the_same_seed_repeats_every_number(begin):
    runs = [begin(**NOISE) for _ in range(2)]
    for run in runs:
        run.step(2)
        run.change("smooth_real", .1)
        run.step(3)
    assert same(*runs) and [h["lpips"] for h in runs[0].held] == [h["lpips"] for h in runs[1].held]
    runs = [begin(**ON) for _ in range(2)]
    runs[0].step(4)
    for _ in range(4): runs[1].step(1)                          # how a run is cut into ticks decides nothing
    assert same(*runs)


@pytest.mark.parametrize("hand, moves, rests", [("one D step", "discriminator", "generator"), ("one G step", "generator", "discriminator")])
def test_a_step_by_hand_moves_one_player(hand, moves, rests, begin):
    def weights(run, who): return torch.cat([p.detach().flatten().clone() for p in getattr(run.state, who).parameters()])

    run = begin(**ON)
    run.step(2)
    before = {who: weights(run, who) for who in (moves, rests)}
    settings = dict(vars(run.settings))
    run.one(hand)
    assert run.state.step == 3 and torch.equal(weights(run, rests), before[rests]) and not torch.equal(weights(run, moves), before[moves])
    assert vars(run.settings) == settings and not run.marks


def test_an_impossible_setting_is_one_line_and_the_run_goes_on(begin):
    run = begin(**ON)
    with pytest.raises(ValueError, match="sum below 1"):
        run.change("smooth_real", .6)
        run.change("smooth_fake", .6)
    for name in ("pixel_weight", "perceptual_weight", "adversarial_weight"): run.change(name, 0.)
    with pytest.raises(TrainingError, match="nothing to learn"): run.step(1)
    run.change("pixel_weight", 1.)
    run.step(1)
    assert run.state.step == 1


# ---------------------------------------------------------------- the presets

class Signature:
    "What the last steps of a run look like."
    def __init__(self, run, last=40):
        rows, logits = run.rows[-last:], run.logits[-last:]
        self.gap = sum((real.mean() - fake.mean()).item() for _, real, fake in logits) / len(logits)
        self.gradient_d = sum(r["gradient_d"] for r in rows) / len(rows)
        self.lpips, self.psnr = (run.held[-1][key] / run.held[0][key] for key in ("lpips", "psnr_y_crop4"))        # against the start's


@pytest.fixture(scope="module")
def ended(lesson, begin):
    @cache
    def ended(preset, seed, steps):
        run = begin(seed=seed, **lesson["PRESETS"][preset])
        run.step(steps)
        return Signature(run)
    return ended


SEEDS = pytest.mark.parametrize("seed", (1, 2, 3))


@SEEDS
def test_healthy_the_rocks_sharpen(ended, seed):
    "Seen: gap .61 to .94, LPIPS .77 to .87 of the start's."
    run = ended("healthy", seed, 100)
    assert .35 < run.gap < 1.5 and run.gradient_d > 6 and run.lpips < .96 and run.psnr > .95


@SEEDS
def test_a_d_too_strong_knows_and_g_stands_still(ended, seed):
    "Seen: gap 3.0 to 6.9 (healthy: .61 to .94), LPIPS .99 of the start's."
    run = ended("D too strong", seed, 100)
    assert run.gap > 1.5 and run.lpips > .97


@SEEDS
def test_a_d_too_weak_knows_nothing_and_g_stands_still(ended, seed):
    "Seen: gap -.14 to -.03."
    run = ended("D too weak", seed, 60)
    assert abs(run.gap) < .3 and run.lpips > .97


@SEEDS
def test_noise_that_never_decays_keeps_d_from_telling_them_apart(ended, seed):
    "Seen: gap -.12 to .13, LPIPS .98 to 1.02 of the start's."
    run = ended("noise that never decays", seed, 100)
    assert run.gap < .35 and run.lpips > .97


@SEEDS
def test_labels_smoothed_too_much_leave_d_nothing_to_learn(ended, seed):
    "A relativistic D with labels of .55 and .45 is at its best with logits log(.55 / .45) = .2 apart. Seen: gap -.02 to .01, gradient 1.1 to 1.8 (healthy: 14 to 20)."
    run = ended("labels smoothed too much", seed, 60)
    assert abs(run.gap) < 2 * math.log(.55 / .45) and run.gradient_d < 6 and run.lpips > .97


@SEEDS
def test_without_a_psnr_stage_the_picture_is_far_away(lesson, begin, seed):
    run = begin(seed=seed, **lesson["PRESETS"]["no PSNR stage"])
    run.step(40)
    assert run.held[-1]["psnr_y_crop4"] < begin().held[0]["psnr_y_crop4"] - 6         # tiny-psnr's


@SEEDS
def test_rates_too_high_ruin_g_or_end_the_run(lesson, begin, seed):
    run = begin(seed=seed, **lesson["PRESETS"]["rates too high"])
    try: run.step(40)
    except TrainingError as error: assert "blown up" in str(error)
    else: assert run.held[-1]["psnr_y_crop4"] < .8 * run.held[0]["psnr_y_crop4"]
