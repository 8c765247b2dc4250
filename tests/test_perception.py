"""LPIPS against torchmetrics and the published bicubic figures, the library behind the others, and the names of all figures."""
import os
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torchmetrics.functional.image.lpips import _LPIPS

from esrdgan import perception
from esrdgan.evaluate import evaluate
from esrdgan.image import quantize
from esrdgan.metrics import MetricError, psnr, ssim
from esrdgan.perception import LAYERS, by_library, load_lpips, lpips, metric, torch_convs
from test_metrics import pair

ROOT = os.environ.get('ESRDGAN_DATA')


@pytest.fixture(scope='module')
def peer():
    "torchmetrics' LPIPS: its own plan and its own weights of the features, with our AlexNet in it."
    theirs = _LPIPS(net='alex', pnet_rand=True)
    ours = load_lpips().trunk.state_dict()
    state = {key: ours['.'.join(key.split('.')[-2:])] for key in theirs.net.state_dict()}
    theirs.net.load_state_dict(state)
    return theirs


def test_the_people_s_weights_are_the_published_ones(peer):
    for i in range(len(LAYERS)):
        assert torch.equal(getattr(load_lpips(), f'judge{i}').flatten(), getattr(peer, f'lin{i}').model[-1].weight.half().float().flatten())
        assert (getattr(load_lpips(), f'judge{i}') >= 0).all()


@pytest.mark.parametrize('h, w', [(31, 31), (64, 64), (50, 97), (200, 33)])
def test_against_torchmetrics(peer, h, w):
    for seed in range(3):
        a, b = (quantize(x)[None] for x in pair(h, w, .05 * (seed + 1), seed))
        with torch.no_grad(): assert load_lpips()(a, b).item() == pytest.approx(peer(a, b, normalize=True).item(), abs=2e-4, rel=1e-3)


@pytest.mark.parametrize('name, published', [('Set5', .3407), ('Set14', .4393)])
@pytest.mark.skipif(not ROOT, reason='ESRDGAN_DATA is not set')
def test_published_bicubic(name, published):
    result = evaluate(None, Path(ROOT, name, 'HR'), Path(ROOT, name, 'LRbicx4'), protocols=['lpips'])
    assert next(row for row in result.means if row['method'] == 'bicubic')['lpips'] == pytest.approx(published, abs=.002)


def test_lpips_looks_at_8_bits_and_orders_damage():
    sr, hr = pair(noise=.02)
    assert lpips(sr, hr) == pytest.approx(lpips(quantize(sr), quantize(hr)), abs=1e-9) and lpips(hr, hr) == 0
    found = [lpips(pair(noise=n)[0], hr) for n in (0, .02, .05, .1, .2)]
    assert found == sorted(found)
    assert isinstance(lpips(sr.requires_grad_(), hr), float)


def test_what_lpips_refuses():
    sr, hr = pair()
    with pytest.raises(MetricError, match='differ in shape'): lpips(sr, hr[:, 1:])
    with pytest.raises(MetricError, match='31x31 pixels, got 30x52'): lpips(sr[:, :30], hr[:, :30])


def test_nothing_of_lpips_learns_and_the_picture_does():
    model, (sr, hr) = load_lpips(), pair()
    assert not any(p.requires_grad for p in model.parameters()) and not model.training
    x = sr[None].clamp(0, 1).requires_grad_()
    assert torch.autograd.grad(model(x, hr[None]).sum(), x)[0].abs().sum() > 0


def test_only_arrays_come_out_of_a_pickle(tmp_path):
    class Trap:
        def __reduce__(self): return (tmp_path / 'sprung').touch, ()
    with pytest.raises(pickle.UnpicklingError, match='refused, only arrays'): perception._Arrays(open(_written(tmp_path, Trap()), 'rb')).load()
    assert not (tmp_path / 'sprung').exists()
    array = np.random.rand(3, 3, 2, 5).astype('f4')
    layers = perception._Arrays(open(_written(tmp_path, {'Conv_0': {'kernel': array, 'bias': array[0, 0, 0]}}), 'rb')).load()
    state = torch_convs(layers, (7,))
    assert torch.equal(state['7.weight'], torch.tensor(array).permute(3, 2, 0, 1)) and state['7.bias'].shape == (5,)


def _written(folder, content):
    (folder / 'box').write_bytes(pickle.dumps(content, protocol=3).replace(b'numpy._core.', b'numpy.core.'))
    return folder / 'box'


@pytest.mark.parametrize('name', ['psnr_y_crop4', 'psnr_rgb_crop0', 'psnr_rgb_crop12', 'ssim_y_crop4', 'ssim_rgb_crop8', 'ssim_y_crop0'])
def test_names(name):
    sr, hr = pair()
    kind, channel, crop = name.split('_')
    assert metric(name)(sr, hr) == {'psnr': psnr, 'ssim': ssim}[kind](sr, hr, channel, int(crop[4:]))


@pytest.mark.parametrize('name, right', [('PSNR', 'psnr_y_crop4'), ('ssim', 'ssim_y_crop4'), ('psnr_y', 'psnr_y_crop4'), ('psnr_rgb', 'psnr_rgb_crop4'),
    ('psnr_y_crop', 'psnr_y_crop4'), ('psnr_y_crop-4', 'psnr_y_crop4'), ('psnr_y_crop4 ', 'psnr_y_crop4'), ('psnr_rbg_crop0', 'psnr_rgb_crop0'), ('LPIPS', 'lpips'), ('dist', 'dists'), ('niqe_y', 'niqe')])
def test_wrong_names(name, right):
    with pytest.raises(MetricError, match=f"nearest name is '{right}'"): metric(name)
    assert metric(right)


@pytest.fixture
def fresh():
    perception._pyiqa.cache_clear()
    yield
    perception._pyiqa.cache_clear()


def fake_pyiqa(create): return types.SimpleNamespace(create_metric=create)


def test_pyiqa_missing(fresh, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pyiqa', None)
    with pytest.raises(MetricError, match="'dists' needs the package pyiqa.*pip install pyiqa"): metric('dists')(*pair())


def test_pyiqa_without_a_connection(fresh, monkeypatch):
    def create(name, device): raise OSError('Name or service not known')
    monkeypatch.setitem(sys.modules, 'pyiqa', fake_pyiqa(create))
    with pytest.raises(MetricError, match="'dists': its weights could not be fetched.*Name or service not known"): metric('dists')(*pair())


def test_pyiqa_is_given_8_bit_batches_once(fresh, monkeypatch):
    made, seen = [], []
    def create(name, device):
        made.append(name)
        def model(*pictures): seen.append(pictures); return torch.tensor([[.25]])
        return model
    monkeypatch.setitem(sys.modules, 'pyiqa', fake_pyiqa(create))
    sr, hr = pair()
    assert [metric('dists')(sr, hr), metric('dists')(sr, hr), metric('niqe')(sr, hr), by_library(sr, name='niqe')] == [.25] * 4
    assert made == ['dists', 'niqe'] and [len(pictures) for pictures in seen] == [2, 2, 1, 1]
    for picture, x in zip(seen[0], (sr, hr)): assert torch.equal(picture, quantize(x)[None])
    with pytest.raises(MetricError, match='give hr too'): by_library(sr)
    with pytest.raises(MetricError, match='differ in shape'): metric('dists')(sr, hr[:, 1:])
