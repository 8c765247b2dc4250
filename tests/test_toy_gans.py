"Dirac-GAN and ring: the thresholds of labs 1 and 2 on three seeds each, and what the lesson does not show."
import math

import numpy as np
import pytest
import torch

from esrdgan import losses
from esrdgan.toy_gans import (
    MODES, NON_SATURATING, RELATIVISTIC, RELATIVISTIC_AVERAGE, SATURATING, WASSERSTEIN, Dirac, Ring, dirac_gradients, mlp, modes_found, near_modes, ring,
    slope_penalty,
)

GAMES = {"vanilla": NON_SATURATING, "saturating": SATURATING, "relativistic": RELATIVISTIC, "relativistic_average": RELATIVISTIC_AVERAGE}
SEEDS = pytest.mark.parametrize("seed", (1, 2, 3))


pytestmark = pytest.mark.usefixtures("one_thread")


def radius(loss, seed, **how):
    return Dirac(loss, seed=seed, **how).step(500)["radius"][-1]


@SEEDS
def test_the_saturating_game_orbits(seed):
    assert 1.6 < radius(SATURATING, seed, simultaneous=True) < 1.9
    assert .95 < radius(SATURATING, seed) < 1.05                                # alternating closes the orbit


@SEEDS
def test_wasserstein_grows_by_its_closed_form(seed):
    assert radius(WASSERSTEIN, seed, simultaneous=True) == pytest.approx((1 + .1**2)**250, rel=1e-3)


@SEEDS
def test_non_saturating_shrinks_slowly(seed):
    assert .3 < radius(NON_SATURATING, seed) < .45


@SEEDS
@pytest.mark.parametrize("cure", (dict(penalty=.3), dict(noise=.7)), ids=("R1", "noise"))
@pytest.mark.parametrize("simultaneous", (True, False))
def test_r1_and_noise_bring_it_home(cure, simultaneous, seed):
    assert radius(SATURATING, seed, simultaneous=simultaneous, **cure) < .01
    assert radius(NON_SATURATING, seed, simultaneous=simultaneous, **cure) < .01


def test_noise_does_not_help_a_linear_discriminator():
    assert radius(WASSERSTEIN, 1, simultaneous=True, noise=.7) > 10


@pytest.mark.parametrize("name", [*GAMES, "wasserstein"])
@pytest.mark.parametrize("how", (dict(), dict(penalty=.3), dict(noise=.7)), ids=("plain", "R1", "noise"))
def test_games_side_by_side_do_not_touch(name, how):
    game = (GAMES | {"wasserstein": WASSERSTEIN})[name]
    theta, psi = torch.tensor([1., -.5, .2]), torch.tensor([.3, 2., -1.])
    together = dirac_gradients(theta, psi, game, **how)
    alone = [dirac_gradients(theta[i:i + 1], psi[i:i + 1], game, **how) for i in range(3)]
    for player in (0, 1):
        torch.testing.assert_close(together[player], torch.cat([a[player] for a in alone]))


def test_gradients_agree_with_mescheder_by_hand():
    theta, psi = torch.tensor([.7]), torch.tensor([-1.3])
    s = 1 / (1 + math.exp(.7 * 1.3))
    for_g, for_d = dirac_gradients(theta, psi, NON_SATURATING, penalty=.5)
    assert for_g.item() == pytest.approx((1 - s) * 1.3, rel=1e-5)
    assert for_d.item() == pytest.approx(s * .7 - .5 * 1.3, rel=1e-5)


@SEEDS
def test_a_slow_discriminator_starves_the_ring(seed):
    assert Ring(d_rate=4e-3, g_rate=1e-3, seed=seed).step(600)["modes"] >= 6
    assert Ring(d_rate=2e-4, g_rate=2e-3, seed=seed).step(600)["modes"] <= 3


@SEEDS
def test_the_penalties_rescue_the_hard_setting(seed):
    assert Ring(RELATIVISTIC, d_rate=1e-3, g_rate=3e-3, penalty=.3, seed=seed).step(600)["modes"] >= 6


def test_same_seed_same_run_and_nothing_global():
    torch.manual_seed(0)
    first = Ring(seed=4).step(30)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    other = Ring(seed=4)
    other.step(11)
    second = other.step(19)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(np.array_equal(first[k], second[k]) for k in first)
    assert not np.array_equal(first["fake"], Ring(seed=5).step(30)["fake"])


def test_looking_changes_nothing():
    watched, left_alone = Ring(seed=1, penalty=.1), Ring(seed=1, penalty=.1)
    for _ in range(10):
        watched.step(1)
        watched.state()
    assert np.array_equal(watched.state()["fake"], left_alone.step(10)["fake"])


def test_result_is_a_copy_that_later_steps_leave_alone():
    run = Ring(seed=1)
    pinned = run.step(20)
    kept = {k: np.copy(v) for k, v in pinned.items()}
    run.step(20)
    assert all(np.array_equal(pinned[k], kept[k]) for k in kept)
    path = Dirac(seed=1)
    pinned = path.step(3)
    path.step(3)
    assert pinned["path"].shape == (4, 2) and pinned["radius"].shape == (4,)


def test_modes_need_a_share():
    crowd = MODES[:1].repeat(98, 1)
    assert modes_found(torch.cat([crowd, MODES[1:2].repeat(2, 1)])) == 2        # 2 of 100
    assert modes_found(torch.cat([crowd, MODES[1:2], torch.zeros(1, 2)])) == 1  # 1 of 100
    assert modes_found(MODES + .29 * MODES / 2) == 8 and modes_found(MODES + .31 * MODES / 2) == 0


def test_ring_has_eight_equal_modes():
    x = ring(8000, torch.Generator().manual_seed(0))
    distance, mode = torch.cdist(x, MODES).min(1)
    assert distance.square().mean().div(2).sqrt().item() == pytest.approx(.05, rel=.05)
    assert torch.bincount(mode, minlength=8).sub(1000).abs().max() < 150


def test_mlp_starts_as_torch_does():
    net = mlp(2, 2, torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    for ours in net[::2]:
        theirs = torch.nn.Linear(ours.in_features, 4096)
        bound = theirs.weight.abs().max().item()
        assert max(ours.weight.abs().max(), ours.bias.abs().max()) <= bound * 1.01
        assert ours.weight.std().item() == pytest.approx(theirs.weight.std().item(), rel=.35)


# the hand-written losses against those of lesson 11

def both(loss, d_real, d_fake):
    "(value, gradient at real, gradient at fake) of each player."
    answers = []
    for player in (loss.d, loss.g):
        real, fake = d_real.clone().requires_grad_(), d_fake.clone().requires_grad_()
        value = player(real, fake)
        answers += [value, *torch.autograd.grad(value, (real, fake), materialize_grads=True)]
    return answers


@pytest.mark.parametrize("name", losses.ADVERSARIAL)
@pytest.mark.parametrize("size", (.1, 3., 40.))
def test_hand_written_losses_are_those_of_the_trainer(name, size):
    draws = torch.Generator().manual_seed(0)
    d_real, d_fake = (size * torch.randn(16, generator=draws, dtype=torch.float64) for _ in range(2))
    for ours, theirs in zip(both(GAMES[name], d_real, d_fake), both(losses.ADVERSARIAL[name], d_real, d_fake)):
        torch.testing.assert_close(ours, theirs)


def test_slope_penalty_is_r1_and_r2():
    draws = torch.Generator().manual_seed(0)
    net, x = mlp(2, 1, draws), ring(16, draws)
    for theirs in (losses.r1, losses.r2):
        ours, expected = slope_penalty(net, x), theirs(net, x)
        torch.testing.assert_close(ours, expected)
        for a, b in zip(torch.autograd.grad(ours, list(net.parameters()), materialize_grads=True), torch.autograd.grad(expected, list(net.parameters()), materialize_grads=True)):
            torch.testing.assert_close(a, b)


def test_dirac_penalty_is_r1_at_the_real_point():
    theta, psi = torch.tensor([.7]), torch.tensor([-1.3], requires_grad=True)
    expected, = torch.autograd.grad(losses.r1(lambda x: psi * x, torch.zeros(1, 1)), psi)
    plain, with_r1 = (dirac_gradients(theta, psi, penalty=p)[1] for p in (0., 1.))
    torch.testing.assert_close(with_r1 - plain, expected)


def test_quality_is_not_coverage():
    spread = torch.cat([MODES, MODES * 1.5, MODES * .5, MODES * 0.])
    assert modes_found(spread) == 8 and near_modes(spread) == .25
    assert modes_found(MODES[:1].repeat(9, 1)) == 1 and near_modes(MODES[:1].repeat(9, 1)) == 1


def test_the_toys_import_no_later_lesson():
    import esrdgan.toy_gans
    assert not any(getattr(v, "__module__", "").startswith("esrdgan.losses") for v in vars(esrdgan.toy_gans).values())
