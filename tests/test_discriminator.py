"The discriminators: sizes, counts against the published layer lists, first logits, oracles written out layer by layer."
import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from esrdgan.discriminator import NORMS, UNetDiscriminator, VGGDiscriminator, stage, start
from esrdgan.image import list_pictures, read_image
from esrdgan.resize import imresize
from lessons import ROOT

PICTURES = list_pictures(ROOT / "data" / "train")[:8]


def crops(patch):
    return torch.stack([read_image(p)[:, 20:20 + patch, 20:20 + patch] for p in PICTURES])


def count(make, **settings):
    with torch.device("meta"):
        return sum(p.numel() for p in make(**settings).parameters())


@pytest.mark.parametrize("patch, stages, left", [(32, 3, 4), (33, 3, 4), (63, 3, 7), (64, 4, 4), (96, 4, 6), (100, 4, 6), (128, 5, 4), (192, 5, 6), (256, 6, 4)])
@pytest.mark.parametrize("norm", NORMS)
def test_any_patch(patch, stages, left, norm):
    net = VGGDiscriminator(4, patch, norm=norm)
    x = torch.rand(2, 3, patch, patch)
    assert len(net.features) == stages and net.features(x).shape == (2, 4 * min(2 ** (stages - 1), 8), left, left)
    assert net(x).shape == (2, 1)


@pytest.mark.parametrize("features, total", [(64, 14_502_281), (96, 32_007_657)])
def test_ancestor_at_128_has_its_parameter_count(features, total):
    "Counted from the published layer list: five stages of two convolutions, batch norm but for the first, 100 units, 1."
    widths, listed = [3] + [features * m for m in (1, 2, 4, 8, 8)], 0
    for i in range(5):
        a, b = widths[i], widths[i + 1]
        listed += (9 * a * b + b) + (16 * b * b + b) + (2 * b if i == 0 else 4 * b)
    listed += 8 * features * 16 * 100 + 100 + 100 + 1
    assert listed == total == count(VGGDiscriminator, n_features=features, patch=128)


def ancestor(features):
    "The published layer list, written out flat."
    layers, a = [], 3
    for i, m in enumerate((1, 2, 4, 8, 8)):
        b = features * m
        layers += [nn.Conv2d(a, b, 3, 1, 1)] + ([nn.BatchNorm2d(b)] if i else []) + [nn.LeakyReLU(.2)]
        layers += [nn.Conv2d(b, b, 4, 2, 1), nn.BatchNorm2d(b), nn.LeakyReLU(.2)]
        a = b
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * features * 16, 100), nn.LeakyReLU(.2), nn.Linear(100, 1))


def test_same_function_as_the_layer_list():
    torch.manual_seed(0)
    ours, listed = VGGDiscriminator(4, 128), ancestor(4)
    listed.load_state_dict(dict(zip(listed.state_dict(), ours.state_dict().values())))
    x = torch.rand(3, 3, 128, 128)
    torch.testing.assert_close(ours(x), listed(x))
    torch.testing.assert_close(ours.eval()(x), listed.eval()(x))


def test_kernel_5_keeps_the_size_and_only_widens_the_first_convolution():
    assert count(VGGDiscriminator, n_features=4, patch=32, kernel=5) - count(VGGDiscriminator, n_features=4, patch=32) == 16 * (3 * 4 + 4 * 8 + 8 * 16)
    assert VGGDiscriminator(4, 32, kernel=5)(torch.rand(1, 3, 32, 32)).shape == (1, 1)


def test_norms_are_where_they_should_be():
    kinds = lambda **k: [type(m).__name__ for m in stage(3, 4, **k) if "Norm" in type(m).__name__]
    assert kinds() == ["BatchNorm2d"] * 2 and kinds(first=True) == ["BatchNorm2d"]
    assert kinds(norm="instance") == ["InstanceNorm2d"] * 2 and kinds(norm="none") == kinds(norm="spectral") == kinds(norm="none", first=True) == []


@pytest.mark.parametrize("make", [lambda: VGGDiscriminator(4, 16), lambda: VGGDiscriminator(4, 32, kernel=4), lambda: VGGDiscriminator(4, 32, norm="group"),
                                  lambda: VGGDiscriminator(4, 32)(torch.rand(1, 3, 32, 40)), lambda: UNetDiscriminator(4)(torch.rand(1, 3, 20, 16))])
def test_refused_in_one_line(make):
    with pytest.raises(ValueError) as error:
        make()
    assert "\n" not in str(error.value) and any(word in str(error.value) for word in ("choose", "patch=", "multiples of 8"))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("make", [lambda p: VGGDiscriminator(16, p), lambda p: VGGDiscriminator(16, p, norm="instance"), lambda p: VGGDiscriminator(16, p, norm="none"),
                                  lambda p: UNetDiscriminator(16)], ids=["batch", "instance", "none", "unet"])
def test_first_logits_are_of_order_one(make, seed):
    torch.manual_seed(seed)
    for patch in (32, 96):
        logits = make(patch)(crops(patch))
        assert .01 < logits.detach().square().mean().sqrt() < 4


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_last_layer_a_hundred_times_too_large_cuts_off_the_gradient(seed):
    hr = crops(32)
    made = imresize(imresize(hr, .25), 4.).clamp(0, 1)
    measured = []
    for factor in (1, 100):
        torch.manual_seed(seed)
        net = VGGDiscriminator(16, 32)
        net.head[-1].weight.data *= factor
        share = torch.sigmoid(-net(made).detach())
        measured.append(int(((share > .01) & (share < .99)).sum()))
    assert measured[0] == 8 and measured[1] <= 3


def test_start_is_he_and_silent_about_biases():
    net = start(nn.Sequential(nn.Conv2d(32, 64, 3), nn.Linear(400, 300), nn.Conv2d(4, 4, 1, bias=False)), slope=.1)
    for layer, fan_in in ((net[0], 288), (net[1], 400)):
        assert abs(float(layer.weight.detach().std()) * (fan_in * 1.01 / 2)**.5 - 1) < .05 and not layer.bias.any()


def weights(net):
    "Each convolution's effective weight and bias, spectral norm included, without another power iteration."
    return [(getattr(net, f"conv{i}").weight.detach(), getattr(net, f"conv{i}").bias) for i in range(10)]


def test_unet_against_its_published_structure():
    "Real-ESRGAN's: down by 4x4 of stride 2, up bilinear then 3x3, shortcuts added after the activation, two more, one out."
    torch.manual_seed(0)
    net = UNetDiscriminator(4).eval()
    w, x = weights(net), torch.rand(2, 3, 24, 40)
    act = lambda i, t, **k: F.leaky_relu(F.conv2d(t, w[i][0], w[i][1], padding=1, **k), .2)
    up = lambda t: F.interpolate(t, scale_factor=2, mode="bilinear", align_corners=False)
    x0 = act(0, x)
    x1 = act(1, x0, stride=2)
    x2 = act(2, x1, stride=2)
    x3 = act(3, x2, stride=2)
    y = act(4, up(x3)) + x2
    y = act(5, up(y)) + x1
    y = act(6, up(y)) + x0
    y = F.conv2d(act(8, act(7, y)), w[9][0], w[9][1], padding=1)
    torch.testing.assert_close(net(x), y)
    assert net(x).shape == (2, 1, 24, 40)


def test_unet_parameter_count():
    assert count(UNetDiscriminator) == 4_376_897


@pytest.mark.parametrize("net, limited", [(UNetDiscriminator(8), slice(1, 9)), (VGGDiscriminator(8, 32, norm="spectral"), slice(None))], ids=["unet", "vgg"])
def test_spectral_norm_holds_and_ignores_the_raw_size(net, limited):
    torch.manual_seed(0)
    x = torch.rand(1, 3, 32, 32)
    for _ in range(30):
        net(x)
    found = [m.weight.detach() for m in net.eval().modules() if isinstance(m, (nn.Conv2d, nn.Linear))][limited]
    assert len(found) == 8
    for weight in found:
        assert abs(float(torch.linalg.matrix_norm(weight.flatten(1), 2)) - 1) < .05
    before, middle = net(x), [m for m in net.modules() if isinstance(m, nn.Conv2d)][3]
    middle.parametrizations.weight.original.data *= 1000
    torch.testing.assert_close(net(x), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("net", [VGGDiscriminator(4, 32), VGGDiscriminator(4, 32, norm="none"), VGGDiscriminator(4, 32, norm="spectral"), UNetDiscriminator(4)],
                         ids=["vgg", "vgg-none", "vgg-spectral", "unet"])
def test_trainable_copyable_and_saved_whole(net):
    x = torch.rand(2, 3, 32, 32, requires_grad=True)
    gradient, = torch.autograd.grad(net(x).sum(), x, create_graph=True)          # what R1 needs
    (gradient.square().sum() + net(x).square().sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    twin, again = copy.deepcopy(net).eval(), type(net)(**net.config)
    again.load_state_dict(net.state_dict())
    torch.testing.assert_close(again.eval()(x), twin(x), rtol=0, atol=0)


def test_logits_are_not_probabilities():
    torch.manual_seed(0)
    net = VGGDiscriminator(16, 32)
    logits = torch.cat([net(torch.rand(8, 3, 32, 32)) for _ in range(4)])
    assert (logits < 0).any() or (logits > 1).any()
    assert not any(isinstance(m, (nn.Sigmoid, nn.Softmax)) for m in [*net.modules(), *UNetDiscriminator(4).modules()])


def test_it_can_learn():
    torch.manual_seed(0)
    hr = crops(32)
    made = imresize(imresize(hr, .25), 4.).clamp(0, 1)
    for net, share in ((VGGDiscriminator(8, 32), .85), (UNetDiscriminator(8), .99)):
        adam = torch.optim.Adam(net.parameters(), 2e-3)
        losses = []
        for _ in range(15):
            loss = F.softplus(-net(hr)).mean() + F.softplus(net(made)).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
            losses.append(loss.item())
        assert losses[-1] < share * losses[0]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_only_batch_norm_ties_the_pictures_of_a_batch_together(seed):
    "A structural claim: without batch norm the derivative at the partners is exactly zero; with it, far from it."
    for norm in NORMS:
        torch.manual_seed(seed)
        x = crops(32)[:2].requires_grad_()
        gradient, = torch.autograd.grad(VGGDiscriminator(16, 32, norm=norm)(x)[0].sum(), x)
        own, other = gradient.flatten(1).norm(dim=1)
        assert other > .02 * own if norm == "batch" else other == 0
