"Guards of esrdgan.prepare: the preflight check, crops, public sets."
import tarfile
import zipfile

import pytest
import torch
from PIL import Image

from esrdgan import prepare
from esrdgan.data import DataError
from esrdgan.fetch import FetchError
from esrdgan.image import list_pictures, read_image, write_image
from esrdgan.prepare import SETS, PublicSet, bicubic_error, check_data, fetch_set, make_crops


def picture(path, height, width, mode="RGB", seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    g = torch.Generator().manual_seed(seed)
    Image.fromarray(torch.randint(256, (height, width, 3), generator=g, dtype=torch.uint8).numpy()).convert(mode).save(path)
    return path


# check_data

def test_a_good_set_has_no_problems(tmp_path):
    for i, (h, w) in enumerate([(128, 128), (130, 141)]):
        picture(tmp_path / "hr" / f"{i}.png", h, w)
        picture(tmp_path / "lr" / f"{i}x4.png", h // 4, -(-w // 4))
    assert check_data(tmp_path / "hr") == check_data(tmp_path / "hr", tmp_path / "lr") == check_data(None, tmp_path / "lr") == []


def test_every_kind_of_problem_is_one_line_that_names_its_file(tmp_path):
    for name in ("good", "half", "text", "empty", "small", "stranger", "alone"):
        picture(tmp_path / "hr" / f"{name}.png", 128, 128)
        picture(tmp_path / "lr" / f"{name}x4.png", 32, 32)
    hr, lr = tmp_path / "hr", tmp_path / "lr"
    (hr / "half.png").write_bytes((hr / "half.png").read_bytes()[:20_000])
    (hr / "text.png").write_text("<html>")
    (hr / "empty.png").write_bytes(b"")
    picture(hr / "small.png", 127, 128)
    picture(lr / "strangerx4.png", 32, 33)
    (lr / "alonex4.png").unlink()
    picture(lr / "newx4.png", 32, 32)
    problems = check_data(hr, lr)
    assert all("\n" not in p for p in problems) and not any("good" in p for p in problems)
    for name in ("half.png", "text.png", "empty.png", "small.png: 128x127", "strangerx4.png: 33x32", "alone.png: no LR", "newx4.png: no HR"):
        assert sum(name in p for p in problems) == 1, name
    assert len(problems) == 7
    assert [p for p in check_data(hr) if "small" in p] and not [p for p in check_data(hr, patch=64) if "small" in p]


def test_lr_pictures_are_held_against_the_patch_too(tmp_path):
    picture(tmp_path / "lr" / "a.png", 31, 32)
    assert "smaller than 32x32" in check_data(None, tmp_path / "lr")[0]
    assert check_data(None, tmp_path / "lr", scale=2, patch=62) == []


@pytest.mark.parametrize("bad", ["nowhere", "empty"])
def test_a_folder_without_pictures_is_a_problem_not_an_error(tmp_path, bad):
    (tmp_path / "empty").mkdir()
    picture(tmp_path / "hr" / "a.png", 128, 128)
    for args in ((tmp_path / bad,), (tmp_path / "hr", tmp_path / bad)):
        [problem] = check_data(*args)
        assert bad in problem


# make_crops

@pytest.mark.parametrize("height,width,count", [(480, 480, 1), (481, 480, 2), (720, 720, 4), (721, 960, 9), (479, 900, 0)])
def test_how_many(tmp_path, height, width, count):
    picture(tmp_path / "in" / "a.png", height, width)
    picture(tmp_path / "in" / "b.png", 480, 480)
    assert make_crops(tmp_path / "in", tmp_path / "out") == count + 1
    files = list_pictures(tmp_path / "out")
    assert len(files) == count + 1 and all(Image.open(f).size == (480, 480) for f in files)


def test_crops_cover_the_picture_and_equal_it(tmp_path):
    whole = read_image(picture(tmp_path / "in" / "a.png", 50, 67))
    make_crops(tmp_path / "in", tmp_path / "out", size=20, step=15)
    seen = torch.zeros(50, 67)
    starts = [(t, l) for t in (0, 15, 30) for l in (0, 15, 30, 45, 47)]
    files = list_pictures(tmp_path / "out")
    assert len(files) == len(starts)
    for path, (top, left) in zip(files, starts):
        assert torch.equal(read_image(path), whole[:, top:top + 20, left:left + 20])
        seen[top:top + 20, left:left + 20] += 1
    assert seen.min() >= 1


def test_crops_of_pairs_correspond(tmp_path):
    picture(tmp_path / "hr" / "a.png", 128, 200)
    picture(tmp_path / "lr" / "ax4.png", 32, 50)
    assert make_crops(tmp_path / "hr", tmp_path / "hc", 64, 48) == make_crops(tmp_path / "lr", tmp_path / "lc", 16, 12)
    for a, b in zip(list_pictures(tmp_path / "hc"), list_pictures(tmp_path / "lc")):
        assert a.stem.split("_")[1] == b.stem.split("_")[1]


@pytest.mark.parametrize("name", ["boats.png", "boatsx4.png"])
def test_pairs_of_crops_are_matched(tmp_path, name):
    picture(tmp_path / "hr" / "boats.png", 256, 384)
    picture(tmp_path / "lr" / name, 64, 96)
    assert make_crops(tmp_path / "hr", tmp_path / "hc", 128, 64) == make_crops(tmp_path / "lr", tmp_path / "lc", 32, 16) == 15
    assert check_data(tmp_path / "hc", tmp_path / "lc") == []


def test_crops_of_two_pictures_never_share_a_name(tmp_path):
    picture(tmp_path / "in" / "a.jpg", 64, 64, seed=1)
    picture(tmp_path / "in" / "a.png", 64, 64)
    for keep in (1., .25):                                                    # the crop that is kept need not be the first
        with pytest.raises(DataError, match="a.png: another picture there has the same name"):
            make_crops(tmp_path / "in", tmp_path / "out", 32, 32, keep)
        assert not (tmp_path / "out").exists()
    picture(tmp_path / "in" / "a.jpg", 31, 64)                                 # too small for a crop: nothing to replace
    assert make_crops(tmp_path / "in", tmp_path / "out", 32, 32) == 4


def test_a_bad_picture_stops_crops_and_leaves_nothing(tmp_path):
    picture(tmp_path / "in" / "a.png", 64, 64)
    (tmp_path / "in" / "b.png").write_text("no picture")
    with pytest.raises(ValueError, match="b.png"):
        make_crops(tmp_path / "in", tmp_path / "out", 32, 32)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_crops_need_a_new_folder_and_a_large_enough_picture(tmp_path):
    picture(tmp_path / "in" / "a.png", 64, 64)
    (tmp_path / "out").mkdir()
    assert make_crops(tmp_path / "in", tmp_path / "out", 32, 32) == 4          # an empty folder is as good as none
    with pytest.raises(DataError, match="not empty"):
        make_crops(tmp_path / "in", tmp_path / "out", 32, 32)
    with pytest.raises(DataError, match="choose a smaller size"):
        make_crops(tmp_path / "in", tmp_path / "other")


def test_the_hard_crops_are_kept_and_of_each_picture_one_at_least(tmp_path):
    half = read_image(picture(tmp_path / "in" / "a.png", 64, 128))
    half[:, :, :64] = .5                                                       # left: nothing to see
    write_image(half, tmp_path / "in" / "a.png")
    picture(tmp_path / "in" / "b.png", 32, 32)
    assert make_crops(tmp_path / "in", tmp_path / "out", 32, 32, keep=.5) == 4 + 1
    assert [p.name for p in list_pictures(tmp_path / "out")] == ["a_s003.png", "a_s004.png", "a_s007.png", "a_s008.png", "b_s001.png"]
    assert make_crops(tmp_path / "in", tmp_path / "few", 32, 32, keep=.01) == 2
    assert bicubic_error(half[:, :37, :61]) < 1e-9 < bicubic_error(half[:, :37, -61:])      # any size


@pytest.mark.parametrize("keep", [0, -.5, 1.1, float("nan")])
def test_a_share_that_is_none(tmp_path, keep):
    picture(tmp_path / "in" / "a.png", 64, 64)
    with pytest.raises(DataError, match="give a share above 0, up to 1"):
        make_crops(tmp_path / "in", tmp_path / "out", 32, 32, keep)
    assert not (tmp_path / "out").exists()


# Public sets

def test_the_table():
    assert {"Set5", "Set14", "BSD100", "Urban100", "BSDS500", "DIV2K", "Flickr2K"} <= set(SETS)
    for name, s in SETS.items():
        assert s.url.startswith("https://") and s.inside and s.about and not s.inside.startswith("/")
        assert s.digest is None or (len(s.digest) == 64 and int(s.digest, 16))


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_fetch_set(tmp_path, monkeypatch, kind):
    a = picture(tmp_path / "a.png", 8, 8)
    archive = tmp_path / f"set.{kind}"
    with zipfile.ZipFile(archive, "w") if kind == "zip" else tarfile.open(archive, "w") as file:
        (file.write if kind == "zip" else file.add)(a, "Set5_HR/a.png")
    monkeypatch.setitem(SETS, "Set5", PublicSet(archive.as_uri(), "Set5_HR", "test", 0, prepare_digest(archive)))
    out = fetch_set("set5", tmp_path / "data")
    assert out == tmp_path / "data" / "Set5" / "Set5_HR" and torch.equal(read_image(out / "a.png"), read_image(a))
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["Set5"]
    archive.unlink()
    assert fetch_set("Set5", tmp_path / "data") == out


def prepare_digest(path):
    from esrdgan.fetch import sha256
    return sha256(path)


def test_fetch_set_failures_leave_no_set(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="there are Set5, Set14"):
        fetch_set("Set51", tmp_path)
    (tmp_path / "x.zip").write_bytes(b"<html>quota exceeded")
    monkeypatch.setitem(SETS, "Set14", PublicSet((tmp_path / "x.zip").as_uri(), "Set14_HR", "test", digest="0" * 64))
    with pytest.raises(FetchError, match="sha256"):
        fetch_set("Set14", tmp_path / "data")
    monkeypatch.setitem(SETS, "Set14", PublicSet((tmp_path / "x.zip").as_uri(), "Set14_HR", "test"))
    with pytest.raises(FetchError, match="Nothing was unpacked"):
        fetch_set("Set14", tmp_path / "data")
    assert not (tmp_path / "data" / "Set14").exists()
    monkeypatch.setattr(prepare, "download", lambda *a: pytest.fail("the set is there"))
    (tmp_path / "data" / "Set14").mkdir()
    with pytest.raises(DataError, match="holds no Set14_HR"):
        fetch_set("Set14", tmp_path / "data")
