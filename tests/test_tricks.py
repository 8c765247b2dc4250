"Guards for `esrdgan.tricks`: statistics, schedules against PyTorch's, shares of several processes, what its labs show on three seeds."
import copy
import math
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from esrdgan.losses import SATURATING, VANILLA
from esrdgan.tricks import Tricks, instance_noise, labels, learning_rate, lr_noise, noise_level, update_ema

SEEDS = (1, 2, 3)
MANY = 40_000


pytestmark = pytest.mark.usefixtures("one_thread")


# The dataclass

def test_all_off_by_default():
    t, x = Tricks(), torch.rand(4, 3, 8, 8)
    assert labels(t, 4, True, 0, 0).tolist() == [[1.]] * 4 and labels(t, 4, False, 0, 0).tolist() == [[0.]] * 4
    assert instance_noise(t, x, 0, 0, 'real') is x and lr_noise(t, x, 0, 0) is x
    assert {learning_rate(t, 2e-4, s, 100) for s in range(100)} == {2e-4}
    assert (t.d_steps, t.ema, t.clip) == (1, 0, 0)


@pytest.mark.parametrize('wrong, told', [
    (dict(label_noise=-.1), 'label_noise is -0.1: choose 0 or more'),
    (dict(label_noise=math.nan), 'label_noise is nan'),
    (dict(instance_noise=math.inf), 'instance_noise is inf'),
    (dict(instance_noise_steps=-1), 'instance_noise_steps is -1'),
    (dict(instance_noise_decay='exp'), "instance_noise_decay is 'exp': choose one of linear, cosine"),
    (dict(lr_noise=-1e-9), 'lr_noise'),
    (dict(smooth_real=1.), 'smooth_real is 1.0: choose at least 0 and below 1'),
    (dict(smooth_fake=-.1), 'smooth_fake'),
    (dict(smooth_real=.5, smooth_fake=.5), 'sum below 1'),
    (dict(flip=.5), 'flip is 0.5: choose at least 0 and below 0.5'),
    (dict(d_steps=0), 'd_steps is 0: choose 1 or more'),
    (dict(ema=1.), 'ema is 1.0'),
    (dict(ema=-.1), 'ema is -0.1'),
    (dict(clip=-1.), 'clip is -1.0'),
    (dict(warmup=-5), 'warmup is -5'),
    (dict(schedule='step'), "schedule is 'step': choose one of constant, multistep, cosine"),
    (dict(schedule='multistep'), 'milestones is empty'),
    (dict(milestones=(20, 10)), 'milestones is (20, 10): choose rising'),
    (dict(milestones=(10, 10)), 'milestones'),
    (dict(milestones=(0, 10)), 'milestones'),
    (dict(gamma=0.), 'gamma is 0.0'),
    (dict(gamma=1.5), 'gamma is 1.5: choose above 0 and at most 1'),
])
def test_a_wrong_value_is_one_clear_line(wrong, told):
    for make in (lambda: Tricks(**wrong), lambda: replace(Tricks(), **wrong)):
        with pytest.raises(ValueError) as error:
            make()
        assert told in str(error.value) and '\n' not in str(error.value)


def test_every_trick_is_checked():
    for field in fields(Tricks):
        bad = {'milestones': (-1,), 'schedule': '', 'instance_noise_decay': ''}.get(field.name, -1)
        with pytest.raises(ValueError, match=field.name):
            Tricks(**{field.name: bad})


# Labels

@pytest.mark.parametrize('seed', SEEDS)
@pytest.mark.parametrize('real', (True, False))
def test_label_noise_has_mean_0_and_its_deviation(seed, real):
    x = labels(Tricks(label_noise=.2), MANY, real, seed, 7)
    assert x.shape == (MANY, 1) and x.dtype == torch.float32
    assert x.mean().item() == pytest.approx(float(real), abs=5 * .2 / math.sqrt(MANY))
    assert x.std().item() == pytest.approx(.2, rel=.03)
    assert len(x.unique()) > MANY * .9                                  # one draw for each sample
    z = (x - float(real)) / .2
    assert (z**4).mean().item() == pytest.approx(3, abs=.25)            # Gaussian; a uniform one has 1.8
    assert x.max() > 1.4 or not real                                    # not clipped


def test_smoothing_is_exact_and_one_sided_where_asked():
    one, two = Tricks(smooth_real=.1), Tricks(smooth_real=.1, smooth_fake=.2)
    assert labels(one, 3, True, 0, 0).tolist() == [[pytest.approx(.9)]] * 3 and labels(one, 3, False, 0, 0).tolist() == [[0]] * 3
    assert labels(two, 3, True, 0, 0).tolist() == [[pytest.approx(.9)]] * 3
    assert labels(two, 3, False, 0, 0).tolist() == [[pytest.approx(.2)]] * 3


@pytest.mark.parametrize('seed', SEEDS)
def test_flips_exchange_single_labels(seed):
    t = Tricks(flip=.15, smooth_real=.1, smooth_fake=.05)
    real, fake = labels(t, MANY, True, seed, 0), labels(t, MANY, False, seed, 0)
    for x, rare in ((real, .05), (fake, .9)):
        assert sorted(x.unique().tolist()) == [pytest.approx(.05), pytest.approx(.9)]
        assert torch.isclose(x, torch.tensor(rare)).float().mean().item() == pytest.approx(.15, abs=.01)
    together = (torch.isclose(real, torch.tensor(.05)) & torch.isclose(fake, torch.tensor(.9))).float().mean().item()
    assert together == pytest.approx(.15**2, abs=.006)                  # real and fake are drawn apart


def test_draws_are_counted():
    t = Tricks(label_noise=.1, flip=.2, instance_noise=.1, lr_noise=.1)
    x = torch.rand(4, 3, 5, 5)
    makes = (lambda seed, step: labels(t, 64, True, seed, step), lambda seed, step: instance_noise(t, x, step, seed, 'real'),
             lambda seed, step: lr_noise(t, x, step, seed))
    for make in makes:
        first, state = make(1, 2), torch.get_rng_state()
        torch.rand(9)
        assert torch.equal(make(1, 2), first)
        assert not torch.equal(make(1, 3), first) and not torch.equal(make(2, 2), first)
        torch.set_rng_state(state)
        make(1, 2)
        assert torch.equal(torch.get_rng_state(), state)                # the global state is left alone
    assert not torch.equal(instance_noise(t, x, 2, 1, 'real') - x, instance_noise(t, x, 2, 1, 'fake') - x)
    noisy = Tricks(label_noise=.1)
    same = labels(noisy, 64, True, 1, 2)
    flipped = labels(replace(noisy, flip=.2), 64, True, 1, 2)
    kept = (flipped - same).abs() < .5
    assert 0 < kept.sum() < 64 and torch.equal(flipped[kept], same[kept])     # turning on one trick leaves the other's draws


@given(size=st.sampled_from((1, 2, 3, 4)), n=st.integers(1, 5), seed=st.integers(0, 99), step=st.integers(0, 10**6), real=st.booleans())
def test_parts_equal_the_whole(size, n, seed, step, real):
    t = Tricks(label_noise=.1, flip=.2, instance_noise=.1, lr_noise=.2)
    parts = [(rank, size) for rank in range(size)]
    x = torch.linspace(0, 1, n * size * 12).reshape(n * size, 3, 2, 2)
    chunks = list(zip(x.chunk(size), parts))
    assert torch.equal(torch.cat([labels(t, n, real, seed, step, p) for p in parts]), labels(t, n * size, real, seed, step))
    assert torch.equal(torch.cat([instance_noise(t, c, step, seed, 'fake', p) for c, p in chunks]), instance_noise(t, x, step, seed, 'fake'))
    assert torch.equal(torch.cat([lr_noise(t, c, step, seed, p) for c, p in chunks]), lr_noise(t, x, step, seed))


# Instance noise

@pytest.mark.parametrize('seed', SEEDS)
@pytest.mark.parametrize('decay', ('linear', 'cosine'))
@pytest.mark.parametrize('step, level', [(0, .4), (500, .2), (1000, 0.), (2000, 0.)])
def test_instance_noise_has_mean_0_and_the_scheduled_deviation(seed, decay, step, level):
    t, x = Tricks(instance_noise=.4, instance_noise_steps=1000, instance_noise_decay=decay), torch.full((4, 3, 64, 64), .5)
    noise = instance_noise(t, x, step, seed, 'real') - x
    bound = 5 * level / math.sqrt(x.numel()) + 1e-7
    assert abs(noise.mean().item()) <= bound                            # uniform noise from 0 on has the mean level / 2
    assert noise.std().item() == pytest.approx(level, rel=.02, abs=1e-7)
    uniform = level * torch.rand(x.shape, generator=torch.Generator().manual_seed(seed))
    assert level == 0 or abs(uniform.mean().item()) > 20 * bound        # so this test can fail


def test_noise_never_grows():
    for decay in ('linear', 'cosine'):
        t = Tricks(instance_noise=.3, instance_noise_steps=200, instance_noise_decay=decay)
        levels = [noise_level(t, s) for s in range(300)]
        assert all(a >= b >= 0 for a, b in zip(levels, levels[1:])) and levels[0] == .3 and levels[200] == 0
    assert noise_level(Tricks(instance_noise=.3), 10**9) == .3


def test_noise_keeps_dtype_and_lets_the_gradient_through():
    t, x = Tricks(instance_noise=.1), torch.rand(2, 3, 4, 4, dtype=torch.bfloat16, requires_grad=True)
    y = instance_noise(t, x, 0, 0, 'fake')
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


# EMA

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)


@pytest.mark.parametrize('decay', (0., .5, .9, .999))
def test_ema_is_its_closed_form(decay):
    torch.manual_seed(0)
    model = Net()
    ema, start = copy.deepcopy(model), copy.deepcopy(model)
    seen = []
    for step in range(30):
        for p in model.parameters(): p.data += torch.randn_like(p)
        model.norm.running_mean += 1
        model.norm.num_batches_tracked += 1
        seen.append([p.detach().clone() for p in model.parameters()])
        update_ema(ema, model, decay)
    for i, (average, first) in enumerate(zip(ema.parameters(), start.parameters())):
        closed = decay**30 * first + (1 - decay) * sum(decay**(29 - k) * p[i] for k, p in enumerate(seen))
        assert torch.allclose(average, closed, atol=2e-5)
    for a, b in zip(ema.buffers(), model.buffers()):
        assert torch.equal(a, b)
    if decay == 0:
        assert all(torch.equal(a, b) for a, b in zip(ema.parameters(), model.parameters()))


def test_ema_needs_no_graph_and_leaves_the_model():
    model = nn.Linear(2, 2)
    ema, before = copy.deepcopy(model), copy.deepcopy(model.state_dict())
    update_ema(ema, model, .9)
    assert ema.weight.grad_fn is None and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


# Learning rates, against PyTorch's

def rates_of(make, steps):
    optimiser = torch.optim.SGD([torch.zeros(1)], lr=2e-4)
    scheduler, rates = make(optimiser), []
    for _ in range(steps):
        rates.append(optimiser.param_groups[0]['lr'])
        optimiser.step()
        scheduler.step()
    return rates


S = torch.optim.lr_scheduler


@pytest.mark.parametrize('t, make', [
    (Tricks(schedule='multistep', milestones=(20, 50, 51)), lambda o: S.MultiStepLR(o, [20, 50, 51], .5)),
    (Tricks(schedule='multistep', milestones=(1,), gamma=.1), lambda o: S.MultiStepLR(o, [1], .1)),
    (Tricks(schedule='cosine'), lambda o: S.CosineAnnealingLR(o, 80)),
    (Tricks(warmup=10), lambda o: S.LinearLR(o, .1, 1, 9)),
    (Tricks(warmup=2), lambda o: S.LinearLR(o, .5, 1, 1)),
    (Tricks(warmup=30, schedule='multistep', milestones=(20, 50)),
     lambda o: S.ChainedScheduler([S.LinearLR(o, 1 / 30, 1, 29), S.MultiStepLR(o, [20, 50], .5)])),
    (Tricks(warmup=10, schedule='cosine'), lambda o: S.LambdaLR(o, lambda s: min(1, (s + 1) / 10) * (1 + math.cos(math.pi * s / 80)) / 2)),
])
def test_learning_rates_are_pytorchs(t, make):
    assert [learning_rate(t, 2e-4, s, 80) for s in range(80)] == pytest.approx(rates_of(make, 80), rel=1e-5, abs=1e-12)


def test_cosine_stays_at_0_after_the_end():
    assert [learning_rate(Tricks(schedule='cosine'), 1., s, 50) for s in (50, 51, 1000)] == [0, 0, 0]


# The labs of noise and labels: a logistic D with two parameters between +1 and -1

def duel(tricks, seed, noise=instance_noise, told=lambda label: label, steps=300, n=128):
    w = torch.zeros(2, requires_grad=True)
    optimiser, trace = torch.optim.Adam([w], lr=.3), []
    for step in range(steps):
        real, fake = (w[0] * noise(tricks, torch.full((n, 1), x), step, seed, name) + w[1] for x, name in ((1., 'real'), (-1., 'fake')))
        loss = VANILLA.d(real, fake, *(told(labels(tricks, n, is_real, seed, step)) for is_real in (True, False)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        trace.append([real.mean().item(), fake.mean().item()])
    return torch.tensor(trace), real.detach(), fake.detach(), w.detach()


def on_g(loss, fake, w):
    fake = fake.clone().requires_grad_()
    return (-torch.autograd.grad(loss.g(None, fake), fake)[0].sum() * w[0]).item()


def uniform(tricks, x, step, seed, name):
    generator = torch.Generator().manual_seed(seed * 10_000 + step * 2 + (name == 'real'))
    return x + noise_level(tricks, step) * torch.rand(x.shape, generator=generator)


def bounded(tricks, x, step, seed, name):       # mean and width of the Gaussian, but no tails
    return x + math.sqrt(12) * (uniform(tricks, x, step, seed, name) - x - noise_level(tricks, step) / 2)


def moved(sides):
    return lambda tricks, x, step, seed, name: instance_noise(tricks, x, step, seed, name) + noise_level(tricks, step) / 2 * (name in sides)


def final_gap(trace): return (trace[-50:, 0] - trace[-50:, 1]).mean().item()


@pytest.mark.parametrize('seed', SEEDS)
def test_without_noise_d_grows_certain_and_g_starves(seed):
    trace, real, fake, w = duel(Tricks(), seed)
    assert trace[99, 0] - trace[99, 1] > 10
    assert on_g(SATURATING, fake, w) < .02 and on_g(VANILLA, fake, w) > 5


@pytest.mark.parametrize('seed', SEEDS)
@pytest.mark.parametrize('sigma, expected', [(.8, 6.25), (1., 4.), (1.5, 16 / 9), (2., 1.)])
def test_gaussian_noise_holds_the_gap(seed, sigma, expected):
    trace, real, fake, w = duel(Tricks(instance_noise=sigma), seed)
    assert final_gap(trace) == pytest.approx(expected, rel=.15)         # d^2 / sigma^2
    assert on_g(SATURATING, fake, w) > .1


@pytest.mark.parametrize('seed', SEEDS)
def test_uniform_noise_fails(seed):
    trace, real, fake, w = duel(Tricks(instance_noise=1.), seed, uniform)
    assert final_gap(trace) > 12
    assert torch.cat([real > 0, fake < 0]).float().mean() > .99
    with pytest.raises(AssertionError):
        assert final_gap(trace) == pytest.approx(4, rel=.15)


@pytest.mark.parametrize('seed', SEEDS)
def test_which_fault_of_torch_rand_does_it(seed):
    def gap(noise, sigma=1.): return final_gap(duel(Tricks(instance_noise=sigma), seed, noise)[0])
    assert final_gap(duel(Tricks(instance_noise=12**-.5), seed)[0]) > 12                  # its width
    assert gap(moved(('real', 'fake'))) == pytest.approx(4, rel=.15)                      # not a common mean: the bias absorbs it
    assert gap(moved(('real',))) == pytest.approx(6.25, rel=.15)                          # one on one side is a difference: d = 2.5
    assert gap(bounded) == pytest.approx(4, rel=.15)                                      # the reach matters where the sides hardly touch
    assert gap(bounded, .7) > gap(instance_noise, .7) + 2


@pytest.mark.parametrize('seed', SEEDS)
@pytest.mark.parametrize('decay', ('linear', 'cosine'))
def test_the_gap_returns_as_the_noise_goes(seed, decay):
    trace = duel(Tricks(instance_noise=1., instance_noise_steps=300, instance_noise_decay=decay), seed)[0]
    assert trace[-1, 0] - trace[-1, 1] > 10


@pytest.mark.parametrize('seed', SEEDS)
def test_where_d_rests(seed):
    rest = {name: duel(t, seed, steps=500)[0][-200:].mean(0).tolist() for name, t in dict(
        one=Tricks(smooth_real=.1), both=Tricks(smooth_real=.1, smooth_fake=.1), flip=Tricks(flip=.1),
        noise=Tricks(label_noise=.1), mixed=Tricks(flip=.05, smooth_real=.1)).items()}
    held = math.log(9)
    assert rest['one'][0] == pytest.approx(held, abs=.05) and rest['one'][1] < -8
    assert rest['both'] == pytest.approx([held, -held], abs=.02)
    assert rest['flip'] == pytest.approx([held, -held], abs=.3)
    assert rest['mixed'] == pytest.approx([math.log(.855 / .145), math.log(.045 / .955)], abs=.4)
    assert rest['noise'][0] > 5 and rest['noise'][1] < -5


@pytest.mark.parametrize('seed', SEEDS)
@pytest.mark.parametrize('t', [Tricks(), Tricks(smooth_real=.1), Tricks(flip=.1), Tricks(label_noise=.1)])
def test_exchanged_labels_for_both_players_change_only_the_sign(seed, t):
    (a, _, fake, w), (b, _, mirrored, v) = duel(t, seed, steps=100), duel(t, seed, told=lambda label: 1 - label, steps=100)
    assert torch.allclose(a, -b, atol=1e-3)
    toward = -F.sigmoid(-mirrored).mean() * v[0]                        # G, told the opposite, descends log s(D) with D = -D
    assert toward.item() == pytest.approx(on_g(SATURATING, fake, w), abs=1e-4)


# The lab of the D:G ratio: a Gaussian, all seeds at once

def play(ratio, updates=1200, seeds=SEEDS, n=64):
    draws = [torch.Generator().manual_seed(s) for s in seeds]
    z = lambda: torch.stack([torch.randn(n, 1, generator=d) for d in draws])

    def make(*sizes):
        for a, b in zip(sizes, sizes[1:]):
            yield (torch.stack([torch.randn(a, b, generator=d) for d in draws]) * math.sqrt(2 / a)).requires_grad_()
            yield torch.zeros(len(seeds), 1, b, requires_grad=True)

    def run(p, x):
        for i in range(0, len(p), 2):
            x = torch.baddbmm(p[i + 1], F.leaky_relu(x, .2) if i else x, p[i])
        return x

    g, d = list(make(1, 32, 1)), list(make(1, 32, 32, 1))
    opt_g, opt_d = (torch.optim.Adam(p, lr=r, betas=(0., .99), fused=True) for p, r in ((g, 3e-3), (d, 1e-2)))
    even = math.sqrt(2) * torch.erfinv(torch.linspace(-1, 1, 257)[:-1] + 1 / 256)
    gaps, distances = [], []
    for step in range(updates * ratio // (ratio + 1)):
        real, fake = run(d, 2 + .5 * z()), run(d, run(g, z()).detach())
        opt_d.zero_grad()
        (len(seeds) * VANILLA.d(real, fake)).backward()
        opt_d.step()
        if (step + 1) % ratio: continue
        opt_g.zero_grad()
        (len(seeds) * VANILLA.g(None, run(d, run(g, z())))).backward()
        opt_g.step()
        gaps.append((real - fake).detach().mean((1, 2)))
        with torch.no_grad(): points = run(g, even.expand(len(seeds), 256)[..., None])[..., 0].sort(1)[0]
        distances.append((points - 2 - .5 * even).abs().mean(1))
    return torch.stack(gaps), torch.stack(distances)


def test_more_steps_of_d_win_per_step_of_g_and_lose_per_update():
    (gap1, far1), (gap5, far5) = play(1), play(5)
    near = lambda x, i: x[i - 10:i + 10].mean(0)
    assert (near(far1, 100) > 1.2 * near(far5, 100)).all()              # at the same step of G
    assert (1.15 * near(far1, 200) < near(far5, 66)).all()              # after the same 400 updates
    assert (gap5[-50:].mean(0) > 2.5 * gap1[-150:].mean(0)).all()
