"The weights in weights/: each file against the registry and against every figure that its card promises."
import json
import re
from functools import cache
from pathlib import Path

import pytest
import torch

from esrdgan import run
from esrdgan.cli import main
from esrdgan.config import read_config
from esrdgan.degrade import blur, gaussian_kernel, gaussian_noise, jpeg
from esrdgan.evaluate import back_projection, read_pair, resize8
from esrdgan.fetch import cache_folder, sha256
from esrdgan.image import list_pictures, quantize
from esrdgan.inference import finite_pass, make_consistent, upscale
from esrdgan.logs import read_lines
from esrdgan.metrics import psnr_y_crop4
from esrdgan.perception import lpips, metric
from esrdgan.recipes import recipe_config
from esrdgan.resize import imresize
from esrdgan.weights import WEIGHTS, find_weights, load_generator

ROOT = Path(__file__).parent.parent
STAGE = lambda name: "psnr" if name.endswith("psnr") else "gan"
OURS = [p.stem for p in sorted((ROOT / "weights").glob("*.jsonl"))]


def recipe_of(name):
    "How it was trained: a recipe, or settings in benchmarks/."
    return read_config(ROOT / "benchmarks" / "mini_real.ini") if name == "mini-real" else recipe_config(name)


def card_rows(name):
    "{(set, pass): (PSNR, SSIM)} of the card's table."
    text = (ROOT / "weights" / f"{name}.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| (Set5|Set14|data/valid) \| (single|consistent|ensemble) \| ([\d.]+) \| ([\d.]+) \|", text, re.M)
    return {(where, how): (float(psnr), float(ssim)) for where, how, psnr, ssim in found}


def measured(tmp_path, name, where, how):
    "What `esrdgan test` writes as the mean of the model."
    hr = ["--hr", str(where)] if where.name == "valid" else ["--hr", str(where / "HR"), "--lr", str(where / "LRbicx4")]
    assert main(["test", *hr, "--model", name, "--precision", "fp32", "--out", str(tmp_path)] + [f"--{how}"] * (how != "single")) == 0
    mean = next(m for m in json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))["means"] if m["method"] == "sr")
    return mean["psnr_y_crop4"], mean["ssim_y_crop4"]


@cache
def enlarged(name):
    "{picture: (HR, LR, what one pass in fp32 makes of it, not clamped)} of data/valid."
    model, found = load_generator(name), {}
    for path in list_pictures(ROOT / "data" / "valid"):
        hr, lr = read_pair(path, None, 4)
        with torch.inference_mode():
            found[path.stem] = hr, lr, finite_pass(model, lr[None], torch.float32)[0]
    return found


def test_something_is_shipped():
    assert {f"{size}-{kind}" for size in ("tiny", "mini") for kind in ("psnr", "gan")} <= set(OURS)


@pytest.mark.parametrize("name", OURS)
def test_file_registry_and_card_agree(name):
    path, card = find_weights(name), WEIGHTS[name]
    assert path == ROOT / "weights" / f"{name}.safetensors"
    assert (path.stat().st_size, sha256(path)) == (card.bytes, card.sha256)
    text = (ROOT / "weights" / f"{name}.md").read_text(encoding="utf-8")
    assert card.sha256 in text and f"{card.bytes:,}" in text and len(card_rows(name)) == 9


@pytest.mark.parametrize("name", OURS)
def test_the_recipe_is_the_one_that_made_it(name):
    rows, recipe, model = read_lines(ROOT / "weights" / f"{name}.jsonl"), recipe_of(name), load_generator(name)
    stage = getattr(recipe, STAGE(name))
    assert [r["step"] for r in rows][:200] == list(range(1, 201)) and rows[-1]["step"] == stage.steps
    assert rows[stage.warmup // 100 + 199 if stage.warmup else 0]["rate_g"] == pytest.approx(stage.learning_rate, rel=1e-3)
    assert STAGE(name) == "psnr" or not stage.adversarial_weight or rows[0]["rate_d"] == pytest.approx(stage.d_learning_rate, rel=1e-3)
    assert {k: model.config[k] for k in ("n_features", "n_blocks", "growth")} == {k: getattr(recipe.generator, k) for k in ("n_features", "n_blocks", "growth")}


def right(name, where, how, psnr, ssim):
    return (psnr, ssim) == (pytest.approx(card_rows(name)[where, how][0], abs=.006), pytest.approx(card_rows(name)[where, how][1], abs=.0006))


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("how", ["single", "consistent"])
def test_the_card_is_right_on_the_shipped_pictures(name, how):
    scores = []
    for hr, lr, sr in enlarged(name).values():
        made = quantize((sr if how == "single" else make_consistent(sr, lr)).clamp(0, 1))
        scores.append((psnr_y_crop4(made, hr), metric("ssim_y_crop4")(made, hr)))
    assert right(name, "data/valid", how, *(sum(column) / len(scores) for column in zip(*scores)))


@pytest.mark.parametrize("name, how", [("tiny-psnr", "single"), ("tiny-psnr", "consistent"), ("tiny-psnr", "ensemble"), ("tiny-gan", "ensemble")])
def test_the_card_is_right_on_the_shipped_pictures_through_the_command(name, how, tmp_path):
    "The smallest networks stand for all: what they are asked to do is the same code, and the ensemble of a mini takes minutes."
    assert right(name, "data/valid", how, *measured(tmp_path, name, ROOT / "data" / "valid", how))


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("where", ["Set5", "Set14"])
@pytest.mark.parametrize("how", ["single", "consistent", "ensemble"])
def test_the_card_is_right_on_public_sets(name, where, how, tmp_path, data_root):
    assert right(name, where, how, *measured(tmp_path, name, data_root / where, how))


@pytest.mark.parametrize("name", OURS)
def test_spandrel_loads_the_file_and_gives_the_same_picture(name):
    spandrel = pytest.importorskip("spandrel")
    theirs = spandrel.ModelLoader("cpu").load_from_file(find_weights(name))
    lr = read_pair(ROOT / "data" / "valid" / "cat.png", None, 4)[1]
    with torch.inference_mode():
        assert theirs.scale == 4
        torch.testing.assert_close(theirs.model.eval().float()(lr[None]), load_generator(name)(lr[None]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", OURS)
def test_it_brings_no_colour_of_its_own(name):
    "Each channel's mean stays within one level of 255 (two after a GAN stage); that of tiny-psnr, on the first four, within half a level."
    for i, (picture, (hr, _, sr)) in enumerate(enlarged(name).items()):
        shift = (sr.clamp(0, 1).mean((1, 2)) - hr.mean((1, 2))).abs().max() * 255
        assert shift < (2 if STAGE(name) == "gan" else .5 if name == "tiny-psnr" and i < 4 else 1), picture


@pytest.mark.parametrize("size", ["tiny", "mini"])
def test_the_gan_stage_brought_resemblance_and_kept_to_the_small_picture(size):
    "Picture by picture on data/valid: LPIPS, which no training here looked at, against bicubic and the PSNR network; agreement; colours; decibels on average."
    dearer = []
    for path, (hr, lr, faithful) in enlarged(f"{size}-psnr").items():
        bicubic, faithful, crisp = pictures = [resize8(lr, 4), *(quantize(sr.clamp(0, 1)) for sr in (faithful, enlarged(f"{size}-gan")[path][2]))]
        far = [lpips(x, hr) for x in pictures]
        assert far[2] < .85 * far[0] and far[2] < .95 * far[1], path
        assert back_projection(crisp, lr) > 38, path
        assert (imresize(crisp, 1 / 4) - lr).mean((1, 2)).abs().max() * 255 < 2, path
        dearer.append(psnr_y_crop4(crisp, hr) - psnr_y_crop4(bicubic, hr))
    assert sum(dearer) / len(dearer) > -.5


def test_mini_real_mends_what_mini_gan_enlarges():
    "Four photographs after a JPEG of quality 70, and after blur, noise and a JPEG of 55: LPIPS, on average, and decibels."
    networks = [load_generator(name) for name in ("mini-real", "mini-gan")]
    far, near = torch.zeros(2, 2), torch.zeros(2, 2)
    for picture in ("astronaut", "cat", "coffee", "cups"):
        hr, lr = read_pair(ROOT / "data" / "valid" / f"{picture}.png", None, 4)
        dull = gaussian_noise(imresize(blur(hr, gaussian_kernel(1.6)), 1 / 4), 4 / 255, torch.Generator().manual_seed(0))
        for i, damaged in enumerate((jpeg(lr, 70), jpeg(dull, 55))):
            for j, network in enumerate(networks):
                sr = quantize(upscale(network, damaged))
                far[i, j] += lpips(sr, hr)
                near[i, j] += psnr_y_crop4(sr, hr)
    assert (far[:, 0] < .8 * far[:, 1]).all() and (near[:, 0] > near[:, 1]).all()


@pytest.mark.parametrize("name", OURS)
def test_the_first_steps_come_again(data_root, tmp_path, monkeypatch, name):
    "Ten steps of the recipe, stopped after five and continued, against the log of the run that made the weights."
    if name == "mini-real": pytest.skip("it learned from a teacher's answers: benchmarks/student.py makes them")
    config = recipe_config(name)
    config.run.out, config.data.hr, config.data.hold_out = str(tmp_path), str(data_root / "bsds400"), 20
    if STAGE(name) == "gan":
        if not (cache_folder() / "weights" / "vgg16.safetensors").exists(): pytest.skip("needs VGG-16: esrdgan fetch vgg16")
    else: monkeypatch.setenv("ESRDGAN_CACHE", str(tmp_path / "cache"))

    class Stop(Exception):
        pass

    def until(last):
        whole = run.RunLogger.write
        def write(self, log, pictures={}):
            whole(self, log, pictures)
            if log.step == last: raise Stop
        return write
    config.training.save_every = 5
    for last in (6, 10):
        with monkeypatch.context() as patch, pytest.raises(Stop):
            patch.setattr(run.RunLogger, "write", until(last))
            run.run(config, tmp_path / "again", resume=last > 6)
    again, shipped = read_lines(tmp_path / "again" / STAGE(name) / "log.jsonl"), read_lines(ROOT / "weights" / f"{name}.jsonl")[:10]
    assert [r["step"] for r in again] == list(range(1, 11))
    for mine, theirs in zip(again, shipped): assert mine["pixel"] == pytest.approx(theirs["pixel"], rel=.02)
