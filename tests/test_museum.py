"""Lesson 17's checkers without a browser: of repairs, and of the answers to the unlabelled runs."""
import pytest
import torch

from esrdgan.metrics import psnr
from lessons import NBS, names_of

MARKS = ("import random", "def measure(", "def psnr_is_right", "def degrade(", "def crops(", "def sixteen_steps", "def first_visit", "def pairs_agree", "def to_look_at",
         "def cloth(", "def noise_level(", "def start(", "def two_players", "def second_visit", "def noise_is_right", "def modest", "def second_signs", "def drawn(")


@pytest.fixture(scope="module")
def lesson():
    "What the lesson defines; no lab is drawn."
    with names_of(NBS / "17_bug_museum.ipynb", MARKS) as names:
        yield names


def letter(lesson, piece):
    return next(k for k, name in lesson["EXHIBITS"].items() if name == piece)


def measure(sr, hr):
    return psnr(sr, hr, "rgb", crop=0)


def labels(tricks, n, real, seed, step, part):
    return torch.full((n, 1), 1 - tricks.smooth_real if real else tricks.smooth_fake)


def test_twelve_exhibits_each_with_a_test(lesson):
    assert len(lesson["EXHIBITS"]) == 12
    assert set(lesson["EXHIBITS"].values()) == set(lesson["TESTS"]) == set(lesson["BROKEN"]) == set(lesson["HEALTHY"])


@pytest.mark.parametrize("mine", [measure, labels], ids=["first wing", "second wing"])
def test_a_right_repair_is_accepted_and_a_wrong_one_refused(lesson, mine):
    name = mine.__name__
    assert lesson["visit"](letter(lesson, name), mine), "three seeds, and the piece's own test"
    assert "with seed 1" in lesson["visit"](letter(lesson, name), lesson["BROKEN"][name])


def test_a_right_piece_does_not_repair_another_exhibit(lesson):
    assert "with seed 1, PSNR" in lesson["visit"](letter(lesson, "measure"), labels)


@pytest.mark.parametrize("exhibit, mine, told", [
    ("Z", measure, "no exhibit 'Z'"), ("A", len, "name of the piece"), ("A", None, "name of the piece")])
def test_a_visit_that_makes_no_sense_is_told_in_one_line(lesson, exhibit, mine, told):
    verdict = lesson["visit"](exhibit, mine)
    assert not verdict and told in verdict and "\n" not in verdict


def test_a_piece_that_raises_is_told_in_one_line(lesson):
    def start(discriminator): raise RuntimeError("mine")

    assert "RuntimeError: mine" in lesson["visit"](letter(lesson, "start"), start)


def test_runs_are_drawn_by_seed_and_never_two_that_look_alike(lesson):
    hidden, pieces = lesson["HIDDEN"], set(lesson["SECOND"].values())
    for seed in range(300):
        runs = lesson["drawn"](seed)
        assert runs == lesson["drawn"](seed)
        assert len(runs) == 3 and all(1 <= len(run) <= 2 and run <= pieces and run not in hidden for run in runs)
    assert len({str(sorted(map(sorted, lesson["drawn"](seed)))) for seed in range(300)}) > 100


def test_a_run_takes_one_answer(lesson):
    judged = lesson["judged"]
    faults = [set(run) for run in lesson["drawn"](5)]
    wrong = next(name for name in sorted(lesson["SECOND"].values()) if name not in faults[1])
    assert "Write your answer" in judged(1, None, 5)
    assert "not a piece" in judged(1, {"label"}, 5)             # a slip of the pen is no answer
    assert judged(1, faults[0], 5) and judged(1, faults[0], 5)
    assert "0 of 1" in judged(2, {wrong}, 5)
    assert "has had its answer" in judged(2, faults[1], 5)
    assert "1 of 2" in judged(3, {min(faults[2]), next(n for n in sorted(lesson["SECOND"].values()) if n not in faults[2])}, 5)
