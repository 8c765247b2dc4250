"Guards for `esrdgan.blocks`: phenomena on three seeds, edge cases."
import inspect

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from esrdgan.blocks import RDB, RRDB, DenseLayer, UpConv, input_gradient, phase_variation, receptive_field

SEEDS = (1, 2, 3)


def count(module): return sum(p.numel() for p in module.parameters())


def mean_variation(make, seeds=20, first=0):
    total = 0.
    for seed in range(first, first + seeds):
        torch.manual_seed(seed)
        total += phase_variation(make())
    return total / seeds


def transposed(kernel, equal=False):
    layer = nn.ConvTranspose2d(16, 16, kernel, stride=2, bias=False)
    if equal: nn.init.ones_(layer.weight)
    return layer


def shuffle(icnr=False):
    conv = nn.Conv2d(16, 64, 3, bias=False)
    if icnr: conv.weight.data = conv.weight.data[::4].repeat_interleave(4, 0)
    return nn.Sequential(conv, nn.PixelShuffle(2))


# The checkerboard (lesson 06)

@pytest.mark.parametrize('kernel, expected', [(2, 0), (3, .3263), (4, 0), (5, .2221), (6, 0)])
def test_equal_weights_draw_a_grid_with_odd_kernels_only(kernel, expected):
    assert phase_variation(transposed(kernel, equal=True)) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize('first', (100, 200, 300))
@pytest.mark.parametrize('make', [lambda k=k: transposed(k) for k in (2, 3, 4, 5, 6)] + [shuffle])
def test_random_weights_draw_a_grid(make, first):
    assert .58 < mean_variation(make, first=first) < .76


@pytest.mark.parametrize('seed', SEEDS)
def test_random_weights_give_what_four_unrelated_numbers_give(seed):
    four = torch.randn(4, 100_000, generator=torch.Generator().manual_seed(seed))
    std, level = four.std(0, unbiased=False), four.mean(0).abs()
    assert mean_variation(lambda: transposed(4), first=100 * seed) == pytest.approx((std / (std + level)).mean().item(), abs=.08)


@pytest.mark.parametrize('seed', SEEDS)
def test_training_teaches_a_transposed_convolution_to_draw_no_grid(seed):
    torch.manual_seed(seed)
    layer = nn.ConvTranspose2d(1, 1, 4, stride=2, padding=1)
    optimiser = torch.optim.Adam(layer.parameters(), lr=1e-2)
    before = phase_variation(layer, 1)
    for _ in range(400):
        x = torch.rand(8, 1, 16, 16)
        loss = F.mse_loss(layer(x), F.interpolate(x, scale_factor=2))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert phase_variation(layer, 1) < .05 < before


@pytest.mark.parametrize('seed', SEEDS)
@pytest.mark.parametrize('make', [lambda: shuffle(icnr=True), lambda: UpConv(16)])
def test_icnr_and_nearest_conv_draw_none(make, seed):
    torch.manual_seed(seed)
    assert phase_variation(make()) < 1e-5


def test_phase_variation_of_silence_and_of_pure_grid():
    assert phase_variation(lambda x: F.interpolate(0 * x, scale_factor=2)) == 0
    grid = torch.tensor([[1., -1.], [-1., 1.]]).tile(16, 16)
    assert phase_variation(lambda x: F.interpolate(x, scale_factor=2) * grid) == pytest.approx(1)


# The receptive field (lesson 06)

@pytest.mark.parametrize('seed', SEEDS)
@pytest.mark.parametrize('lff_kernel, n_dense, field', [(3, 4, 31), (1, 4, 25), (3, 1, 13), (1, 2, 13), (5, 1, 19)])
def test_true_receptive_field(lff_kernel, n_dense, field, seed):
    torch.manual_seed(seed)
    block = RRDB(16, 8, n_dense, lff_kernel).double()
    true, effective = receptive_field(input_gradient(block, torch.randn(1, 16, 39, 39).double()))
    assert true == field
    assert effective == 1                      # init .1: nearly everything takes the skips


@pytest.mark.parametrize('seed', SEEDS)
def test_effective_field_grows_with_the_init(seed):
    torch.manual_seed(seed)
    block = RRDB(16, 8, init_scale=1.).double()
    assert 3 <= receptive_field(input_gradient(block, torch.randn(1, 16, 39, 39).double()))[1] <= 15


def test_receptive_field_of_an_oblong_input_and_a_share():
    box = nn.Conv2d(1, 1, 5, padding=2)
    nn.init.ones_(box.weight)
    gradient = input_gradient(box, torch.rand(1, 1, 9, 21))
    assert gradient.shape == (9, 21)
    assert receptive_field(gradient) == (5, 5)
    assert receptive_field(gradient, share=9 / 25 - .01) == (5, 3)


# The blocks

@pytest.mark.parametrize('lff_kernel, expected', [(3, 45072), (1, 26640)])
def test_parameters_of_the_small_rrdb(lff_kernel, expected): assert count(RRDB(16, 8, lff_kernel=lff_kernel)) == expected


@pytest.mark.parametrize('n_dense', (1, 2, 4, 6))
@pytest.mark.parametrize('lff_kernel', (1, 3))
def test_rdb_by_its_definition(n_dense, lff_kernel):
    torch.manual_seed(0)
    block, x = RDB(12, 5, n_dense, lff_kernel, residual_scale=.3, slope=.1, init_scale=1.), torch.randn(2, 12, 7, 9)
    seen = x
    for i in range(1, n_dense + 1):
        conv = getattr(block, f'conv{i}')
        new = F.conv2d(seen, conv.weight, conv.bias, padding=1)
        seen = torch.cat([seen, torch.where(new > 0, new, .1 * new)], 1)
    fuse = getattr(block, f'conv{n_dense + 1}')
    torch.testing.assert_close(block(x), x + .3 * F.conv2d(seen, fuse.weight, fuse.bias, padding=lff_kernel // 2))


@pytest.mark.parametrize('init_scale, slope', [(.1, .2), (.5, 0.), (1., .2)])
def test_initial_weights_are_he_times_init_scale(init_scale, slope):
    torch.manual_seed(0)
    block = RDB(64, 32, init_scale=init_scale, slope=slope)
    for conv in block.children():
        fan_in = conv.weight[0].numel()
        assert conv.weight.std().item() == pytest.approx(init_scale * (2 / (1 + slope**2) / fan_in) ** .5, rel=.03)
        assert not conv.bias.any()


def test_gradients_reach_every_weight_and_inplace_activations_do_no_harm():
    torch.manual_seed(0)
    block = RRDB(4, 2, n_dense=2, init_scale=1.).double()
    x = torch.randn(1, 4, 3, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(block, x)
    block(x).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in block.parameters())


def test_upconv_gradient():
    torch.manual_seed(0)
    assert torch.autograd.gradcheck(UpConv(2).double(), torch.randn(1, 2, 3, 3, dtype=torch.double, requires_grad=True))


def test_the_input_is_left_alone():
    x = torch.randn(1, 16, 6, 6)
    kept = x.clone()
    with torch.no_grad(): RRDB(16, 8)(x); UpConv(16)(x); DenseLayer(16, 8)([x])
    assert torch.equal(x, kept)


def test_residual_scales_are_plain_attributes():
    torch.manual_seed(0)
    block, x = RRDB(8, 4), torch.randn(1, 8, 5, 5)
    block.residual_scale = 0.
    assert torch.equal(block(x), x)
    block.residual_scale = 1.
    for rdb in (block.rdb1, block.rdb2, block.rdb3): rdb.residual_scale = 0.
    assert torch.equal(block(x), 2 * x)


def test_a_submodule_more_does_not_change_the_answer():
    torch.manual_seed(0)
    block, x = RDB(8, 4), torch.randn(1, 8, 5, 5)
    before = block(x)
    block.extra = nn.Conv2d(3, 3, 1)
    assert torch.equal(block(x), before)


@pytest.mark.parametrize('seed', SEEDS)
def test_with_batch_norm_an_answer_depends_on_the_neighbours_in_the_batch(seed):
    torch.manual_seed(seed)
    norm, x = nn.Sequential(nn.BatchNorm2d(16), RDB(16, 8)), torch.rand(1, 16, 12, 12)
    def moved(net):
        dark, bright = (net(torch.cat([x, torch.full_like(x, value)]))[0] for value in (0., 1.))
        return ((dark - bright).abs().mean() / dark.std()).item()
    assert moved(norm[1]) < 1e-3 and moved(norm) > .2


def test_an_even_fusing_kernel_is_refused():
    with pytest.raises(ValueError, match='lff_kernel is 4'): RDB(lff_kernel=4)


def test_bfloat16_and_channels_last_stay_close():
    torch.manual_seed(0)
    block, x = RRDB(16, 8), torch.randn(1, 16, 8, 8)
    reference = block(x)
    torch.testing.assert_close(block.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last)), reference)
    assert (block.bfloat16()(x.bfloat16()).float() - reference).abs().max() < .05


def test_rdb_and_rrdb_share_their_defaults():
    rdb, rrdb = (inspect.signature(c).parameters for c in (RDB, RRDB))
    assert all(rrdb[name].default == p.default for name, p in rdb.items())
