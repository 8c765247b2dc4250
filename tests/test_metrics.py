"""PSNR and SSIM against torchmetrics and scikit-image, the published bicubic figures, and failures."""
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import peak_signal_noise_ratio as tm_psnr
from torchmetrics.functional.image import structural_similarity_index_measure as tm_ssim

from esrdgan.image import quantize
from esrdgan.metrics import MetricError, prepare, psnr, psnr_y_crop4, ssim, ssim_y_crop4
from esrdgan.resize import imresize
from esrdgan.weights import load_generator

ROOT = os.environ.get('ESRDGAN_DATA')
PROTOCOLS = [(channel, crop) for channel in ('y', 'rgb') for crop in (0, 1, 4, 9)]


def pair(h=40, w=52, noise=.1, seed=0):
    g = torch.Generator().manual_seed(seed)
    hr = torch.nn.functional.interpolate(torch.rand(1, 3, 9, 9, generator=g), size=(h, w), mode='bilinear')[0]
    return (hr + noise * torch.randn(3, h, w, generator=g)), hr      # the first leaves 0..1 here and there


def by_hand(x, channel, crop):
    "The protocol once more, in numpy and in grey levels, with the weights of ITU-R BT.601 written out."
    x = np.round(np.clip(x.double().numpy(), 0, 1) * 255).transpose(1, 2, 0)
    if channel == 'y': x = 16 + (65.481 * x[..., :1] + 128.553 * x[..., 1:2] + 24.966 * x[..., 2:]) / 255
    return x[crop:x.shape[0] - crop, crop:x.shape[1] - crop]


@pytest.mark.parametrize('channel, crop', PROTOCOLS)
def test_against_scikit_image(channel, crop):
    sr, hr = pair()
    a, b = by_hand(sr, channel, crop), by_hand(hr, channel, crop)
    assert psnr(sr, hr, channel, crop) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=255), abs=1e-4)
    theirs = structural_similarity(a, b, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=2)
    assert ssim(sr, hr, channel, crop) == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize('channel, crop', PROTOCOLS)
def test_against_torchmetrics(channel, crop):
    sr, hr = pair(seed=1)
    a, b = (torch.from_numpy(by_hand(x, channel, crop)).permute(2, 0, 1)[None] for x in (sr, hr))
    assert psnr(sr, hr, channel, crop) == pytest.approx(tm_psnr(a, b, data_range=255.).item(), abs=1e-4)
    _, windows = tm_ssim(a, b, data_range=255., sigma=1.5, return_full_image=True)     # theirs go on beyond the border, mirrored
    assert ssim(sr, hr, channel, crop) == pytest.approx(windows[..., 5:-5, 5:-5].mean().item(), abs=1e-4)


@pytest.mark.skipif(not (ROOT and Path(ROOT, 'Set5').is_dir() and Path(ROOT, 'Set14').is_dir()), reason='ESRDGAN_DATA names no folder with Set5/ and Set14/')
@pytest.mark.parametrize('name, expected, margin', [('Set5', 28.42, .02), ('Set14', 26.09, .03)])
def test_published_bicubic(name, expected, margin):
    read = lambda path: torch.from_numpy(np.array(Image.open(path).convert('RGB'))).permute(2, 0, 1)
    found = []
    for path in sorted(Path(ROOT, name, 'HR').glob('*.png')):
        lr = read(Path(ROOT, name, 'LRbicx4', path.name))
        found.append(psnr_y_crop4(imresize(lr, 4) / 255, read(path) / 255))
    assert len(found) == {'Set5': 5, 'Set14': 14}[name]
    assert np.mean(found) == pytest.approx(expected, abs=margin)


@pytest.mark.skipif(not (ROOT and Path(ROOT, 'Set14').is_dir()), reason='ESRDGAN_DATA names no folder with Set14/')
def test_set14_gap_between_y_and_rgb():
    "What lesson 04 says of two published figures of one network that lie 1.80 dB apart: 1.32 is units, the rest colour."
    net, gaps = load_generator('tiny-psnr'), dict(bicubic=[], network=[])
    read = lambda path: torch.from_numpy(np.array(Image.open(path).convert('RGB'))).permute(2, 0, 1)
    for path in sorted(Path(ROOT, 'Set14', 'HR').glob('*.png')):
        lr, hr = read(Path(ROOT, 'Set14', 'LRbicx4', path.name)), read(path) / 255
        with torch.no_grad(): found = dict(bicubic=imresize(lr, 4) / 255, network=net(lr[None] / 255)[0])
        for name, sr in found.items(): gaps[name].append(psnr(sr, hr, 'y', 4) - psnr(sr, hr, 'rgb', 4))
        if torch.equal(hr[0], hr[2]): assert gaps['bicubic'][-1] == pytest.approx(20 * math.log10(255 / 219), abs=1e-3)     # grey
    assert {name: np.mean(g) for name, g in gaps.items()} == {'bicubic': pytest.approx(1.63, abs=.02), 'network': pytest.approx(1.81, abs=.03)}


def test_quantised_before_anything_else():
    sr, hr = pair()
    for f in (psnr, ssim):
        assert f(sr, hr) == pytest.approx(f(quantize(sr), quantize(hr)), abs=1e-9)
    assert psnr(hr + .4 / 255, quantize(hr), 'rgb', 0) > 45                 # less than half a level is almost nothing
    assert psnr(quantize(hr) + .4 / 255, quantize(hr), 'rgb', 0) == math.inf
    assert psnr(torch.full((3, 16, 16), 1.7), torch.ones(3, 16, 16)) == math.inf   # clamped


def test_crop_looks_away_from_the_border():
    sr, hr = pair(noise=0)
    sr[:, :4], sr[:, :, -4:] = 0, 1
    assert psnr(sr, hr, 'rgb', 4) == math.inf and ssim_y_crop4(sr, hr) == pytest.approx(1, abs=1e-12)
    assert psnr(sr, hr, 'rgb', 3) < 30


def test_known_numbers():
    hr = torch.full((3, 32, 32), 100 / 255)
    assert psnr(hr + 10 / 255, hr, 'rgb', 4) == pytest.approx(20 * math.log10(255 / 10), abs=1e-4)
    assert psnr(hr + 10 / 255, hr, 'y', 4) == pytest.approx(20 * math.log10(255 / 10 * 255 / 219), abs=1e-4)
    mu_a, mu_b, c1 = 110 / 255, 100 / 255, 1e-4
    assert ssim(hr + 10 / 255, hr, 'rgb', 0) == pytest.approx((2 * mu_a * mu_b + c1) / (mu_a**2 + mu_b**2 + c1), abs=1e-6)


def test_symmetry_types_and_gradients():
    sr, hr = pair(noise=.02)
    for f in (psnr_y_crop4, ssim_y_crop4):
        assert f(sr, hr) == pytest.approx(f(hr, sr), abs=1e-9)
        assert isinstance(f(sr.requires_grad_(), hr), float)
        assert f(sr.half().float(), hr) == pytest.approx(f(sr, hr), abs=.05)


@pytest.mark.parametrize('sr, hr, channel, crop, says', [
    (torch.rand(3, 20, 20), torch.rand(3, 20, 21), 'y', 4, r'\(3, 20, 20\) and \(3, 20, 21\)'),
    (torch.rand(1, 3, 20, 20), torch.rand(1, 3, 20, 20), 'y', 4, 'one picture'),
    (torch.rand(1, 20, 20), torch.rand(1, 20, 20), 'rgb', 4, 'one picture'),
    (torch.ones(3, 20, 20).byte(), torch.ones(3, 20, 20).byte(), 'y', 4, 'expected floats'),
    (torch.rand(3, 20, 20), torch.rand(3, 20, 20), 'Y', 4, "'y' or 'rgb'"),
    (torch.rand(3, 8, 20), torch.rand(3, 8, 20), 'y', 4, 'leaves nothing of 8x20'),
    (torch.rand(3, 8, 20), torch.rand(3, 8, 20), 'y', -1, 'leaves nothing')])
def test_what_cannot_be_compared(sr, hr, channel, crop, says):
    for f in (psnr, ssim, prepare):
        with pytest.raises(MetricError, match=says): f(sr, hr, channel, crop)


def test_ssim_needs_a_window():
    x = torch.rand(3, 19, 40)
    assert ssim(x, x, 'y', 4) == pytest.approx(1)
    with pytest.raises(MetricError, match='10x32'): ssim(x[:, 1:], x[:, 1:], 'y', 4)
