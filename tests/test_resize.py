"""imresize against MATLAB's figures, Pillow and whole-number arithmetic; edge cases."""
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from esrdgan.resize import imresize, nearest, taps

ROOT = os.environ.get('ESRDGAN_DATA')
SHRINK_4 = [-7, -45, -75, -49, 93, 399, 745, 987, 987, 745, 399, 93, -49, -75, -45, -7]   # over 4096
ENLARGE_4 = [[-90, 798, 1490, -150], [-14, 186, 1974, -98], [-98, 1974, 186, -14], [-150, 1490, 798, -90]]   # over 2048


def dice(seed=0): return torch.Generator().manual_seed(seed)


def read(path): return torch.from_numpy(np.array(Image.open(path).convert('RGB'))).permute(2, 0, 1)


@pytest.mark.skipif(not (ROOT and Path(ROOT, 'Set5').is_dir()), reason='ESRDGAN_DATA names no folder with Set5/')
def test_set5_lr_is_reproduced():
    same = total = 0
    for path in sorted(Path(ROOT, 'Set5', 'HR').glob('*.png')):
        lr = read(Path(ROOT, 'Set5', 'LRbicx4', path.name)).int()
        apart = (imresize(read(path), 1/4).int() - lr).abs()
        assert apart.max() <= 1, path.name
        same, total = same + (apart == 0).sum().item(), total + lr.numel()
    assert total and same / total >= .999


def test_frozen_weights():
    for i in range(2, 14):
        index, weight = taps(64, 16, 1/4)
        assert index[i].tolist() == list(range(4 * i - 6, 4 * i + 10))
        assert np.allclose(weight[i] * 4096, SHRINK_4, atol=1e-9)
    index, weight = taps(16, 64, 4.)
    assert np.allclose(weight[32:36] * 2048, ENLARGE_4, atol=1e-9)
    assert index[32].tolist() == index[33].tolist() == [6, 7, 8, 9]
    assert index[34].tolist() == index[35].tolist() == [7, 8, 9, 10]


def mirror(i, n):
    i %= 2 * n
    return i if i < n else 2 * n - 1 - i


def whole_number_shrink(rows):
    "x1/4 along the first axis of a list of rows in whole numbers only: halves upwards, clamped to a byte."
    out = []
    for i in range(len(rows) // 4):
        total = sum(w * rows[mirror(4 * i - 6 + k, len(rows))] for k, w in enumerate(SHRINK_4))
        out.append(np.clip((2 * total + 4096) // 8192, 0, 255))
    return np.array(out)


@pytest.mark.parametrize('h, w', [(16, 24), (4, 4), (8, 40), (64, 64)])
def test_uint8_shrink_in_whole_numbers(h, w):
    x = np.random.default_rng(h * w).integers(0, 256, (h, w))
    x[:h // 2] = np.where(x[:h // 2] < 128, 0, 255)       # overshoot must be clamped between the two axes
    expected = whole_number_shrink(whole_number_shrink(x).T).T
    assert np.array_equal(imresize(torch.from_numpy(x).to(torch.uint8), 1/4).numpy(), expected)


def test_halves_are_rounded_up():
    x = torch.tensor([[0, 1]], dtype=torch.uint8).repeat(2, 2)          # each new pixel averages to exactly one half
    assert imresize(x.double(), size=(1, 1)).item() == .5
    assert imresize(x, size=(1, 1)).item() == 1


def test_most_shrunk_axis_goes_first():
    x = torch.randint(0, 256, (3, 40, 64), generator=dice(), dtype=torch.uint8)
    by_width_first = imresize(imresize(x, size=(40, 16)), size=(30, 16))
    by_height_first = imresize(imresize(x, size=(30, 64)), size=(30, 16))
    assert not torch.equal(by_width_first, by_height_first)
    assert torch.equal(imresize(x, size=(30, 16)), by_width_first)
    assert torch.equal(imresize(x, 1/2), imresize(imresize(x, size=(20, 64)), size=(20, 32)))   # a tie: height first


@pytest.mark.parametrize('size', [(16, 12), (23, 31), (256, 192), (40, 100), (64, 20)])
def test_float_against_pillow(size):
    x = torch.rand(64, 48, generator=dice())
    theirs = np.asarray(Image.fromarray(x.numpy()).resize(size[::-1], Image.Resampling.BICUBIC))
    edge_h, edge_w = (max(2, int(np.ceil(2 * max(1, n / old)))) + 1 for n, old in zip(size, x.shape))
    inside = np.s_[edge_h:-edge_h, edge_w:-edge_w]
    assert imresize(x, size=size)[inside].numel() > 20
    assert np.abs(imresize(x, size=size).numpy()[inside] - theirs[inside]).max() < 1e-5


def test_antialias_switch():
    stripes = (torch.arange(256) % 5 < 2).float().expand(16, -1)
    assert imresize(stripes, 1/4)[:, 4:-4].std() < .05
    assert imresize(stripes, 1/4, antialias=False)[:, 4:-4].std() > .2
    assert torch.equal(imresize(stripes, 2), imresize(stripes, 2, antialias=False))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 30), st.integers(1, 30), st.integers(0, 255), st.booleans())
def test_flat_stays_flat_at_any_size(h, w, new_h, new_w, level, antialias):
    x = torch.full((2, h, w), level, dtype=torch.uint8)
    y = imresize(x, size=(new_h, new_w), antialias=antialias)
    assert y.shape == (2, new_h, new_w) and y.dtype == torch.uint8 and (y == level).all()
    z = imresize(x / 255, size=(new_h, new_w), antialias=antialias)
    assert torch.allclose(z, torch.full_like(z, level / 255), atol=1e-5)


@pytest.mark.parametrize('shape', [(3, 12, 8), (2, 3, 12, 8), (12, 8), (5, 2, 3, 12, 8)])
@pytest.mark.parametrize('scale', [1/4, .3, 1, 1.7, 4])
def test_batches_and_scales(shape, scale):
    x = torch.rand(shape, generator=dice())
    y = imresize(x, scale)
    assert y.shape == (*shape[:-2], int(np.ceil(12 * scale)), int(np.ceil(8 * scale)))
    first = x.reshape(-1, 12, 8)[0]
    assert torch.allclose(y.reshape(-1, *y.shape[-2:])[0], imresize(first, scale), atol=1e-6)


def test_gradient():
    x = torch.rand(1, 2, 7, 6, dtype=torch.float64, generator=dice()).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: imresize(x, size=(3, 9)), x)


def test_dtype_is_kept():
    for dtype in (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert imresize(torch.ones(1, 8, 8, dtype=dtype), 1/2).dtype == dtype


@pytest.mark.parametrize('arguments, says', [
    (dict(), 'one of the two'), (dict(scale=2, size=(4, 4)), 'one of the two'), (dict(scale=0), 'above 0'), (dict(scale=-1), 'above 0'),
    (dict(scale=float('nan')), 'above 0'), (dict(scale=float('inf')), 'above 0'), (dict(size=(0, 4)), 'cannot make 0x4'), (dict(size=(4, -1)), 'cannot make')])
def test_bad_arguments(arguments, says):
    with pytest.raises(ValueError, match=says): imresize(torch.rand(3, 8, 8), **arguments)


def test_bad_pictures():
    with pytest.raises(ValueError, match='int64'): imresize(torch.ones(3, 8, 8).long(), 2)
    with pytest.raises(ValueError, match='from 0x8'): imresize(torch.ones(3, 0, 8), 2)


@pytest.mark.parametrize('scale', [1/4, 1/3, 1, 2, 2.5, 4])
def test_nearest_against_torch(scale):
    x = torch.rand(1, 3, 12, 24, generator=dice())
    y = nearest(x, scale)
    assert torch.equal(y, torch.nn.functional.interpolate(x, size=y.shape[-2:], mode='nearest-exact'))
