"The evaluator: known figures, pairs, what fails, and what the report's files hold."
import csv
import json
import os
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from esrdgan import evaluate as module
from esrdgan.evaluate import BICUBIC, CertificateError, Evaluation, back_projection, baselines, certify, cut_out, evaluate, read_pair, resize8
from esrdgan.image import PictureError, read_image, write_image
from esrdgan.inference import upscale
from esrdgan.metrics import MetricError, psnr
from esrdgan.evaluate import contact_sheet, table, write_ancestor_csv, write_csv, write_json
from esrdgan.resize import imresize


class Copy(nn.Module):
    "Repeats pixels, at any scale."
    def __init__(self, scale): super().__init__(); self.scale = scale
    def forward(self, x): return x.repeat_interleave(self.scale, -2).repeat_interleave(self.scale, -1)


exact = partial(upscale, precision="fp32")


def picture(height, width, seed=0):
    x = torch.rand(3, -(-height // 8), -(-width // 8), generator=torch.Generator().manual_seed(seed))
    return imresize(x, size=(height, width)).clamp(0, 1)


@pytest.fixture
def hr(tmp_path):
    for name, size in (("a.png", (64, 80)), ("b.png", (65, 83))):
        write_image(picture(*size), tmp_path / "hr" / name)
    return tmp_path / "hr"


@pytest.mark.parametrize("name, known", [("Set5", 28.42), ("Set14", 26.09)])
def test_bicubic_has_the_published_figure(data_root, name, known):
    tolerance = .02 if name == "Set5" else .03
    result = evaluate(None, data_root / name / "HR", data_root / name / "LRbicx4")
    assert not result.failed
    assert result.means[1]["method"] == "bicubic"
    assert abs(result.means[1]["psnr_y_crop4"] - known) <= tolerance


def test_shipped_pictures_and_frozen_figures_are_the_same_set():
    assert {p.name for p in module.SHIPPED.iterdir()} == set(BICUBIC) - {"zone plate"}
    assert len(BICUBIC) >= 9


def test_an_installed_package_without_pictures_is_certified_by_the_zone_plate(tmp_path):
    assert "on 1 picture" in certify(tmp_path / "nothing here")


@pytest.mark.parametrize("spoil", ["no antialias", "other kernel", "rounded down"])
def test_a_spoilt_imresize_is_noticed(spoil, monkeypatch, tmp_path):
    wrong = {"no antialias": lambda x, scale: imresize(x, scale, antialias=False),
             "other kernel": lambda x, scale: (nn.functional.interpolate(x[None].float(), scale_factor=scale, mode="bicubic", antialias=scale < 1)[0].clamp(0, 255) + .5).to(torch.uint8),
             "rounded down": lambda x, scale: imresize(x, scale) - (imresize(x, scale) > 0).to(torch.uint8)}[spoil]
    monkeypatch.setattr(module, "imresize", wrong)
    with pytest.raises(CertificateError, match="zone plate: bicubic x4 gives"):
        certify(tmp_path / "nothing here")


def test_a_spoilt_luma_is_noticed(monkeypatch, tmp_path):
    from esrdgan import metrics
    monkeypatch.setattr(metrics, "luma", lambda x: (x * x.new_tensor([.299, .587, .114])[:, None, None]).sum(-3, keepdim=True))
    with pytest.raises(CertificateError):
        certify(tmp_path / "nothing here")


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_protocol_and_pair_follow_the_scale(hr, scale):
    result = evaluate(Copy(scale), hr, enlarge=exact)
    assert result.protocols == [f"psnr_y_crop{scale}", f"ssim_y_crop{scale}", "psnr_rgb_crop0"]
    assert [r["method"] for r in result.rows] == ["nearest", "bicubic", "sr"] * 2 and not result.failed
    for near, sr in (result.rows[0::3][:1] + result.rows[2::3][:1], result.rows[3:4] + result.rows[5:6]):
        assert {**near, "method": "sr"} == sr         # a copying network is nearest, to the last digit
    truth, lr = read_pair(hr / "b.png", None, scale)
    assert list(truth.shape[1:]) == [65 // scale * scale, 83 // scale * scale] == [n * scale for n in lr.shape[1:]]


def test_baselines_have_the_levels_of_8_bit_files():
    x = torch.rand(3, 12, 16, generator=torch.Generator().manual_seed(0))
    for made in (resize8(x, 1 / 4), resize8(x, 2), *baselines(x, 2).values()):
        torch.testing.assert_close(made * 255, (made * 255).round(), atol=1e-4, rtol=0)


def test_given_small_pictures_are_paired_by_name(hr, tmp_path):
    for name in ("a", "b"):
        x = read_pair(hr / f"{name}.png", None, 4)[1]
        write_image(x, tmp_path / "lr" / f"{name}x4.png")
    given, made = evaluate(None, hr, tmp_path / "lr"), evaluate(None, hr)
    assert given.rows == made.rows and not given.failed


def test_every_unfit_pair_has_its_line_and_the_rest_goes_on(hr, tmp_path):
    lr = tmp_path / "lr"
    write_image(read_pair(hr / "a.png", None, 4)[1], lr / "a.png")
    write_image(picture(5, 5), lr / "b.png")
    write_image(picture(16, 16), hr / "lonely.png")
    write_image(picture(16, 16), hr / "bad.png")
    (lr / "bad.png").write_bytes(b"nothing")
    result = evaluate(None, hr, lr)
    assert {r["image"] for r in result.rows} == {"a.png"}
    text = "\n".join(result.failed)
    assert len(result.failed) == 3 and all("\n" not in line for line in result.failed)
    assert "not 4 times as large" in text and "lonely" in text and "bad.png" in text


@pytest.mark.parametrize("name, size, word", [("tiny", (3, 9), "smaller than the scale"), ("small", (8, 8), "crop"), ("low", (16, 40), "SSIM")])
def test_pictures_too_small_to_score(tmp_path, name, size, word):
    write_image(picture(*size), tmp_path / f"{name}.png")
    result = evaluate(None, tmp_path)
    assert not result.rows and len(result.failed) == 1
    assert f"{name}.png" in result.failed[0] and word in result.failed[0]


def test_grey_and_16_bit_pictures_are_scored(tmp_path):
    x = (picture(48, 48)[0].numpy() * 65535).astype(np.uint16)
    Image.fromarray(x).save(tmp_path / "deep.png")
    Image.fromarray((x // 257).astype(np.uint8)).save(tmp_path / "grey.png")
    result = evaluate(None, tmp_path)
    assert [r["image"] for r in result.rows] == ["deep.png"] * 2 + ["grey.png"] * 2 and not result.failed
    deep, grey = result.rows[1]["psnr_y_crop4"], result.rows[3]["psnr_y_crop4"]
    assert abs(deep - grey) < .1


def test_scores_are_those_of_the_saved_files(hr, tmp_path):
    class Halftone(Copy):
        def forward(self, x): return super().forward(x) * .7531 + .1
    result = evaluate(Halftone(4), hr, enlarge=exact, save=tmp_path / "sr")
    assert sorted(p.name for p in (tmp_path / "sr").iterdir()) == ["a_x4.png", "b_x4.png"]
    truth, lr = read_pair(hr / "a.png", None, 4)
    saved = read_image(tmp_path / "sr" / "a_x4.png")
    assert result.rows[2]["psnr_y_crop4"] == pytest.approx(psnr(saved, truth), abs=1e-9)
    assert result.rows[2]["back_projection"] == pytest.approx(back_projection(saved, lr), abs=1e-9)


def test_a_model_that_breaks_on_one_picture(hr):
    class Fussy(Copy):
        def forward(self, x):
            if x.shape[-1] == 20: raise ValueError("I do not like\nthis one")
            return super().forward(x)
    result = evaluate(Fussy(2), [hr / "a.png", hr / "b.png"], enlarge=lambda model, lr: exact(model, lr))
    assert not result.failed
    result = evaluate(Fussy(4), [hr / "a.png"], enlarge=lambda model, lr: model(lr[None])[0])
    assert result.failed == [f"{hr / 'a.png'}: I do not like this one"] and not result.rows


def test_unknown_metrics_are_refused_before_any_work(hr):
    with pytest.raises(MetricError, match="no metric"):
        evaluate(None, hr, protocols=["psnr"])
    with pytest.raises(PictureError):
        evaluate(None, hr / "nowhere")


def test_more_metrics_are_columns(hr):
    result = evaluate(None, hr, protocols=["ssim_rgb_crop0"])
    assert result.protocols[-1] == "ssim_rgb_crop0" and 0 < result.means[1]["ssim_rgb_crop0"] < 1


def test_the_square_is_where_bicubic_errs_most_and_the_same_in_all():
    truth = torch.full((3, 96, 128), .5)
    truth[:, 60:76, 100:116] = picture(16, 16)
    pictures = baselines(resize8(truth, 1 / 4), 4)
    whole, squares = cut_out(truth, pictures, side=32)
    assert list(squares) == ["nearest", "bicubic", "truth"]
    assert len({s.size for s in squares.values()}) == 1
    found = np.asarray(squares["truth"])
    assert len(np.unique(found.reshape(-1, 3), axis=0)) >= 200           # nearly all of the busy patch lies inside
    assert max(whole.size) <= module.CELL


def record(value=30.):
    rows = [{"image": name, "method": m, "psnr_y_crop4": value + i, "ssim_y_crop4": .9, "psnr_rgb_crop0": 25., "back_projection": 40.}
            for name in ("a, b.png", "ü.png") for i, m in enumerate(("nearest", "bicubic", "sr"))]
    return Evaluation(4, ["psnr_y_crop4", "ssim_y_crop4", "psnr_rgb_crop0"], rows, ["c.png: damaged"])


def test_csv_survives_commas_and_umlauts(tmp_path):
    write_csv(record(), tmp_path / "x" / "scores.csv")
    rows = list(csv.reader((tmp_path / "x" / "scores.csv").read_text(encoding="utf-8").splitlines()))
    assert rows[0] == ["image", "method", "psnr_y_crop4", "ssim_y_crop4", "psnr_rgb_crop0", "back_projection"]
    assert {len(r) for r in rows} == {6} and len(rows) == 1 + 6 + 3
    assert rows[1][0] == "a, b.png" and rows[4][0] == "ü.png" and rows[-1][:3] == ["mean", "sr", "32.000000"]
    assert os.listdir(tmp_path / "x") == ["scores.csv"]


def test_the_ancestors_form(tmp_path):
    write_ancestor_csv(record(), tmp_path / "old.csv", "bicubic")
    assert (tmp_path / "old.csv").read_text(encoding="utf-8") == 'image,PSNR\n"a, b.png",25.000000\nü.png,25.000000\n'


def test_json_is_strict_even_with_infinite_figures(tmp_path):
    write_json(record(float("inf")), tmp_path / "scores.json")
    def refuse(name): raise AssertionError(name)
    back = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert back["rows"][0]["psnr_y_crop4"] == "inf" and back["failed"] == ["c.png: damaged"] and back["scale"] == 4


def test_a_flat_picture_goes_through_the_whole_report(tmp_path):
    write_image(torch.full((3, 48, 48), .5), tmp_path / "hr" / "flat.png")
    result = evaluate(Copy(4), tmp_path / "hr", enlarge=exact)
    assert result.means[0]["psnr_y_crop4"] == float("inf")
    assert "inf" in table(result)
    write_csv(result, tmp_path / "flat.csv")
    contact_sheet(result, tmp_path / "flat.png")
    assert Image.open(tmp_path / "flat.png").size == (5 * 328 + 8, 354 + 8)


def test_a_failed_write_leaves_the_old_report_alone(hr, tmp_path, monkeypatch):
    target = tmp_path / "scores.csv"
    target.write_text("old")
    def full(*_): raise OSError("no space left on device")
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError):
        write_csv(record(), target)
    assert target.read_text() == "old"


def test_the_sheet_has_no_more_rows_than_asked(hr, tmp_path):
    result = evaluate(None, hr)
    contact_sheet(result, tmp_path / "one.png", most=1)
    contact_sheet(result, tmp_path / "two.png")
    one, two = (Image.open(tmp_path / f"{n}.png") for n in ("one", "two"))
    assert two.height - one.height == 354 and one.width == two.width == 4 * 328 + 8


