"""Blur, noise, files and the chain of them: moments, strengths, ranges, libraries as oracles, and the same picture for the same seed."""
import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from esrdgan.config import Config
from esrdgan.data import Pairs, batches, sample
from esrdgan.degrade import (FIRST, PRESETS, Round, _resized, blur, degrade, degrade_steps, gaussian_kernel, gaussian_noise, jpeg, poisson_noise,
                             sinc_kernel, webp)
from esrdgan.image import to_float, to_uint8, write_image
from esrdgan.resize import imresize


def dice(seed=0): return torch.Generator().manual_seed(seed)

def picture(height=64, width=48):
    "Something with edges, slopes and grain."
    y, x = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    grain = torch.rand(3, height, width, generator=dice(9))
    return (.5 * torch.stack([x, y, (x * 9).floor() % 2]) + .3 * grain + .1).clamp(0, 1)


def test_gaussian_kernel_has_its_moments():
    sigma, sigma_2, angle = 3., 1.2, .6
    k = gaussian_kernel(sigma, sigma_2, angle, size=41).double()
    r = torch.arange(41, dtype=torch.float64) - 20
    y, x = torch.meshgrid(r, r, indexing='ij')
    covariance = [[(k * a * b).sum().item() for b in (x, y)] for a in (x, y)]
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    assert np.allclose(covariance, turn @ np.diag([sigma**2, sigma_2**2]) @ turn.T, atol=2e-3)


def test_shape_reshapes():
    "At one standard deviation from the centre every shape has fallen to the same exp(-1/2); inside, a flat top stands higher."
    flat, plain, sharp = (gaussian_kernel(4., shape=s) for s in (4., 1., .5))
    for kernel in (flat, plain, sharp):
        assert kernel[10, 14] / kernel[10, 10] == pytest.approx(np.exp(-.5), rel=1e-4)
    assert flat[10, 12] / flat[10, 10] > plain[10, 12] / plain[10, 10] > sharp[10, 12] / sharp[10, 10]


def test_sinc_stops_what_is_finer_and_passes_what_is_coarser():
    "A wave through the kernel: its height is the kernel's answer at that period."
    kernel = sinc_kernel(4., size=41)
    for angle in (0, .8):
        waves = {}
        for period in (3, 8):
            y, x = torch.meshgrid(torch.arange(121.), torch.arange(121.), indexing="ij")
            wave = torch.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period)
            waves[period] = blur(wave[None], kernel)[0, 40:81, 40:81].std() / wave[40:81, 40:81].std()
        assert waves[3] < .1 and waves[8] > .9


def test_blur_keeps_small_and_batched_pictures():
    x = torch.rand(2, 3, 5, 4, generator=dice())
    y = blur(x, gaussian_kernel(1.5))
    assert y.shape == x.shape and torch.allclose(y[1, 2], blur(x[1, 2], gaussian_kernel(1.5)), atol=1e-6)


def test_blur_is_pillows_kernel():
    "Pillow's `Kernel` filters 5 x 5 whole numbers; borders differ, so they are left out."
    x, weights = picture(), [1, 4, 6, 4, 1]
    whole = np.outer(weights, weights)
    theirs = to_float(np.array(Image.fromarray(to_uint8(x)).filter(ImageFilter.Kernel((5, 5), whole.ravel().tolist()))))
    ours = blur(to_float(to_uint8(x)), torch.tensor(whole / whole.sum()).float())
    assert (ours - theirs)[:, 4:-4, 4:-4].abs().max() <= .51 / 255      # theirs is rounded


def test_noise_is_repeatable_and_bounded():
    x = torch.rand(3, 40, 40, generator=dice())
    for f, strength in ((gaussian_noise, .2), (poisson_noise, 20)):
        a, b, c = f(x, strength, dice(1)), f(x, strength, dice(1)), f(x, strength, dice(2))
        assert torch.equal(a, b) and not torch.equal(a, c) and 0 <= a.min() and a.max() <= 1
    assert torch.equal(poisson_noise(torch.zeros(3, 8, 8), 50, dice()), torch.zeros(3, 8, 8))
    assert gaussian_noise(x, 0., dice()).equal(x)


@pytest.mark.parametrize("make", [lambda x, g, grey: gaussian_noise(x, .05, g, grey), lambda x, g, grey: poisson_noise(x, 400, g, grey)])
def test_grey_noise_is_one_noise(make):
    x = torch.tensor([.4, .5, .6])[:, None, None].expand(3, 60, 60)
    one, three = ((make(x, dice(), grey) - x).flatten(1) for grey in (True, False))
    assert torch.allclose(one[0], one[1], atol=1e-6) and abs(torch.corrcoef(three)[0, 1]) < .1
    assert one.std() == pytest.approx(.05 if "gaussian" in make.__code__.co_names[0] else (.5 / 400)**.5, rel=.05)


@pytest.mark.parametrize("save, name", [(jpeg, "JPEG"), (webp, "WEBP")])
def test_files_are_pillows(save, name):
    x, file = picture(33, 17), io.BytesIO()
    y = save(x, 40)
    Image.fromarray(to_uint8(x)).save(file, name, quality=40)
    assert y.shape == x.shape and y.dtype == x.dtype and torch.equal(y, to_float(np.array(Image.open(file).convert("RGB"))))
    for bad in (x[None], x[:1]):
        with pytest.raises(ValueError, match=f'{name}: expected one picture'): save(bad, 40)
    for quality in (0, 96):
        with pytest.raises(ValueError, match='1 to 95'): save(x, quality)


@pytest.mark.parametrize("name, theirs, size", [(name, theirs, size) for name, theirs in (("bicubic", Image.BICUBIC), ("bilinear", Image.BILINEAR), ("area", Image.BOX))
    for size in ((16, 12), (40, 31), (128, 96)) if (name, size) != ("area", (40, 31))])     # there PyTorch's boxes are whole pixels, Pillow's are not
def test_filters_are_pillows(name, theirs, size):
    "Pillow rounds what lies between its two passes, so one level and a half."
    x = to_float(to_uint8(picture()))
    expected = to_float(np.array(Image.fromarray(to_uint8(x)).resize(size[::-1], theirs)))
    assert (_resized(x, size, name) - expected).abs().max() <= 1.5 / 255


def test_aliased_filters_and_nearest_do_not_average():
    stripes = (torch.arange(64) % 2).float().expand(3, 64, 64)
    for name in ("bicubic", "bilinear", "area"): assert _resized(stripes, (16, 16), name).std() < .1
    shifted = (torch.arange(60) % 3 == 0).float().expand(3, 60, 60)
    for name in ("nearest", "aliased_bilinear", "aliased_bicubic"): assert _resized(shifted, (15, 15), name).std() > .2, name


@pytest.mark.parametrize('scale', [1, 2, 4])
@pytest.mark.parametrize('preset', PRESETS)
def test_degrade_size_range_and_repeatability(scale, preset):
    for seed in range(4):
        a, b = (degrade(picture(24, 16), scale, dice(seed), PRESETS[preset]) for _ in range(2))
        assert a.shape == (3, 24 // scale, 16 // scale) and torch.equal(a, b) and 0 <= a.min() and a.max() <= 1
        assert torch.equal(a, (a * 255).round() / 255), 'a small picture is a file of 8 bits'


def test_degrade_draws_inside_its_ranges():
    x = torch.rand(3, 32, 32, generator=dice())
    calm = Round(blur=(1., 1.), kernels='turned', resize=(.5, .5), filters='area', noise=(12., 12.), quality=(80, 80))
    for seed in range(5):
        names = [name for name, _ in degrade_steps(x, 4, dice(seed), (calm, calm))]
        assert [n for n in names if 'noise' not in n] == ['turned blur 1.0, 1.0 px', 'area to 16x16', 'JPEG 80', 'turned blur 1.0, 1.0 px', 'area to 4x4', 'area to 8x8', 'JPEG 80']
    assert len(list(degrade_steps(x, 4, dice(), (FIRST,)))) in (4, 5)
    with pytest.raises(ValueError, match='30x32 is not a multiple of 4'): degrade(x[:, 2:], 4, dice())


def test_degrade_noise_has_the_strength_drawn():
    grey, found = torch.full((3, 64, 64), .5), {}
    only_noise = Round(blur=(0., 0.), resize=(1., 1.), noise=(25.5, 25.5), noises='gaussian, poisson', files='none')
    for seed in range(8):
        _, _, (name, x), _ = degrade_steps(grey, 1, dice(seed), (only_noise,))
        found[name] = x.std().item()
    assert found == {'gaussian noise 26': pytest.approx(.1, rel=.05), 'poisson noise 26': pytest.approx(.1 * .5**.5, rel=.05)}


def test_every_name_is_drawn_and_twice_as_often_where_it_is_listed_twice():
    count = {}
    for seed in range(600):
        r = Round(blur=(0., 0.), noise=(0., 0.), files='jpeg, webp, webp, none')
        last = list(degrade_steps(torch.zeros(3, 8, 8), 1, dice(seed), (r,)))[-1][0].split()[0]
        count[last] = count.get(last, 0) + 1
    assert set(count) == {'JPEG', 'WEBP', 'no'} and 250 < count['WEBP'] < 350 and 110 < count['JPEG'] < 190     # 5 standard deviations


def test_the_share_that_stays_clean_is_exactly_bicubic():
    x, clean = to_float(to_uint8(picture())), 0
    for seed in range(200):
        steps = list(degrade_steps(x, 4, dice(seed), (Round(.5), Round(.5))))
        if steps[0][0] != 'bicubic': continue
        clean += 1
        assert len(steps) == 1 and torch.equal(steps[0][1], to_float(imresize(torch.tensor(to_uint8(x)).permute(2, 0, 1), 1 / 4).permute(1, 2, 0).numpy()))
    assert 25 < clean < 75


def test_shuffle_draws_the_order():
    r = Round(shuffle=True, blur=(1., 2.), kernels='round', resize=(.8, .9))
    orders = {tuple(name.split()[1] for name, _ in list(degrade_steps(picture(), 4, dice(seed), (r,)))[:3]) for seed in range(80)}
    assert orders == set(itertools.permutations(('blur', 'to', 'noise')))


@pytest.mark.parametrize('key, value, says', [('kernels', 'round, star', 'kernels: give one or more of round'), ('files', '', 'files: give'),
    ('blur', (2, 1), 'blur: give two numbers'), ('quality', (0, 50), 'quality: .* from 1 to 95'), ('noise', (1,), 'noise: give two'), ('chance', 1.5, 'chance: ')])
def test_a_round_that_cannot_be(key, value, says):
    with pytest.raises(ValueError, match=says): Round(**{key: value})


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('pictures')
    for i in range(3): write_image(picture(96, 80 + 8 * i), path / f'{i}.png')
    return path


def dirty(folder, preset='wild'):
    from esrdgan.build import RunPictures
    config = Config()
    config.data.hr, config.data.patch, config.degradation.preset = str(folder), 32, preset
    return RunPictures(config).learn


@pytest.mark.parametrize('threads', [1, 2])
def test_samples_do_not_depend_on_workers_or_threads(folder, threads):
    pairs, before = dirty(folder), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        ours = [sample(pairs, 3, number) for number in range(8)]
    finally: torch.set_num_threads(before)
    stream = batches(pairs, 4, 3, workers=2)
    for b in range(2):
        lr, hr = next(stream)
        for i in range(4): assert torch.equal(lr[i], ours[4 * b + i][0]) and torch.equal(hr[i], ours[4 * b + i][1])
    stream.close()


def test_the_damaged_picture_stays_its_partners(folder):
    "Whatever was drawn, LR shows what HR shows: made small by bicubic, HR is nearer to it than to the next sample's."
    calm = Pairs(folder, patch=32, degrade=lambda hr, scale, generator: degrade(hr, scale, generator, PRESETS['photo']))
    shown = [sample(calm, 1, n) for n in range(12)]
    far = lambda lr, hr: (lr - imresize(hr, 1 / 4)).abs().mean().item()
    for i, (lr, hr) in enumerate(shown): assert far(lr, hr) < .6 * far(lr, shown[i - 1][1])


def test_blocks_begin_anywhere(folder):
    "Block borders lie at eight places over the samples: a network must not learn to expect them at one."
    blocky = Round(blur=(0., 0.), resize=(1., 1.), noise=(0., 0.), quality=(1, 1))
    pairs, places = Pairs(folder, patch=64, degrade=lambda hr, scale, generator: degrade(hr, scale, generator, (blocky,))), set()
    for n in range(60):
        lr, _ = sample(pairs, 0, n)
        steps = lr.diff(dim=-1).abs().mean((0, 1))
        places.add(int(torch.stack([steps[k::8].mean() for k in range(8)]).argmax()))
    assert len(places) >= 7


def test_rounds_of_a_configuration():
    config = Config()
    assert config.rounds() == ()
    config.degradation.preset = 'web'
    assert config.rounds() == PRESETS['web']
    config.degradation.quality, config.second_round.chance, config.second_round.files = '40, 50', '.2', 'webp'
    first, second = config.rounds()
    assert (first.quality, first.blur, second.chance, second.files) == ((40, 50), PRESETS['web'][0].blur, .2, 'webp')
    config.degradation.chance = '0'
    assert config.rounds() == (second,)
