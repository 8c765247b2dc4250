"The quick way of up-convolutions: the same answers, and only inside its block."
import pytest
import torch
from torch.nn import functional as F

from esrdgan.blocks import UpConv
from esrdgan.generator import RRDBNet
from esrdgan.inference import upscale
from esrdgan.speed import fast_upsampling, folded


@pytest.fixture
def net():
    torch.manual_seed(0)
    return RRDBNet(8, 1, 8, init_scale=1.).eval()


@pytest.fixture
def short_ways(monkeypatch):
    "How often a transposed convolution ran."
    calls, plain = [], F.conv_transpose2d
    monkeypatch.setattr(F, "conv_transpose2d", lambda *args, **kwargs: calls.append(1) or plain(*args, **kwargs))
    return calls


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (2, 3, 1, 7), (1, 3, 6, 5)])
def test_folded_kernel_computes_what_nearest_and_convolution_do(shape):
    "In float64 nothing but rounding is left, and a wrong weight anywhere would be of the answers' own size."
    torch.manual_seed(0)
    up, x = UpConv(3).double(), torch.randn(shape, dtype=torch.double)
    wanted = F.conv2d(F.interpolate(x, scale_factor=2), up.weight, up.bias, padding=1)
    torch.testing.assert_close(F.conv_transpose2d(x, folded(up.weight), up.bias, stride=2, padding=1), wanted, rtol=0, atol=1e-13)


def test_folded_kernel_has_its_shape_for_unequal_channels():
    assert folded(torch.zeros(5, 3, 3, 3)).shape == (3, 5, 4, 4)


@pytest.mark.parametrize("kind", [dict(), dict(scale=2), dict(scale=8), dict(scale=1, unshuffle=True), dict(slope=.05), dict(hr_kernel=5)])
@torch.no_grad()
def test_network_gives_the_same_picture(kind):
    torch.manual_seed(0)
    net, x = RRDBNet(8, 1, 8, init_scale=1., **kind).double(), torch.rand(2, 3, 12, 8, dtype=torch.double)
    plain = net(x)
    with fast_upsampling(net):
        torch.testing.assert_close(net(x), plain, rtol=0, atol=1e-12)


@torch.no_grad()
def test_sixteen_bits_stay_within_their_rounding(net):
    x = torch.rand(1, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        plain = net(x).float()
        with fast_upsampling(net): quick = net(x).float()
    exact = net(x)
    assert (quick - exact).square().mean() < 2 * (plain - exact).square().mean()        # both round some hundred values to 8 bits


@torch.no_grad()
def test_the_block_ends_come_what_may(net, short_ways):
    x = torch.rand(1, 3, 8, 8)
    plain = net(x)
    with pytest.raises(KeyboardInterrupt), fast_upsampling(net): raise KeyboardInterrupt
    assert torch.equal(net(x), plain) and not short_ways
    assert not [name for name, layer in net.named_modules() if "forward" in vars(layer)]


@torch.no_grad()
def test_new_weights_are_seen_by_the_next_block(net):
    x = torch.rand(1, 3, 8, 8)
    with fast_upsampling(net): net(x)
    net.conv_up1.weight.mul_(-1)
    plain = net(x)
    with fast_upsampling(net): torch.testing.assert_close(net(x), plain, rtol=0, atol=1e-5)


def test_upscale_takes_the_short_way_and_leaves_the_network_as_it_was(net, short_ways):
    "A training that measures in between must go on to the same bits."
    lr = torch.rand(3, 8, 8)
    with torch.no_grad(): plain = net(lr[None])[0].clamp(0, 1)
    assert (upscale(net, lr, precision="fp32") - plain).abs().max() < 1e-5
    assert len(short_ways) == 2
    out = net(lr[None])
    assert len(short_ways) == 2
    out.sum().backward()
    assert net.conv_up1.weight.grad is not None
