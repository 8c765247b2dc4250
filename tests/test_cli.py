"The command line: statuses, one-line errors, and every kind of picture from end to end."
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import esrdgan
from esrdgan import cli, evaluate, weights
from esrdgan.fetch import FetchError
from esrdgan.generator import RRDBNet
from esrdgan.image import read_image, read_picture
from esrdgan.resize import imresize
from esrdgan.weights import load_generator, save_generator
from lessons import ROOT
from picture_kinds import KINDS, Kind, tiff


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    torch.manual_seed(0)
    return str(save_generator(RRDBNet(n_features=4, n_blocks=1, growth=2), tmp_path_factory.mktemp("model") / "tiny.safetensors"))


CERTIFY = evaluate.certify


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    "The certificate costs seconds; test_evaluate.py guards it, and one test here."
    monkeypatch.setattr(evaluate, "certify", lambda: "certified: not today")


def picture(path, width=12, height=8, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return path


def complaints(capsys):
    "The lines on stderr that are not progress bars."
    return [l for l in capsys.readouterr().err.replace("\r", "\n").splitlines() if l.strip() and "|" not in l]


def run(*words, **options):
    "A real process, as a user starts it."
    env = dict(os.environ, PYTHONPATH=str(ROOT), PYTHONIOENCODING="utf-8")
    return subprocess.run([sys.executable, "-m", "esrdgan", *map(str, words)], capture_output=True, text=True, encoding="utf-8", env=env, **options)


# --- every kind of picture ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("maker, kind", [pytest.param(m, k, id=n) for n, m, k in KINDS])
def test_use_enlarges_every_kind_or_says_why_not(maker, kind, tiny, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    path = maker(tmp_path / "in")
    status = cli.main(["use", str(path), "--model", tiny, "--out", str(tmp_path / "out"), "--precision", "fp32"])
    lines = complaints(capsys)
    if isinstance(kind, Kind):
        assert (status, lines) == (0, [])
        [result] = (tmp_path / "out").iterdir()
        big, small = read_picture(result), read_picture(path)
        assert big.rgb.shape[1:] == tuple(4 * n for n in kind.rgb.shape[:2])
        assert (big.grey, big.bits, big.icc) == (small.grey, small.bits, small.icc)
        assert (big.alpha is None) == (small.alpha is None)
        assert big.rgb.isfinite().all()
    else:
        assert status in (1, 2) and len(lines) == 1
        assert path.name in lines[0] and "Traceback" not in lines[0]
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_folder_of_all_kinds_goes_on_to_the_end(tiny, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for _, maker, _ in KINDS:
        maker(tmp_path / "in")
    files = [p for p in (tmp_path / "in").iterdir()]
    status = cli.main(["use", str(tmp_path / "in"), "--model", tiny, "--out", str(tmp_path / "out"), "--precision", "fp32"])
    lines, written = complaints(capsys), list((tmp_path / "out").iterdir())
    assert status == 1
    assert len(lines) + len(written) == len(files) and len(written) >= 20 and len(lines) >= 6
    assert len(set(lines)) == len(lines)


# --- use ---------------------------------------------------------------------------------------------------------------

def test_scale_tile_and_ensemble(tiny, tmp_path):
    path = picture(tmp_path / "a.png", 40, 24)
    for extra, size in (([], (160, 96)), (["--scale", "2.5"], (100, 60)), (["--tile", "16"], (160, 96)), (["--tile", "0"], (160, 96)), (["--ensemble"], (160, 96))):
        out = tmp_path / "_".join(["out", *extra])
        assert cli.main(["use", str(path), "--model", tiny, "--out", str(out), "--precision", "fp32", *extra]) == 0
        assert [Image.open(p).size for p in out.iterdir()] == [size]
    whole, tiled = (read_image(next((tmp_path / name).iterdir())) for name in ("out", "out_--tile_16"))
    assert (whole - tiled).abs().max() <= 2 / 255


def test_consistent_results_are_their_input_when_made_small_again(tiny, tmp_path, capsys):
    path = picture(tmp_path / "in" / "a.png", 24, 24)
    words, far = ["--model", tiny, "--precision", "fp32"], {}
    for extra in ([], ["--consistent"]):
        assert cli.main(["use", str(path), *words, *extra, "--out", str(tmp_path / f"use{len(extra)}")]) == 0
        far[len(extra)] = (imresize(read_image(tmp_path / f"use{len(extra)}" / "a_x4.png"), 1 / 4) - read_image(path)).square().mean()
        cli.main(["test", "--hr", str(tmp_path / "use0"), *words, *extra, "--out", str(tmp_path / f"test{len(extra)}")])
    assert far[1] < .5 * far[0]
    scores = [next(m for m in json.loads((tmp_path / f"test{n}" / "scores.json").read_text())["means"] if m["method"] == "sr") for n in (0, 1)]
    assert scores[1]["back_projection"] > scores[0]["back_projection"] + 5


def test_what_is_done_is_skipped_unless_told_otherwise(tiny, tmp_path, capsys):
    words = ["use", str(picture(tmp_path / "a.png")), "--model", tiny, "--out", str(tmp_path / "out")]
    assert cli.main(words) == 0
    assert cli.main(words) == 0 and "1 there already" in capsys.readouterr().out
    assert cli.main([*words, "--overwrite"]) == 0 and "1 written" in capsys.readouterr().out
    assert cli.main([*words, "--scale", "2"]) == 0 and "1 written" in capsys.readouterr().out
    result = tmp_path / "out" / "a_x4.png"
    result.write_bytes(b"mine")
    for extra, said in ((["--overwrite"], "1 written"), ([], "1 there already")):
        assert cli.main([*words, *extra]) == 0 and said in capsys.readouterr().out
        assert result.read_bytes() == b"mine" and Image.open(tmp_path / "out" / "a_x4_2.png").size == (48, 32)


def test_another_model_or_strength_is_done_again(tmp_path, capsys):
    crisp, path = pair(tmp_path), picture(tmp_path / "a.png")
    for extra, said in (([], "written"), ([], "there already"), (["--strength", ".5"], "written"), (["--strength", ".25"], "written"), (["--strength", ".25"], "there already"),
                        (["--model", crisp.replace("gan", "psnr")], "written"), (["--ensemble"], "written"), (["--precision", "fp32"], "written"), (["--tile", "8"], "written")):
        assert cli.main(["use", str(path), "--model", crisp, "--out", str(tmp_path / "out"), *extra]) == 0
        assert f"1 {said}" in capsys.readouterr().out, extra
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a_x4.png"]


# --- folders, kinds, options ---------------------------------------------------------------------------------------------

@pytest.fixture
def trip(tmp_path):
    for n, name in enumerate(("top.png", "day1/img.png", "day2/img.png")): picture(tmp_path / "trip" / name, seed=n)
    return tmp_path / "trip"


def test_folders_are_mirrored_and_an_option_turns_it_off(tiny, trip, tmp_path, capsys):
    words = ["use", str(trip), "--model", tiny, "--precision", "fp32"]
    assert cli.main([*words, "--out", str(tmp_path / "deep")]) == 0 and cli.main([*words, "--out", str(tmp_path / "flat"), "--no-recursive"]) == 0
    made = {name: sorted(p.relative_to(tmp_path / name).as_posix() for p in (tmp_path / name).rglob("*.png")) for name in ("deep", "flat")}
    assert made == {"deep": ["day1/img_x4.png", "day2/img_x4.png", "top_x4.png"], "flat": ["top_x4.png"]}
    capsys.readouterr()
    assert cli.main([*words, "--out", str(trip)]) == 0 and "3 written" in capsys.readouterr().out
    assert cli.main([*words, "--out", str(trip)]) == 0 and capsys.readouterr().out.endswith("3 there already (--overwrite does them again), 3 results of earlier runs left alone\n")


def test_test_crops_and_check_data_descend_alike(trip, tmp_path, capsys):
    for n, path in enumerate(trip.rglob("*.png")): picture(path, 64, 48, seed=n)
    (trip / "day2" / "k.nef").touch()
    assert cli.main(["test", "--hr", str(trip), "--model", "none", "--out", str(tmp_path / "test")]) == 0
    assert len(complaints(capsys)) == 1
    rows = json.loads((tmp_path / "test" / "scores.json").read_text(encoding="utf-8"))["rows"]
    assert {r["image"] for r in rows} == {"top.png", "day1/img.png", "day2/img.png"}
    assert cli.main(["crops", str(trip), str(tmp_path / "crops"), "--size", "48", "--step", "48"]) == 0
    [said] = complaints(capsys)
    assert said.startswith("warning: passed over: ") and "k.nef: is a camera's raw file" in said
    assert sorted(p.relative_to(tmp_path / "crops").as_posix() for p in (tmp_path / "crops").rglob("*.png")) == [
        *(f"day{d}/img_s{n:03d}.png" for d in (1, 2) for n in (1, 2)), "top_s001.png", "top_s002.png"]
    for extra, lines in (([], 3), (["--no-recursive"], 1)):
        assert cli.main(["check-data", "--hr", str(trip), "--patch", "68", *extra]) == 1
        assert len(capsys.readouterr().out.splitlines()) == lines
    for words in (["test", "--hr", str(trip), "--model", "none", "--out", str(tmp_path / "flat")], ["crops", str(trip), str(tmp_path / "few"), "--size", "48"]):
        assert cli.main([*words, "--no-recursive"]) == 0
    assert len(json.loads((tmp_path / "flat" / "scores.json").read_text(encoding="utf-8"))["rows"]) == 2 and len(list((tmp_path / "few").rglob("*.png"))) == 2


def test_crops_name_the_pictures_that_were_too_small(tmp_path, capsys):
    picture(tmp_path / "in" / "a.png", 64, 64), picture(tmp_path / "in" / "tiny.png", 8, 8)
    assert cli.main(["crops", str(tmp_path / "in"), str(tmp_path / "out"), "--size", "64"]) == 0
    assert complaints(capsys) == ["warning: smaller than 64 px and left out: tiny.png"]


def test_kinds_that_cannot_be_read_are_skipped_in_a_folder_and_fail_when_named(tiny, tmp_path, capsys):
    picture(tmp_path / "in" / "a.png")
    for name, content in (("b.dng", b""), ("c.tif", tiff((3, 2), bytes(6), t50706=1)), ("notes.txt", b"x")): (tmp_path / "in" / name).write_bytes(content)
    words = ["--model", tiny, "--out", str(tmp_path / "out")]
    assert cli.main(["use", str(tmp_path / "in"), *words]) == 0
    out, err = capsys.readouterr()
    said = [line for line in err.splitlines() if line.startswith("skipped: ")]
    assert len(said) == 2 and "b.dng" in said[0] and "c.tif" in said[1] and all("raw file" in line for line in said)
    assert out.endswith("1 written, 2 skipped, 1 other files left out\n")
    for name in ("b.dng", "c.tif"):
        (tmp_path / "in" / "b.dng").write_bytes(tiff((3, 2), bytes(6), t50706=1))
        assert cli.main(["use", str(tmp_path / "in" / name), *words]) == 1
        [line] = complaints(capsys)
        assert name in line and "raw file" in line and not line.startswith("skipped")


def test_a_remark_is_a_line_of_the_result(tiny, tmp_path, capsys):
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "green", "blue")]
    frames[0].save(tmp_path / "move.gif", save_all=True, append_images=frames[1:])
    assert cli.main(["use", str(tmp_path / "move.gif"), "--model", tiny, "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"{tmp_path / 'move.gif'}: frame 1 of 3"


@pytest.mark.parametrize("extra, name, size", [
    (["--format", "jpg", "--quality", "30"], "a_x4.jpg", (48, 32)), (["--format", "webp"], "a_x4.webp", (48, 32)), (["--format", "tiff"], "a_x4.tiff", (48, 32)),
    (["--format", "same"], "a_x4.png", (48, 32)), (["--width", "30"], "a_w30.png", (30, 20)), (["--height", "30"], "a_h30.png", (45, 30)),
    (["--width", "20", "--height", "30"], "a_20x30.png", (20, 30)), (["--suffix", "_big"], "a_big.png", (48, 32)), (["--suffix", ""], "a.png", (48, 32)),
    (["--seamless", "--scale", "3"], "a_x3.png", (36, 24)), (["--strip"], "a_x4.png", (48, 32))], ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_options_of_the_result(extra, name, size, tiny, tmp_path):
    assert cli.main(["use", str(picture(tmp_path / "a.png")), "--model", tiny, "--out", str(tmp_path / "out"), *extra]) == 0
    assert [p.name for p in (tmp_path / "out").iterdir()] == [name] and Image.open(tmp_path / "out" / name).size == size


def test_what_a_photograph_says_goes_on_or_is_stripped(tiny, tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x8298] = 6, "(c) somebody"
    Image.new("RGB", (12, 8), "red").save(tmp_path / "a.jpg", exif=exif, dpi=(300, 300))
    for strip in (False, True):
        assert cli.main(["use", str(tmp_path / "a.jpg"), "--model", tiny, "--out", str(tmp_path / f"{strip}"), *["--strip"] * strip]) == 0
        with Image.open(tmp_path / f"{strip}" / "a_x4.png") as im:
            assert im.size == (32, 48) and (im.getexif().get(0x8298) == "(c) somebody") == ("dpi" in im.info) == (not strip)
            made = json.loads(im.text["esrdgan"])
            assert made["model"] == "tiny.safetensors" and made["version"] == esrdgan.__version__ and made["strength"] is None


def test_an_unwritable_place_below_costs_its_pictures_only(tiny, trip, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "day1").touch()
    assert cli.main(["use", str(trip), "--model", tiny, "--out", str(tmp_path / "out")]) == 1
    [line] = complaints(capsys)
    assert str(Path("day1", "img.png")) in line and (tmp_path / "out" / "day2" / "img_x4.png").exists() and (tmp_path / "out" / "top_x4.png").exists()


def test_a_user_without_a_home(tiny, tmp_path, monkeypatch):
    def nobody(): raise RuntimeError("Could not determine home directory.")
    monkeypatch.setattr(Path, "home", nobody)
    for name in ("ESRDGAN_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"): monkeypatch.delenv(name, raising=False)
    assert cli.main(["use", str(picture(tmp_path / "a.png")), "--model", "tiny-psnr", "--out", str(tmp_path / "out")]) == 0
    assert cli.main(["use", str(tmp_path / "a.png"), "--model", "tiny-psn", "--out", str(tmp_path / "out")]) == 2


def test_scores_do_not_depend_on_the_chip(tiny, tmp_path, monkeypatch, capsys):
    from esrdgan import inference
    seen, plain = [], inference.finite_pass
    monkeypatch.setattr(inference, "_native_bf16", lambda: True)
    monkeypatch.setattr(inference, "finite_pass", lambda model, x, dtype, ensemble=False: seen.append(dtype) or plain(model, x, dtype, ensemble))
    picture(tmp_path / "hr" / "a.png", 64, 48)
    for extra, dtype in (([], torch.float32), (["--precision", "bf16"], torch.bfloat16)):
        assert cli.main(["test", "--hr", str(tmp_path / "hr"), "--model", tiny, "--out", str(tmp_path / "out"), "--device", "cpu", *extra]) == 0
        assert {*seen} == {dtype} and not seen.clear()


def test_the_same_picture_named_twice_is_done_once(tiny, tmp_path, capsys):
    path = picture(tmp_path / "in" / "a.png")
    assert cli.main(["use", str(path), str(path.parent), str(path), "--model", tiny, "--out", str(tmp_path / "out")]) == 0
    assert "1 written" in capsys.readouterr().out


def test_some_missing_paths_are_listed_and_the_rest_is_done(tiny, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    status = cli.main(["use", "gone.png", str(picture(tmp_path / "a.png")), str(tmp_path / "empty"), "--model", tiny, "--out", str(tmp_path / "out")])
    lines = complaints(capsys)
    assert status == 1 and len(lines) == 2 and "gone.png" in lines[0] and "no picture in this folder" in lines[1]
    assert (tmp_path / "out" / "a_x4.png").exists()


def test_pictures_are_looked_for_before_the_model(capsys):
    assert cli.main(["use", "gone.png", "--model", "no such model"]) == 2
    assert "gone.png" in complaints(capsys)[0]


# --- errors ------------------------------------------------------------------------------------------------------------

ERRORS = [
    ("nothing", [], "required"),
    ("unknown command", ["upscale", "a.png"], "invalid choice"),
    ("no picture", ["use"], "required"),
    ("unknown model", ["use", "{a}", "--model", "x4pluss"], "did you mean x4plus"),
    ("missing model file", ["use", "{a}", "--model", "gone.pth"], "gone.pth"),
    ("a picture as model", ["use", "{a}", "--model", "{a}"], "no checkpoint"),
    ("strength of one alone", ["use", "{a}", "--model", "{tiny}", "--strength", ".5"], "NAME-psnr"),
    ("too strong", ["use", "{a}", "--model", "mini-gan", "--strength", "1.5"], "choose 0"),
    ("no strength", ["use", "{a}", "--strength", "much"], "invalid float"),
    ("one rival twice", ["test", "--hr", "{dir}", "--model", "{tiny}", "--against", "{tiny}", "--against", "{tiny}"], "another name"),
    ("unknown precision", ["use", "{a}", "--precision", "int4"], "invalid choice"),
    ("unknown device", ["use", "{a}", "--model", "{tiny}", "--device", "tpu"], "tpu"),
    ("a device with a word", ["use", "{a}", "--model", "{tiny}", "--device", "cpu:abc"], "no device 'cpu:abc' here"),
    ("a card that is not there", ["use", "{a}", "--model", "{tiny}", "--device", "cuda:97"], "no device 'cuda:97' here"),
    ("size said twice", ["use", "{a}", "--model", "{tiny}", "--scale", "2", "--width", "9"], "give one of them"),
    ("a suffix with folders", ["use", "{a}", "--model", "{tiny}", "--suffix", "../x"], "without folders"),
    ("quality beyond 100", ["use", "{a}", "--quality", "101"], "from 1 to 100"),
    ("a format that is not written", ["use", "{a}", "--format", "gif"], "invalid choice"),
    ("tile in words", ["use", "{a}", "--tile", "many"], "whole number"),
    ("negative tile", ["use", "{a}", "--tile=-3"], "whole number"),
    ("abbreviated option", ["use", "{a}", "--over"], "--over"),
    ("out is a file", ["use", "{a}", "--model", "{tiny}", "--out", "{a}"], "a.png"),
    ("test without pictures", ["test", "--hr", "{dir}/gone", "--model", "none"], "no such file or folder"),
    ("test with an unknown metric", ["test", "--hr", "{dir}", "--model", "none", "--metric", "psnr"], "no metric 'psnr'"),
    ("unknown set", ["fetch", "Set15"], "Set15"),
    ("crops into a full folder", ["crops", "{dir}", "{dir}"], "not empty"),
    ("crops of nothing", ["crops", "{dir}", "{dir}/new"], "480"),
    ("check without a folder", ["check-data"], "--hr"),
    ("weights of a picture", ["weights", "{a}"], "no checkpoint"),
    ("demo elsewhere", ["demo", "--data", "{dir}"], "samples"),
]


@pytest.mark.parametrize("words, expected", [pytest.param(w, e, id=n) for n, w, e in ERRORS])
def test_an_error_is_one_line_and_status_2(words, expected, tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a = picture(tmp_path / "in" / "a.png")
    status = cli.main([w.format(a=a, tiny=tiny, dir=a.parent) for w in words])
    lines = [l for l in complaints(capsys) if not l.startswith(("usage:", " "))]
    assert status == 2
    assert len(lines) == 1 and expected in lines[0]
    assert lines[0].startswith("esrdgan")


def test_a_scale_that_makes_no_sense(tiny, tmp_path, capsys):
    for scale in ("0", "-2", "nan"):
        assert cli.main(["use", str(picture(tmp_path / "a.png")), "--model", tiny, "--out", str(tmp_path / "out"), f"--scale={scale}"]) in (1, 2)
        assert len(complaints(capsys)) == 1


def test_a_broken_download_is_one_line(monkeypatch, tmp_path, capsys):
    def broken(name): raise FetchError(f"{name}: the network is down\nand so are we")
    monkeypatch.setattr(weights, "load_generator", broken)
    assert cli.main(["use", str(picture(tmp_path / "a.png"))]) == 2
    assert complaints(capsys) == ["esrdgan: mini-gan: the network is down and so are we"]


def test_a_bug_of_ours_is_not_hidden(monkeypatch, tmp_path):
    def bug(name): raise KeyError("body.0")
    monkeypatch.setattr(weights, "load_generator", bug)
    with pytest.raises(KeyError):
        cli.main(["use", str(picture(tmp_path / "a.png"))])


def test_ctrl_c(monkeypatch, tmp_path, capsys):
    def stop(name): raise KeyboardInterrupt
    monkeypatch.setattr(weights, "load_generator", stop)
    assert cli.main(["use", str(picture(tmp_path / "a.png"))]) == 130
    assert complaints(capsys) == ["stopped"]


@pytest.mark.skipif(os.name == "nt", reason="signals to a single process differ there")
def test_ctrl_c_in_a_real_process_leaves_nothing_half_written(tiny, tmp_path):
    for i in range(400):
        picture(tmp_path / "in" / f"{i}.png", 64, 64, seed=i)
    env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    process = subprocess.Popen([sys.executable, "-m", "esrdgan", "use", str(tmp_path / "in"), "--model", tiny, "--ensemble", "--out", str(tmp_path / "out")],
                               env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))     # tests run in the background inherit that it is ignored
    while process.poll() is None and not list(tmp_path.glob("out/*.png")):
        time.sleep(.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and b"Traceback" not in err and err.rstrip().endswith(b"stopped")
    done = list((tmp_path / "out").glob("*.png"))
    assert 0 < len(done) < 400
    for path in done:
        assert Image.open(path).size == (256, 256) and np.asarray(Image.open(path)).size


def test_auto_takes_one_network_or_the_other(tiny, tmp_path, capsys, monkeypatch):
    "The names that are loaded, what the report counts, and that a strength goes to the clean one."
    load, asked = weights.load_generator, []
    monkeypatch.setattr(weights, "load_generator", lambda name: (asked.append(name), load(tiny))[1])
    monkeypatch.setattr(weights, "load_between", lambda name, strength: (asked.append((name, strength)), load(tiny))[1])
    y, x = np.mgrid[:64, :64]
    smooth = np.stack([2 * x + y, 190 - x, 3 * y], -1).astype(np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(smooth).save(tmp_path / "in" / "clean.png")
    picture(tmp_path / "noise.png", 64, 64, seed=1)
    Image.open(tmp_path / "noise.png").convert("RGB").save(tmp_path / "in" / "blocks.jpg", quality=20)
    assert cli.main(["use", str(tmp_path / "in"), "--model", "auto", "--out", str(tmp_path / "out")]) == 0
    assert asked == ["mini-gan", "mini-real"] and "2 written (1 by mini-real, 1 by mini-gan)" in capsys.readouterr().out
    assert cli.main(["use", str(tmp_path / "in"), "--model", "auto", "--strength", ".5", "--out", str(tmp_path / "half")]) == 0
    assert asked[2:] == [("mini-gan", .5), "mini-real"]


# --- test --------------------------------------------------------------------------------------------------------------

def test_test_writes_everything_it_promises(tiny, tmp_path, capsys):
    for name in ("a", "b"):
        picture(tmp_path / "hr" / f"{name}.png", 64, 48, seed=len(name))
    (tmp_path / "hr" / "bad.png").write_bytes(b"?")
    status = cli.main(["test", "--hr", str(tmp_path / "hr"), "--model", tiny, "--out", str(tmp_path / "out"), "--metric", "ssim_rgb_crop0"])
    captured = capsys.readouterr()
    assert status == 1 and "bad.png" in captured.err
    assert captured.out.startswith("certified: ") and "ssim_rgb_crop0" in captured.out
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"scores.csv", "scores.json", "sheet.png", "sr", *(f"{m}_psnr_rgb_crop0.csv" for m in ("nearest", "bicubic", "sr"))}
    scores = json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))
    assert [r["method"] for r in scores["means"]] == ["nearest", "bicubic", "sr"] and len(scores["rows"]) == 6 and len(scores["failed"]) == 1
    assert {p.name for p in (tmp_path / "out" / "sr").iterdir()} == {"a_x4.png", "b_x4.png"}
    assert (tmp_path / "out" / "sr_psnr_rgb_crop0.csv").read_text(encoding="utf-8").startswith("image,PSNR\na.png,")


def test_test_without_a_model_at_another_scale(tmp_path, capsys):
    picture(tmp_path / "hr" / "a.png", 64, 48)
    assert cli.main(["test", "--hr", str(tmp_path / "hr"), "--model", "none", "--scale", "2", "--out", str(tmp_path / "out")]) == 0
    assert "psnr_y_crop2" in capsys.readouterr().out
    assert not (tmp_path / "out" / "sr").exists()


def test_test_with_nothing_that_can_be_scored(tmp_path, capsys):
    picture(tmp_path / "hr" / "a.png", 3, 3)
    assert cli.main(["test", "--hr", str(tmp_path / "hr"), "--model", "none", "--out", str(tmp_path / "out")]) == 1
    assert len(complaints(capsys)) == 1 and not (tmp_path / "out").exists()


def test_test_refuses_to_score_with_a_spoilt_ruler(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(evaluate, "certify", CERTIFY)
    monkeypatch.setitem(evaluate.BICUBIC, "zone plate", 27.2)
    picture(tmp_path / "hr" / "a.png", 64, 48)
    assert cli.main(["test", "--hr", str(tmp_path / "hr"), "--model", "none", "--out", str(tmp_path / "out")]) == 2
    assert "zone plate" in complaints(capsys)[0] and not (tmp_path / "out").exists()


# --- the others --------------------------------------------------------------------------------------------------------

def test_weights_lists_and_describes(tiny, capsys):
    assert cli.main(["weights"]) == 0
    assert {"x4plus", "esrgan"} <= {line.split()[0] for line in capsys.readouterr().out.splitlines()}
    assert cli.main(["weights", tiny]) == 0
    out = capsys.readouterr().out
    assert "sha256" in out and "n_blocks 1" in out and tiny in out


def test_crops_and_check(tmp_path, capsys):
    picture(tmp_path / "in" / "a.png", 100, 80)
    assert cli.main(["crops", str(tmp_path / "in"), str(tmp_path / "crops"), "--size", "64", "--step", "32"]) == 0
    assert len(list((tmp_path / "crops").iterdir())) == 3 * 2
    assert cli.main(["crops", str(tmp_path / "in"), str(tmp_path / "hard"), "--size", "64", "--step", "32", "--keep", ".5"]) == 0
    assert len(list((tmp_path / "hard").iterdir())) == 3
    assert cli.main(["check-data", "--hr", str(tmp_path / "crops"), "--patch", "64"]) == 0
    (tmp_path / "crops" / "zz.png").write_bytes(b"")
    assert cli.main(["check-data", "--hr", str(tmp_path / "crops"), "--patch", "68"]) == 1
    assert len(capsys.readouterr().out.splitlines()) == 2 + 1 + 7


def test_fetch_without_names_lists_the_sets(capsys):
    assert cli.main(["fetch"]) == 0
    assert {"Set5", "Set14", "BSD100", "Urban100", "BSDS500", "DIV2K", "Flickr2K"} <= {line.split()[0] for line in capsys.readouterr().out.splitlines()}


def pair(folder):
    "Two generators that belong together: folder/me-psnr and folder/me-gan."
    for seed, kind in enumerate(("psnr", "gan")):
        torch.manual_seed(seed)
        save_generator(RRDBNet(n_features=4, n_blocks=1, growth=2, init_scale=1.), folder / f"me-{kind}.safetensors")
    return str(folder / "me-gan.safetensors")


def test_strength_walks_from_the_faithful_to_the_crisp(tmp_path):
    crisp, path = pair(tmp_path), picture(tmp_path / "a.png")
    made = {}
    for name, words in {"psnr": ["--model", crisp.replace("gan", "psnr")], "0": ["--model", crisp, "--strength", "0"], ".5": ["--model", crisp, "--strength", ".5"],
                        "1": ["--model", crisp, "--strength", "1"], "gan": ["--model", crisp]}.items():
        assert cli.main(["use", str(path), "--precision", "fp32", "--out", str(tmp_path / name), *words]) == 0
        made[name] = read_image(tmp_path / name / "a_x4.png")
    assert torch.equal(made["0"], made["psnr"]) and torch.equal(made["1"], made["gan"])
    assert not torch.equal(made[".5"], made["0"]) and not torch.equal(made[".5"], made["1"])


def test_a_rival_is_scored_on_the_same_pictures(tmp_path, capsys):
    crisp = pair(tmp_path)
    picture(tmp_path / "hr" / "a.png", 64, 48)
    words = ["test", "--hr", str(tmp_path / "hr"), "--out", str(tmp_path / "out"), "--precision", "fp32", "--metric", "lpips", "--model", crisp, "--strength", "0"]
    assert cli.main([*words, "--against", crisp.replace("gan", "psnr"), "--against", crisp]) == 0
    assert "me-gan.safetensors at strength 0" in capsys.readouterr().out
    rows = {r["method"]: r for r in json.loads((tmp_path / "out" / "scores.json").read_text())["rows"]}
    assert list(rows) == ["nearest", "bicubic", "me-psnr", "me-gan", "sr"]
    assert rows["sr"]["lpips"] == rows["me-psnr"]["lpips"] != rows["me-gan"]["lpips"]
    assert Image.open(tmp_path / "out" / "sheet.png").size[0] == 7 * 328 + 8


def test_demo_with_a_tiny_model(tiny, tmp_path, capsys):
    for folder in ("samples", "valid"):
        picture(tmp_path / "data" / folder / "a.png", 64, 48)
    assert cli.main(["demo", "--data", str(tmp_path / "data"), "--model", tiny, "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "Look first at" in out and str(tmp_path / "out" / "test" / "sheet.png") in out
    assert (tmp_path / "out" / "pictures" / "a_x4.png").exists() and (tmp_path / "out" / "test" / "sheet.png").exists()


@pytest.mark.parametrize("command", ["use", "test", "demo", "fetch", "crops", "check-data", "weights"])
def test_every_command_has_help_with_examples(command, capsys):
    assert cli.main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"esrdgan {command}" in out.split("examples:")[1]


def test_python_m_and_strange_names(tiny, tmp_path):
    assert run("--version").stdout.strip() == esrdgan.__version__
    path = picture(tmp_path / "Grüße 日本 [1].png")
    result = run("use", path, "--model", tiny, "--out", tmp_path / "out dir")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out dir" / "Grüße 日本 [1]_x4.png").exists()
    result = run("use", tmp_path / "ä.png", cwd=tmp_path)
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1


def test_a_terminal_that_cannot_show_a_name(tiny, tmp_path, monkeypatch, capsys):
    result = subprocess.run([sys.executable, "-m", "esrdgan", "use", str(tmp_path / "日本.png")], capture_output=True,
                            env=dict(os.environ, PYTHONPATH=str(ROOT), PYTHONIOENCODING="ascii:strict", PYTHONUTF8="0"))
    assert result.returncode == 2 and b"\\u65e5" in result.stderr and b"Traceback" not in result.stderr


def test_export_writes_a_checked_graph(tiny, tmp_path, capsys, monkeypatch):
    import onnxruntime
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6): pytest.skip("the export asks for PyTorch 2.6")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", str(tiny)]) == 0
    graph = tmp_path / f"{Path(tiny).stem}.onnx"
    assert str(graph.name) in capsys.readouterr().out
    x = torch.rand(1, 3, 9, 14)
    sr, = onnxruntime.InferenceSession(str(graph)).run(None, {"input": x.numpy()})
    with torch.no_grad(): assert torch.allclose(torch.from_numpy(sr), load_generator(tiny)(x), atol=1e-5)
    assert cli.main(["export", "nowhere.pth"]) == 2 and "no such file" in capsys.readouterr().err
    assert cli.main(["export", str(tiny), "--out", "net.pt"]) == 2 and "saved as .onnx" in capsys.readouterr().err
    assert not (tmp_path / "net.pt").exists()
