"Guards of esrdgan.data: pairing, the cache, resuming, worker processes; and the lab on three seeds."
import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from esrdgan import data
from esrdgan.data import DataError, Pairs, Pictures, batches, counted_generator, fits, match, partner_name, sample, turn
from esrdgan.degrade import degrade
from esrdgan.resize import imresize
from lessons import NBS, ROOT


pytestmark = pytest.mark.usefixtures("one_thread")


def picture(path, height, width, seed=0, mode="RGB"):
    "Smooth noise, so that pictures look different in every orientation and shrink well."
    g = torch.Generator().manual_seed(seed)
    x = imresize(torch.rand(3, height // 8 + 2, width // 8 + 2, generator=g), size=(height, width)).clamp(0, 1)
    Image.fromarray((x * 255).byte().permute(1, 2, 0).numpy()).convert(mode).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "hr").mkdir()
    for i, size in enumerate([(64, 64), (70, 91), (120, 65), (66, 80), (101, 103)]):
        picture(tmp_path / "hr" / f"p{i}.png", *size, seed=i)
    return tmp_path


def make(folder, **more):
    return Pairs(folder / "hr", **{"patch": 32, "cache": folder / "cache", **more})


def same(a, b):
    return all(x is y is None or torch.equal(x, y) for x, y in zip(a, b))


def misfit(lr, hr, scale=4):
    "Mean distance of LR from HR made small, in 8-bit steps, away from the border."
    return float((imresize(hr, 1 / scale).clamp(0, 1) - lr)[..., 2:-2, 2:-2].abs().mean()) * 255


# Randomness

def test_counted_generator_depends_on_its_arguments_and_on_nothing_else():
    draw = lambda *a: torch.rand(4, generator=counted_generator(*a)).tolist()
    first = draw(1, 2, "crop")
    torch.manual_seed(99)
    torch.rand(7)
    assert draw(1, 2, "crop") == first
    others = [draw(*a) for a in [(1, 3, "crop"), (2, 2, "crop"), (1, 2, "flip"), (12, 0, "crop"), (1, 20, "crop"), (-1, 2, "crop")]]
    assert len({tuple(x) for x in [first, *others]}) == 7


def test_counted_generator_is_the_same_on_every_machine():
    assert torch.randint(1000, (4,), generator=counted_generator(0, 0, "crop")).tolist() == [880, 217, 3, 552]


@given(st.integers(0, 7), st.integers(1, 5), st.integers(1, 5))
def test_turn_against_numpy(code, h, w):
    x = torch.arange(3 * h * w).view(3, h, w)
    a = x.numpy()
    if code & 1:
        a = a[:, :, ::-1]
    if code & 2:
        a = a[:, ::-1]
    if code & 4:
        a = a.swapaxes(1, 2)
    assert np.array_equal(turn(x, code).numpy(), a)


# The cache

def test_pictures_are_the_decoded_pictures_whatever_their_kind(tmp_path):
    paths = [picture(tmp_path / f"{mode}.png", 20, 30, mode=mode) for mode in ("RGB", "L", "RGBA", "P", "1")]
    x = np.arange(600, dtype=np.uint16).reshape(20, 30) * 100
    Image.fromarray(x).save(tmp_path / "deep.png")
    cached = Pictures([*paths, tmp_path / "deep.png"], tmp_path / "cache")
    for i, path in enumerate(cached.paths):
        assert cached[i].shape == (20, 30, 3) and cached[i].dtype == np.uint8
        assert np.array_equal(cached[i], data.to_uint8(data.read_image(path)))


@pytest.mark.parametrize("change", ["content", "time", "fewer", "more", "order"])
def test_any_change_of_the_sources_is_seen(tmp_path, change):
    paths = [picture(tmp_path / f"{i}.png", 16, 16, seed=i) for i in range(3)]
    before = Pictures(paths, tmp_path / "cache")
    if change == "content":
        picture(paths[1], 16, 24, seed=9)
    if change == "time":
        os.utime(paths[1], ns=(1, 1))
    if change == "fewer":
        paths = paths[:2]
    if change == "more":
        paths.append(picture(tmp_path / "3.png", 16, 16, seed=3))
    if change == "order":
        paths = paths[::-1]
    old = before.folder
    del before                                      # nobody reads it any more
    after = Pictures(paths, tmp_path / "cache")
    assert after.folder != old
    assert all(np.array_equal(after[i], data.to_uint8(data.read_image(p))) for i, p in enumerate(paths))
    if change in ("content", "time"):
        assert not old.exists()                     # the stale copy does not fill the disk


def test_a_copy_in_use_survives_its_successor(tmp_path):
    "A picture changes while a run reads: the run goes on with the old one, in its own process and in workers, forked or not."
    path = picture(tmp_path / "a.png", 16, 16, seed=1)
    first = Pictures([path], tmp_path / "cache")
    old = np.array(first[0])
    os.utime(picture(path, 16, 16, seed=2), ns=(1, 1))
    second = Pictures([path], tmp_path / "cache")
    assert np.array_equal(first[0], old) and not np.array_equal(second[0], old)
    assert np.array_equal(pickle.loads(pickle.dumps(second))[0], second[0])
    assert np.array_equal(pickle.loads(pickle.dumps(first))[0], old)            # a worker that is started now opens it anew


def test_decoding_happens_once(tmp_path, monkeypatch):
    path = picture(tmp_path / "a.png", 16, 16)
    Pictures([path], tmp_path / "cache")
    monkeypatch.setattr(data, "read_image", lambda p: pytest.fail("decoded again"))
    assert Pictures([path], tmp_path / "cache")[0].shape == (16, 16, 3)


def test_a_copy_that_failed_leaves_nothing(tmp_path):
    (tmp_path / "b.png").write_text("not a picture")
    with pytest.raises(ValueError, match="b.png"):
        Pictures([picture(tmp_path / "a.png", 16, 16), tmp_path / "b.png"], tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_worker_is_sent_names_not_pixels(folder):
    assert len(pickle.dumps(make(folder))) < 4000


def test_two_processes_decode_at_the_same_time(tmp_path, monkeypatch):
    "The other one's copy arrives at the very last moment; a disk that refuses is still an error."
    path, replace = picture(tmp_path / "a.png", 16, 16), os.replace
    def late(new, folder):
        shutil.copytree(new, folder)
        replace(new, folder)
    monkeypatch.setattr(os, "replace", late)
    assert Pictures([path], tmp_path / "cache")[0].shape == (16, 16, 3)
    assert len(list((tmp_path / "cache").iterdir())) == 1

    def full(new, folder): raise OSError("no space left")
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(FileNotFoundError, match="pixels"): Pictures([path], tmp_path / "other")


def test_the_usual_place(tmp_path, monkeypatch):
    monkeypatch.setenv("ESRDGAN_CACHE", str(tmp_path / "here"))
    assert Pictures([picture(tmp_path / "a.png", 16, 16)]).folder.parent == tmp_path / "here" / "pictures"


# Partners

@pytest.mark.parametrize("name,stem", [
    ("baby.png", "baby"), ("babyx4.png", "baby"), ("baby_x4.png", "baby"), ("baby-x4.png", "baby"), ("BABYX4.png", "BABY"),
    ("baby_LRBI_x4.png", "baby"), ("baby_LR.png", "baby"), ("baby_HR.jpg", "baby"), ("baby_GT.png", "baby"), ("baby_bicubic_x4.png", "baby"),
    ("img_001_SRF_4_LR.png", "img_001"), ("img_001_SRF_4_HR.png", "img_001"), ("0801x4.png", "0801"), ("img_004.png", "img_004"),
    ("babyx2.png", "babyx2"), ("x4.png", "x4"), ("_LR.png", "_LR"), ("a.b_x4.png", "a.b"), ("COLOR.png", "COLOR"), ("p_s001.png", "p_s001"),
    ("boatsx4_s001.png", "boats_s001"), ("baby_LRBI_x4_s0012.png", "baby_s0012"), ("x4_s001.png", "x4_s001"), ("babyx4_south.png", "babyx4_south"),
    ("0001_bicLRx4.png", "0001"), ("0001_lq.png", "0001"), ("0001_gt.png", "0001"), ("Canon_0001_LR4.png", "Canon_0001"), ("Canon_0001_HR.png", "Canon_0001"), ("0001x4m.png", "0001"),
    ("LR_0001.png", "0001"), ("hr-0001.png", "0001"), ("GT_baby_x4.png", "baby"), ("LR_HR.png", "LR"), ("HRdogs.png", "HRdogs"), ("lqueen.png", "lqueen"), ("a_HR_2.png", "a_HR_2"),
])
def test_partner_name(name, stem):
    assert partner_name(name, 4) == stem


def test_match_names_every_problem():
    hr = [Path(f"hr/{n}.png") for n in ("a", "b", "c", "c_HR")]
    lr = [Path(f"lr/{n}x4.png") for n in ("a", "c", "d")]
    pairs, problems = match(hr, lr, 4)
    assert pairs == [(hr[0], lr[0]), (hr[2], lr[1])]
    assert len(problems) == 3 and all(any(x in p for p in problems) for x in ("c_HR", "no LR partner named b", "no HR partner named d"))


def test_match_shows_both_names():
    _, problems = match([Path("hr/0001.png")], [Path("lr/0001_small.png")], 4)
    assert problems[0].endswith("0001.png: no LR partner named 0001 in lr; 0001_small.png there counts as 0001_small") and "0001.png there counts as 0001" in problems[1]


def test_one_name_in_two_folders_is_two_pictures():
    hr = [Path(f"set/HR/{day}/img.png") for day in ("day1", "day2")]
    lr = [Path(f"set/LR/{day}/imgx4.png") for day in ("day1", "day2")]
    assert match(hr, lr[::-1], 4) == ([*zip(hr, lr)], [])
    pairs, problems = match(hr, lr[:1], 4)
    assert len(problems) == 3 and not pairs                             # which of the two it belongs to cannot be known
    assert match([Path("a/x.png"), Path("b/y.png")], [Path("lr/x.png"), Path("lr/y.png")], 4)[1] == []      # other folders do not matter to names that differ


@pytest.mark.parametrize("hr,lr,ok", [((8, 8), (2, 2), 1), ((9, 11), (2, 2), 1), ((9, 11), (3, 3), 1), ((9, 11), (2, 3), 1),
                                      ((8, 8), (3, 2), 0), ((8, 8), (1, 2), 0), ((9, 11), (2, 4), 0)])
def test_fits(hr, lr, ok):
    assert fits(hr, lr, 4) == bool(ok)


# Pairs

@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
def test_every_sample_is_a_pair(folder, scale):
    pairs = make(folder, scale=scale, patch=48)
    for n in range(25):
        lr, hr = sample(pairs, 3, n)
        assert hr.shape == (3, 48, 48) and lr.shape == (3, 48 // scale, 48 // scale) and lr.dtype == hr.dtype == torch.float32
        assert 0 <= lr.min() and lr.max() <= 1 and misfit(lr, hr, scale) < .8


def test_the_check_for_pairs_can_fail(folder):
    pairs = make(folder)
    for n in range(10):
        lr, hr = sample(pairs, 3, n)
        assert min(misfit(turn(lr, code), hr) for code in range(1, 8)) > .8 < misfit(lr, sample(pairs, 3, n + 1)[1])


def test_lr_of_a_crop_is_the_crop_of_the_lr(folder):
    pairs = make(folder)
    for i, (h, w) in enumerate(pairs.grid):
        whole = imresize(torch.from_numpy(np.array(pairs.hr[i])).permute(2, 0, 1)[:, :h * 4, :w * 4], 1 / 4)
        for top, left in itertools.product((0, 1, 3, h - 8), (0, 2, w - 8)):
            part = data._make_lr(pairs, i, (top, left, 8, 8), counted_generator(0, 0, "degrade"))
            assert torch.equal(part, whole[:, top:top + 8, left:left + 8])


def test_given_pairs_are_used_as_they_are(folder):
    (folder / "lr").mkdir()
    made = make(folder)
    for i, (h, w) in enumerate(made.grid):
        x = torch.from_numpy(np.array(made.hr[i])).permute(2, 0, 1)
        x = x[:, :h * 4, :w * 4] if i % 2 else x            # half of them MATLAB's way: rounded up
        Image.fromarray(imresize(x, 1 / 4).permute(1, 2, 0).numpy()).save(folder / "lr" / f"p{i}_LRBI_x4.png")
    given_pairs = Pairs(folder / "hr", folder / "lr", patch=32, cache=folder / "cache")
    for n in range(20):
        a, b = sample(given_pairs, 5, n), sample(made, 5, n)
        assert torch.equal(a[1], b[1])                      # the same draws
        assert (a[0] - b[0]).abs().mean() * 255 < .5        # the borders of a rounded-up picture may differ
    only = Pairs(lr=folder / "lr", patch=32, cache=folder / "cache")
    lr, hr = sample(only, 5, 0)
    assert lr.shape == (3, 8, 8) and hr is None


def test_whole_pictures_come_in_order_and_unturned(folder):
    pairs = make(folder, patch=None)
    for n in range(len(pairs)):
        lr, hr = sample(pairs, 0, n)
        h, w = pairs.grid[n]
        assert lr.shape == (3, h, w)
        assert torch.equal((hr * 255).round().byte(), torch.from_numpy(np.array(pairs.hr[n])).permute(2, 0, 1)[:, :4 * h, :4 * w])


def test_each_picture_once_a_round_in_a_new_order(folder, monkeypatch):
    seen = []
    pairs = make(folder)
    original = data._make_lr
    monkeypatch.setattr(data, "_make_lr", lambda p, i, *a: (seen.append(i), original(p, i, *a))[1])
    for n in range(40):
        sample(pairs, 0, n)
    rounds = [tuple(seen[i:i + 5]) for i in range(0, 40, 5)]
    assert all(sorted(r) == [0, 1, 2, 3, 4] for r in rounds) and len(set(rounds)) > 3


def test_every_place_and_every_turn_comes_up(tmp_path):
    "A 12 px picture, patch 8, scale 4: four places, eight turns, 32 different samples."
    (tmp_path / "hr").mkdir()
    picture(tmp_path / "hr" / "a.png", 12, 12)
    pairs = Pairs(tmp_path / "hr", patch=8, cache=tmp_path / "cache")
    assert len({sample(pairs, 0, n)[1].numpy().tobytes() for n in range(600)}) == 32


def test_degrade_draws_from_its_own_generator(folder):
    pairs, plain = make(folder, degrade=degrade), make(folder)
    a, b = sample(pairs, 1, 4), sample(plain, 1, 4)
    assert same(a, sample(pairs, 1, 4)) and torch.equal(a[1], b[1]) and not torch.equal(a[0], b[0])
    assert a[0].shape == (3, 8, 8) and not torch.equal(a[0], sample(pairs, 2, 4)[0])


def test_patch_of_the_whole_picture(folder):
    assert sample(Pairs([folder / "hr" / "p0.png"], patch=64, cache=folder / "cache"), 0, 0)[1].shape == (3, 64, 64)


def test_what_cannot_be_a_set(folder):
    with pytest.raises(DataError, match="HR pictures, of LR pictures, or both"):
        Pairs()
    with pytest.raises(DataError, match="not a multiple"):
        make(folder, patch=30)
    with pytest.raises(DataError, match="p0.png: 64x64, too small for the patch 68"):
        make(folder, patch=68)
    (folder / "lr").mkdir()
    for i in range(4):
        picture(folder / "lr" / f"p{i}.png", 20, 20)
    with pytest.raises(DataError, match="nothing to degrade"):
        make(folder, lr=folder / "lr", degrade=degrade)
    with pytest.raises(DataError, match="p4.png: no LR partner"):
        make(folder, lr=folder / "lr")
    picture(folder / "lr" / "p4.png", 20, 20)
    with pytest.raises(DataError, match="does not fit p0.png"):
        make(folder, lr=folder / "lr")


# Batches

def take(pairs, n, **more):
    return list(itertools.islice(batches(pairs, **{"batch_size": 3, "seed": 7, **more}), n))


def test_resuming_gives_the_same_batches(folder):
    straight = take(make(folder), 6)
    for start in range(6):
        assert all(same(a, b) for a, b in zip(take(make(folder), 6 - start, start_step=start), straight[start:]))
    assert not same(take(make(folder), 1, seed=8)[0], straight[0])


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_parts_in_order_are_the_whole_batch(folder, size):
    whole = take(make(folder), 3, batch_size=6, start_step=2)
    parts = [take(make(folder), 3, batch_size=6, start_step=2, part=(rank, size)) for rank in range(size)]
    for k in range(3):
        assert same([torch.cat(x) for x in zip(*(p[k] for p in parts))], whole[k])


@pytest.mark.parametrize("batch_size, size", [(6, 4), (1, 2), (3, 6)])
def test_a_batch_that_cannot_be_shared(folder, batch_size, size):
    with pytest.raises(DataError, match=f"batch_size {batch_size} cannot be shared by {size} processes"):
        take(make(folder), 1, batch_size=batch_size, part=(0, size))


def test_the_global_random_state_is_not_touched_and_does_not_matter(folder):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = take(make(folder), 2)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert all(same(a, b) for a, b in zip(take(make(folder), 2), first))


SPAWN = """
import itertools, sys, torch
from esrdgan.data import Pairs, batches
if __name__ == '__main__':
    torch.multiprocessing.set_start_method('spawn')
    pairs = Pairs(sys.argv[1] + '/hr', patch=32, cache=sys.argv[1] + '/cache')
    for workers in (0, 2):
        stream = batches(pairs, 3, seed=7, start_step=2, workers=workers)
        torch.save(list(itertools.islice(stream, 5)), f'{sys.argv[1]}/{workers}.pt')
        stream.close()
"""


def test_workers_change_nothing_even_spawned_ones(folder):
    (folder / "run.py").write_text(SPAWN, encoding="utf-8")
    env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    subprocess.run([sys.executable, str(folder / "run.py"), str(folder)], check=True, env=env, timeout=300)
    runs = [torch.load(folder / f"{w}.pt") for w in (0, 2)]
    assert all(same(a, b) for run in runs for a, b in zip(run, take(make(folder), 7)[2:]))


def test_lr_only_batches(folder):
    lr, hr = take(Pairs(lr=folder / "hr", patch=32, cache=folder / "cache"), 1)[0]
    assert lr.shape == (3, 3, 8, 8) and hr is None


# The lab, as the lesson defines it

@pytest.fixture(scope="module")
def lab():
    "The functions of the lab, taken from the lesson itself."
    cells = ["".join(c["source"]) for c in json.loads((NBS / "05_pairs.ipynb").read_text(encoding="utf-8"))["cells"]]
    scope = dict(vars(data), torch=torch)
    here = os.getcwd()
    os.chdir(NBS)
    try:
        for start in ("photos = ", "def decibel("):
            exec(next(c for c in cells if c.startswith(start)), scope)
    finally:
        os.chdir(here)
    return scope["pair_core"]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_lab_independent_flips_are_loud(lab, seed):
    right, wrong = lab(seed=seed), lab("independent", seed=seed)
    assert 29 < right["mean"] < 34 and right["low"] > 14 and right["lost"] == 0
    assert wrong["mean"] < 22 and right["mean"] - wrong["mean"] > 9 and wrong["lost"] > .75


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_lab_missing_antialiasing_is_quiet(lab, seed):
    right, wrong = lab(seed=seed), lab(antialias=False, seed=seed)
    assert .4 < right["mean"] - wrong["mean"] < 1.1 and wrong["lost"] < .05


def test_lab_is_reproducible(lab):
    a, b = lab("independent", True, 3), lab("independent", True, 3)
    assert np.array_equal(a["db"], b["db"])
