"Guards for `esrdgan.losses`: autograd and torch as references, labels, processes, penalties, and what the lesson's labs show, on three seeds."
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from esrdgan.features import edge_vgg16_small
from esrdgan.losses import (ADVERSARIAL, RELATIVISTIC, RELATIVISTIC_AVERAGE, VANILLA, charbonnier, consistency, cross_entropy, l1, l2, perceptual, r1, r2)

SEEDS = (1, 2, 3)
bce = F.binary_cross_entropy_with_logits


pytestmark = pytest.mark.usefixtures("one_thread")


def draw(seed, *shape, spread=3.):
    return spread * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slopes(adversarial, d_real, d_fake):
    d_fake = d_fake.clone().requires_grad_()
    return -torch.autograd.grad(adversarial.g(d_real, d_fake, mean=lambda d: d), d_fake)[0] * d_fake.numel()


# Pixels and features

@pytest.mark.parametrize('seed', SEEDS)
@pytest.mark.parametrize('ours, theirs', [(l1, F.l1_loss), (l2, F.mse_loss), (lambda a, b: charbonnier(a, b, eps=1e-9), F.l1_loss)])
def test_pixel_losses_equal_torchs(ours, theirs, seed):
    a, b = draw(seed, 2, 3, 8, 8), draw(seed + 10, 2, 3, 8, 8)
    torch.testing.assert_close(ours(a, b), theirs(a, b))
    assert torch.autograd.gradcheck(lambda x: ours(x, b), a.requires_grad_())


def test_charbonnier_has_a_slope_of_zero_where_l1_has_a_corner():
    x = torch.zeros(4, requires_grad=True)
    charbonnier(x, torch.zeros(4)).backward()
    assert x.grad.abs().max() == 0
    assert charbonnier(x, torch.zeros(4)).item() == pytest.approx(1e-3)


@pytest.mark.parametrize("scale", (2, 3, 4, 8))
def test_consistency_asks_for_the_colour_and_leaves_the_detail_free(scale):
    hr = draw(1, 2, 3, 48, 48).sigmoid()
    torch.testing.assert_close(consistency(hr - .1, hr, scale), torch.tensor(.1, dtype=torch.float64))
    stripes = hr + .1 * (-1.) ** torch.arange(48)
    assert consistency(stripes, hr, scale) < {2: .3, 3: .3}.get(scale, .1) * l1(stripes, hr)
    assert torch.autograd.gradcheck(lambda x: consistency(x, hr[:1, :1, :24, :24], scale), draw(2, 1, 1, 24, 24).requires_grad_())


def test_perceptual_weighs_every_layer_and_gives_the_truth_no_graph():
    layers = {2: .1, 14: 1.}
    sr, hr = draw(1, 1, 3, 32, 32).float().sigmoid().requires_grad_(), draw(2, 1, 3, 32, 32).float().sigmoid().requires_grad_()
    both = perceptual(edge_vgg16_small(layers), sr, hr)
    alone = [perceptual(edge_vgg16_small({layer: weight}), sr, hr) for layer, weight in layers.items()]
    torch.testing.assert_close(both, sum(alone))
    torch.testing.assert_close(perceptual(edge_vgg16_small({14: .25}), sr, hr), alone[1] / 4)
    both.backward()
    assert sr.grad.abs().sum() > 0 and hr.grad is None
    assert perceptual(edge_vgg16_small(), hr, hr).item() == 0


def test_perceptual_keeps_no_activation_of_the_truth():
    graphs = []
    class Spy:
        weights = [1.]
        def __call__(self, x):
            graphs.append(torch.is_grad_enabled())
            return [x * 2]
    perceptual(Spy(), torch.rand(1, 3, 4, 4, requires_grad=True), torch.rand(1, 3, 4, 4))
    assert sorted(graphs) == [False, True]


# Cross entropy on logits

@pytest.mark.parametrize('shape', [(5, 1), (5, 1, 4, 4), (5,)])
@pytest.mark.parametrize('label', [0., 1., .9, -.05, 1.2])
def test_cross_entropy_equals_torchs(shape, label):
    logits = draw(1, *shape).requires_grad_()
    ours, theirs = cross_entropy(logits, label), bce(logits, torch.full_like(logits, label), reduction='none')
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours.sum(), logits)[0], logits.sigmoid().detach() - label)


def test_one_label_per_sample_reaches_its_whole_map():
    logits, label = draw(1, 4, 1, 4, 4), torch.tensor([[0.], [1.], [.9], [.1]], dtype=torch.float64)   # 4 samples of 4 x 4: a wrong broadcast would pass
    expected = bce(logits, label[:, :, None, None].expand_as(logits), reduction='none')
    torch.testing.assert_close(cross_entropy(logits, label), expected)


@pytest.mark.parametrize('logit', [-1e4, -200., 200., 1e4])
def test_cross_entropy_is_finite_and_keeps_its_slope_far_out(logit):
    x = torch.tensor([logit], requires_grad=True)
    for label in (0., 1.):
        loss = cross_entropy(x, label)
        assert loss.item() == pytest.approx(abs(logit) if (logit > 0) != bool(label) else 0)
        assert torch.autograd.grad(loss, x)[0].item() == pytest.approx(float(logit > 0) - label)


def test_small_losses_are_not_rounded_away():
    for logit, label in ((15., 1.), (-15., 0.)):
        assert cross_entropy(torch.tensor([logit]), label).item() == pytest.approx(3.059e-7, rel=1e-3)


# The adversarial losses

def expected_d(name, r, f, t, u):
    if name in ('vanilla', 'saturating'): return bce(r, t) + bce(f, u)
    if name == 'relativistic': return (bce(r - f, t) + bce(f - r, u)) / 2
    return (bce(r - f.mean(), t) + bce(f - r.mean(), u)) / 2


def expected_g(name, r, f):
    one, zero = torch.ones_like(f), torch.zeros_like(f)
    if name == 'vanilla': return bce(f, one)
    if name == 'saturating': return (1 - f.sigmoid()).log().mean()
    if name == 'relativistic': return bce(f - r, one)
    return (bce(f - r.mean(), one) + bce(r - f.mean(), zero)) / 2


@pytest.mark.parametrize('seed', SEEDS)
@pytest.mark.parametrize('shape', [(6, 1), (2, 1, 4, 4)])
@pytest.mark.parametrize('name', ADVERSARIAL)
def test_both_players_equal_torchs_cross_entropy(name, shape, seed):
    r, f = draw(seed, *shape).requires_grad_(), draw(seed + 10, *shape).requires_grad_()
    t, u = draw(seed + 20, shape[0], 1).sigmoid(), draw(seed + 30, shape[0], 1).sigmoid()
    wide = [x.reshape(x.shape + (1,) * (len(shape) - 2)).expand(shape) for x in (t, u)]
    ours, theirs = ADVERSARIAL[name].d(r, f, t, u), expected_d(name, r, f, *wide)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, (r, f)), torch.autograd.grad(theirs, (r, f)))
    ours, theirs = ADVERSARIAL[name].g(r.detach(), f), expected_g(name, r.detach(), f)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, f), torch.autograd.grad(theirs, f))


@pytest.mark.parametrize('name', ADVERSARIAL)
def test_labels_default_to_one_and_zero(name):
    r, f = draw(1, 6, 1), draw(2, 6, 1)
    assert ADVERSARIAL[name].d(r, f).item() == ADVERSARIAL[name].d(r, f, torch.ones(6, 1), torch.zeros(6, 1)).item()


@pytest.mark.parametrize('name', ('vanilla', 'saturating'))
def test_absolute_losses_need_no_real_logits_for_g(name):
    f = draw(1, 4, 1)
    assert ADVERSARIAL[name].g(None, f) == ADVERSARIAL[name].g(draw(2, 4, 1), f)


def test_one_sided_smoothing_is_not_two_sided():
    r, f = draw(1, 6, 1), draw(2, 6, 1)
    one, two = (RELATIVISTIC.d(r, f, .9, u) for u in (0., .1))
    assert abs(one - two) > 1e-2
    torch.testing.assert_close(two, bce(r - f, torch.full_like(r, .9)))


def test_half_precision_logits_keep_finite_losses():
    r, f = torch.tensor([[300.]]).bfloat16(), torch.tensor([[-300.]]).bfloat16()
    for a in ADVERSARIAL.values():
        assert torch.isfinite(a.d(r, f)) and torch.isfinite(a.g(r, f))


@pytest.mark.parametrize('seed', SEEDS)
@pytest.mark.parametrize('name', ADVERSARIAL)
@pytest.mark.parametrize('side', 'dg')
def test_two_processes_with_one_mean_have_the_gradient_of_one(name, side, seed):
    "Each process gets the mean of all logits with a graph, and gradients are averaged: what `distributed` provides."
    def gradient(parts):
        r, f = draw(seed, 8, 1).requires_grad_(), draw(seed + 10, 8, 1).requires_grad_()
        losses = []
        for rank in range(parts):
            mine = slice(rank * 8 // parts, (rank + 1) * 8 // parts)
            mine_r, mine_f = r[mine], f[mine]
            losses.append(getattr(ADVERSARIAL[name], side)(mine_r, mine_f, mean=lambda x: (r if x is mine_r else f).mean()))
        return torch.autograd.grad(sum(losses) / parts, (r, f), allow_unused=True)
    torch.testing.assert_close(gradient(2), gradient(1))


# Penalties

@pytest.mark.parametrize('seed', SEEDS)
@pytest.mark.parametrize('penalty', (r1, r2))
def test_penalty_equals_a_loop_over_samples(penalty, seed):
    torch.manual_seed(seed)
    D = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(36, 1)).double()
    x = draw(seed, 5, 3, 7, 7)
    squares = [torch.autograd.functional.jacobian(lambda y: D(y[None])[0, 0], one).square().sum() for one in x]
    torch.testing.assert_close(penalty(D, x).detach(), sum(squares) / 5 / 2)


def test_penalty_reaches_the_discriminator_and_not_the_generator():
    torch.manual_seed(1)
    net, D = nn.Conv2d(3, 3, 1), nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 1, 3))
    r2(D, net(torch.rand(2, 3, 8, 8))).backward()
    assert D[0].weight.grad.abs().sum() > 0 and net.weight.grad is None


def test_penalty_falls_along_its_gradient_and_counts_a_map_as_its_average():
    w = torch.tensor(3., requires_grad=True)
    x = torch.rand(2, 1, 4, 4)
    per_pixel = r1(lambda y: w * y, x)                       # 16 logits, each with slope w: the average has slope w / 16 at each pixel
    assert per_pixel.item() == pytest.approx(9 / 16 / 2)
    assert torch.autograd.grad(per_pixel, w)[0].item() == pytest.approx(3 / 16)
    assert r1(lambda y: w * y.mean((1, 2, 3), keepdim=True)[..., 0, 0], x).item() == pytest.approx(9 / 16 / 2)


@pytest.mark.parametrize('seed', SEEDS)
def test_r1_and_r2_bring_the_relativistic_discriminator_to_rest(seed):
    "Fixed pictures at +1 and -1, D(x) = w x: unregularised, w grows for ever; else it rests where gamma w = sigmoid(-2w)."
    start = draw(seed, 1, spread=.3).float()
    def train(gamma, steps):
        w, hr = start.clone().requires_grad_(), torch.ones(3, 1)
        for _ in range(steps):
            loss = RELATIVISTIC.d(w * hr, -w * hr) + gamma * (r1(lambda x: w * x, hr) + r2(lambda x: w * x, -hr))
            w.data -= .5 * torch.autograd.grad(loss, w)[0]
        return w.item()
    rest = train(.1, 150)
    assert .1 * rest == pytest.approx(torch.sigmoid(torch.tensor(-2 * rest)).item(), abs=1e-4)
    assert train(0., 150) > 2.5 and train(0., 300) - train(0., 150) > .25


# What reaches G through each loss

SLOPES = {(6., 6.): (.0025, .9975, .5, .5), (6., -6.): (.9975, .0025, 1., 1.)}


@pytest.mark.parametrize('pair', SLOPES)
def test_slopes_at_the_corners(pair):
    r, f = (torch.tensor([x]) for x in pair)
    assert [round(slopes(a, r, f).item(), 4) for a in ADVERSARIAL.values()] == list(SLOPES[pair])


@pytest.mark.parametrize('seed', SEEDS)
@pytest.mark.parametrize('pairs', (1, 2, 7))
def test_the_average_reaches_g_through_the_mean_in_the_real_term_too(pairs, seed):
    r, f = draw(seed, pairs, 1), draw(seed + 10, pairs, 1).requires_grad_()
    total, own = (-torch.autograd.grad(RELATIVISTIC_AVERAGE.g(r, f, mean=mean), f)[0] * pairs for mean in (torch.mean, lambda x: x.mean().detach()))
    torch.testing.assert_close(own, (1 - (f.detach() - r.mean()).sigmoid()) / 2)
    torch.testing.assert_close(total - own, ((r - f.detach().mean()).sigmoid().mean() / 2).expand(pairs, 1))


@pytest.mark.parametrize('seed', SEEDS)
def test_a_shift_of_both_logits_moves_only_the_absolute_losses(seed):
    r, f, shift = draw(seed, 50, 1), draw(seed + 10, 50, 1), 2.5
    for name, a in ADVERSARIAL.items():
        moved = (slopes(a, r + shift, f + shift) - slopes(a, r, f)).abs().max()
        assert moved < 1e-9 if 'relativistic' in name else moved > .1, name
    c = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    for name, a in ADVERSARIAL.items():
        slope = torch.autograd.grad(a.d(r + c, f + c), c)[0].abs()
        assert slope < 1e-9 if 'relativistic' in name else slope > 1e-3, name


# The price of looking real

def three_db(weight, seed, steps=250):
    torch.manual_seed(seed)
    network = lambda channels: nn.Sequential(nn.Conv2d(channels, 32, 1), nn.LeakyReLU(.2), nn.Conv2d(32, 32, 1), nn.LeakyReLU(.2), nn.Conv2d(32, 1, 1))
    net, D = network(2), network(1)
    opt_g, opt_d = (torch.optim.Adam(n.parameters(), 5e-3, betas=(.5, .99)) for n in (net, D))
    m, seen = torch.full((1, 1, 16, 16), .5), []
    for _ in range(steps):
        hr, sr = torch.randint(0, 2, m.shape).float(), m + net(torch.cat([m, torch.randn_like(m)], 1))
        opt_d.zero_grad()
        VANILLA.d(D(hr), D(sr.detach())).backward()
        opt_d.step()
        opt_g.zero_grad()
        (l2(sr, hr) + weight * VANILLA.g(None, D(sr))).backward()
        opt_g.step()
        seen.append((l2(sr, hr).item(), sr.std().item()))
    return torch.tensor(seen[-100:]).mean(0).tolist()


@pytest.mark.parametrize('seed', SEEDS)
def test_looking_alive_doubles_the_error(seed):
    mse, texture = three_db(0., seed)
    assert mse == pytest.approx(.25, abs=.01) and texture < .04
    mse, texture = three_db(.2, seed)
    assert .42 < mse < .55 and .4 < texture < .55
    assert mse == pytest.approx(.25 + texture**2, abs=.04)


# The loss mixer

@pytest.mark.parametrize('seed', SEEDS)
def test_norms_are_linear_in_the_weights_and_shares_add_up(seed):
    torch.manual_seed(seed)
    hr, sr = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32, requires_grad=True)
    D = nn.Sequential(nn.Conv2d(3, 8, 4, 2), nn.LeakyReLU(.2), nn.Conv2d(8, 1, 3))
    features = edge_vgg16_small()
    def norms(*weights):
        terms = l1(sr, hr), perceptual(features, sr, hr), RELATIVISTIC_AVERAGE.g(D(hr).detach(), D(sr))
        return torch.stack([torch.autograd.grad(w * term, sr)[0].norm() for w, term in zip(weights, terms)])
    once, twice = norms(.01, 1., .005), norms(.02, 2., .01)
    torch.testing.assert_close(twice, 2 * once)
    torch.testing.assert_close(once / once.sum(), twice / twice.sum())
    assert (once / once.sum()).sum().item() == pytest.approx(1)
    assert once[0].item() == pytest.approx(.01 / (3 * 32 * 32) ** .5, rel=1e-4)
