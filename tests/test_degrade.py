"""Blur, noise, JPEG and the chain of them: moments, strengths, ranges, and the same picture for the same seed."""
import numpy as np
import pytest
import torch

from esrdgan.degrade import FIRST, Round, blur, degrade, degrade_steps, gaussian_kernel, gaussian_noise, jpeg, poisson_noise


def dice(seed=0): return torch.Generator().manual_seed(seed)


def test_gaussian_kernel_has_its_moments():
    sigma, sigma_2, angle = 3., 1.2, .6
    k = gaussian_kernel(sigma, sigma_2, angle, size=41).double()
    r = torch.arange(41, dtype=torch.float64) - 20
    y, x = torch.meshgrid(r, r, indexing='ij')
    covariance = [[(k * a * b).sum().item() for b in (x, y)] for a in (x, y)]
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    assert np.allclose(covariance, turn @ np.diag([sigma**2, sigma_2**2]) @ turn.T, atol=2e-3)


def test_blur_keeps_small_and_batched_pictures():
    x = torch.rand(2, 3, 5, 4, generator=dice())
    y = blur(x, gaussian_kernel(1.5))
    assert y.shape == x.shape and torch.allclose(y[1, 2], blur(x[1, 2], gaussian_kernel(1.5)), atol=1e-6)


def test_noise_is_repeatable_and_bounded():
    x = torch.rand(3, 40, 40, generator=dice())
    for f, strength in ((gaussian_noise, .2), (poisson_noise, 20)):
        a, b, c = f(x, strength, dice(1)), f(x, strength, dice(1)), f(x, strength, dice(2))
        assert torch.equal(a, b) and not torch.equal(a, c) and 0 <= a.min() and a.max() <= 1
    assert torch.equal(poisson_noise(torch.zeros(3, 8, 8), 50, dice()), torch.zeros(3, 8, 8))
    assert gaussian_noise(x, 0., dice()).equal(x)


def test_jpeg_is_pillows():
    x = torch.rand(3, 33, 17, generator=dice())
    y = jpeg(x, 40)
    assert y.shape == x.shape and y.dtype == x.dtype and 0 <= y.min() and y.max() <= 1
    for bad in (x[None], x[:1]):
        with pytest.raises(ValueError, match='one picture'): jpeg(bad, 40)
    for quality in (0, 96):
        with pytest.raises(ValueError, match='1 to 95'): jpeg(x, quality)


@pytest.mark.parametrize('scale', [1, 2, 4])
@pytest.mark.parametrize('seed', range(4))
def test_degrade_size_range_and_repeatability(scale, seed):
    x = torch.rand(3, 24, 16, generator=dice())
    a, b = degrade(x, scale, dice(seed)), degrade(x, scale, dice(seed))
    assert a.shape == (3, 24 // scale, 16 // scale) and torch.equal(a, b) and 0 <= a.min() and a.max() <= 1


def test_degrade_draws_inside_its_ranges():
    x = torch.rand(3, 32, 32, generator=dice())
    calm = Round(sigma=(1., 1.), resize=(.5, .5), noise=(.05, .05), quality=(80, 80))
    for seed in range(5):
        names = [name for name, _ in degrade_steps(x, 4, dice(seed), (calm, calm))]
        assert [n for n in names if 'noise' not in n] == ['blur 1.0, 1.0 px', 'resize to 16x16', 'JPEG 80', 'blur 1.0, 1.0 px', 'resize to 4x4', 'JPEG 80']
    assert len(list(degrade_steps(x, 4, dice(), (FIRST,)))) == 4
    with pytest.raises(ValueError, match='30x32 is not a multiple of 4'): degrade(x[:, 2:], 4, dice())


def test_degrade_noise_has_the_strength_drawn():
    grey, found = torch.full((3, 64, 64), .5), {}
    only_noise = Round(sigma=(.1, .1), resize=(1., 1.), noise=(.1, .1))
    for seed in range(8):
        _, _, (name, x), _ = degrade_steps(grey, 1, dice(seed), (only_noise,))
        found[name] = x.std().item()
    assert found == {'Gaussian noise 0.10': pytest.approx(.1, rel=.05), 'Poisson noise 0.10': pytest.approx(.1 * .5**.5, rel=.05)}
