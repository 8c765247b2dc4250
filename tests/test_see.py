"""Lesson 01's live GAN, on three seeds: the code is taken out of the notebook, so what a learner watches is what is tested.

The bounds are wide. Seen on three seeds: texture of the picture at the end over that of the pixels alone 1.3 to 1.5, distance (LPIPS) below
bicubic's by .2 to .3. They hold for a training as a whole, not for a number of it, so the order in which a processor adds does not matter.
"""
import pytest
import torch

from lessons import NBS, names_of


@pytest.fixture(scope="module")
def lesson():
    "The lesson's names: imports, the photograph, the training, its numbers. Its labs and large networks stay out."
    with names_of(NBS / "01_see.ipynb", ("from esrdgan.generator", "def cut(", "class Training", "def one_step", "def texture")) as names:
        yield names


@pytest.fixture(scope="module")
def by_pixels(lesson): return lesson["Training"](0., 1).step(240)["sr"]


def test_it_begins_as_bicubic(lesson):
    begin = lesson["Training"](.02, 1).step(0)["sr"]
    assert torch.allclose(begin, lesson["bicubic"][0].clamp(0, 1))


def test_pixels_alone_gain_decibels(lesson, by_pixels):
    assert lesson["decibels"](by_pixels) > lesson["decibels"](lesson["bicubic"][0]) + .5


@pytest.mark.parametrize("seed", (1, 2, 3))
def test_the_gan_ends_sharper_and_nearer_in_lpips(lesson, by_pixels, seed):
    texture, rgb, lpips, truth, bicubic = (lesson[name] for name in ("texture", "rgb", "lpips", "truth", "bicubic"))
    sr = lesson["Training"](.02, seed).step(240)["sr"]
    far = lpips(rgb(sr), rgb(truth[0]))
    print(seed, texture(sr), texture(by_pixels), texture(bicubic), texture(truth), far, lpips(rgb(bicubic[0]), rgb(truth[0])), lesson["decibels"](sr), lesson["decibels"](bicubic[0]))
    assert texture(sr) > 1.1 * texture(by_pixels) and texture(sr) > 1.5 * texture(bicubic)
    assert far < lpips(rgb(bicubic[0]), rgb(truth[0])) - .1
    assert lesson["decibels"](sr) < lesson["decibels"](bicubic[0]) - .3
