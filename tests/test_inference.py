"""Tiles, precision, transparency, folders: what lessons 8b and 9 build, at its edges."""
import json
import subprocess
import sys
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms
from torch import nn

from esrdgan import inference, tiles
from esrdgan.degrade import blockiness, gaussian_noise, grain, jpeg
from esrdgan.generator import RRDBNet
from esrdgan.files import Notes, made_by_us
from esrdgan.image import Picture, find_pictures, list_pictures, quantize, read_image, read_picture, to_uint16, write_picture
from esrdgan.inference import (
    CPU_SIDE, HALO, STRIP, Auto, cpu_tile, fill_transparent, finite_pass, in_strips, make_consistent, model_digest, output_names, pick_device, pick_precision, result_size, self_ensemble,
    memory_needed, picture_bands, result_size, upscale, upscale_bands, upscale_folder, upscale_picture)
from esrdgan.resize import imresize, nearest
from esrdgan.tiles import SMALLEST, blend_weights, halving, out_of_memory, tile_spans, tiled

CPU, EXACT = torch.device("cpu"), partial(upscale, precision="fp32")


def db(a, b):
    return -10 * float((a - b).square().mean().clamp(min=1e-12).log10())


def generator(seed=0, **sizes):
    "A small generator with random weights whose answers stay inside 0..1 and reach far into the picture."
    torch.manual_seed(seed)
    net = RRDBNet(**{**dict(n_features=16, n_blocks=2, growth=8, init_scale=1., residual_scale=.7, rrdb_scale=.7), **sizes}).requires_grad_(False)
    net.conv_last.bias.zero_()
    net.conv_last.weight *= .12 / net(torch.rand(1, net.config["in_channels"], 40, 40)).std()
    net.conv_last.bias.fill_(.5)
    return net.eval()


@pytest.fixture(scope="module")
def net():
    return generator()


@pytest.fixture(scope="module")
def photo():
    return read_image(Path(__file__).parent.parent / "data" / "samples" / "facade.png")[:, :110, :130]


class Bicubic(nn.Module):
    scale = 4

    def forward(self, x):
        return imresize(x, 4)


# --- tiles

@given(st.integers(1, 90), st.integers(1, 40), st.integers(0, 30), st.sampled_from([1, 2, 4]), st.integers(1, 4))
def test_spans_cover_and_weights_sum_to_one(size, tile, overlap, multiple, scale):
    size = -(-size // multiple) * multiple
    spans, total = tile_spans(size, tile, overlap, multiple), torch.zeros(size * scale)
    assert spans[0][0] == 0 and spans[-1][1] == size
    up = lambda n: -(-n // multiple) * multiple
    for (a, b), w in zip(spans, blend_weights(spans, scale)):
        assert 0 <= a < b <= size and a % multiple == b % multiple == 0 and b - a <= up(tile) + 2 * up(overlap)
        assert w.isfinite().all() and w.min() >= 0
        total[a * scale:b * scale] += w
    assert torch.allclose(total, torch.ones_like(total), atol=1e-5)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20), st.integers(0, 12), st.sampled_from([1, 2, 4]))
def test_a_pointwise_enlarger_has_no_seams(height, width, tile, overlap, multiple):
    x = torch.rand(3, height, width, generator=torch.Generator().manual_seed(height * 50 + width))
    assert torch.allclose(tiled(lambda t: nearest(t, 2), x, 2, tile, overlap, multiple), nearest(x, 2), atol=1e-5)


def test_tiles_are_exact_when_the_margin_covers_the_receptive_field(photo):
    net = generator(n_blocks=1)                                   # 15 + 3 px, of which a margin keeps 3/4
    assert torch.allclose(upscale(net, photo, tile=30, overlap=25, precision="fp32"), upscale(net, photo, precision="fp32"), atol=1e-4)


def test_tiles_of_64_agree_with_the_whole_to_45_db(net, photo):
    whole = upscale(net, photo, precision="fp32")
    assert whole.std() > .05 and ((whole > 0) & (whole < 1)).float().mean() > .9        # a picture, not a clamped plane
    naive = db(upscale(net, photo, tile=64, overlap=0, precision="fp32"), whole)
    assert db(upscale(net, photo, tile=64, precision="fp32"), whole) > 60 > 45 > naive


def test_bf16_agrees_with_fp32_to_45_db():
    net = generator(residual_scale=.2, rrdb_scale=.2, init_scale=.1)
    lr = torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(0))
    low, high = upscale(net, lr, precision="bf16"), upscale(net, lr, precision="fp32")
    assert not torch.equal(low, high) and low.dtype == torch.float32
    assert db(low, high) > 45


def test_only_tiles_reach_the_model(photo):
    seen = []

    class Noting(Bicubic):
        def forward(self, x):
            seen.append(x.shape)
            return super().forward(x)
    upscale(Noting(), photo, tile=32, overlap=8)
    assert len(seen) == 20 and all(s[0] == 1 and max(s[-2:]) <= 48 for s in seen)
    seen.clear()
    upscale(Noting(), torch.rand(3, CPU_SIDE + 20, 40))           # a long strip is still small
    assert len(seen) == 1


@pytest.mark.parametrize("overlap", [0, 8, 32])
@pytest.mark.parametrize("size", [(512, 512), (100, 2621), (1, 10**6), (10**6, 1), (10**6, 3), (513, 512), (1000, 700), (3000, 4000), (2000, 1025), (9000, 12000), (150, 2000)], ids=str)
def test_passes_on_a_cpu_are_small_and_rather_wide_than_tall(size, overlap):
    rows, columns = (max(b - a for a, b in tile_spans(n, side, overlap)) for n, side in zip(size, cpu_tile(size, overlap)))
    assert rows * columns <= CPU_SIDE**2
    assert (rows, columns) == size or columns == size[1] or rows <= 256 and columns > 500
    if size[0] * size[1] > 2 * CPU_SIDE**2: assert rows * columns > CPU_SIDE**2 // 4       # and not too small


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (2, 3), (5, 64)])
@pytest.mark.parametrize("sizes", [dict(scale=4), dict(scale=8), dict(scale=2), dict(scale=2, unshuffle=True), dict(scale=1, unshuffle=True)],
                         ids=lambda s: "-".join(f"{k}{v}" for k, v in s.items()))
def test_any_size_and_any_scale(size, sizes):
    net = generator(n_features=8, n_blocks=1, **sizes)
    lr = torch.rand(3, *size, generator=torch.Generator().manual_seed(1))
    out = upscale(net, lr, precision="fp32")
    assert out.shape == (3, *(n * net.scale for n in size))
    assert torch.allclose(out, net(lr[None])[0].clamp(0, 1), atol=1e-4)
    assert upscale(net, lr, tile=4, overlap=3).shape == out.shape


def test_a_folding_generator_sees_its_own_grid_in_tiles(photo):
    for scale in (1, 2):
        net = generator(n_features=8, n_blocks=1, scale=scale, unshuffle=True)
        whole = upscale(net, photo[:, :67, :83], precision="fp32")
        assert db(upscale(net, photo[:, :67, :83], tile=30, overlap=31, precision="fp32"), whole) > 60


@pytest.mark.parametrize("arguments,words", [
    (dict(lr=torch.rand(1, 3, 8, 8)), "one picture"), (dict(lr=torch.rand(3, 0, 8)), "one picture"),
    (dict(lr=torch.rand(3, 8, 8), tile=-1), "negative"), (dict(lr=torch.rand(3, 8, 8), overlap=-1), "negative"),
    (dict(lr=torch.rand(3, 8, 8), precision="fp8"), "choose auto, fp32")])
def test_arguments_that_make_no_sense(net, arguments, words):
    with pytest.raises(ValueError, match=words):
        upscale(net, **arguments)


# --- memory

SHORTAGES = [torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryError(),
             RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
             RuntimeError("[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
             RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), RuntimeError("std::bad_alloc"), RuntimeError("could not create a primitive")]


@pytest.mark.parametrize("error", SHORTAGES, ids=lambda e: str(e)[-20:])
def test_tiles_are_halved_until_they_fit(error, photo):
    sides = []

    class Small(Bicubic):
        def forward(self, x):
            sides.append(max(x.shape[-2:]))
            if x.shape[-1] * x.shape[-2] > 70 * 70:
                raise error
            return super().forward(x)
    assert out_of_memory(error)
    assert torch.allclose(upscale(Small(), photo, overlap=8), imresize(photo, 4).clamp(0, 1), atol=1e-5)
    assert sides[0] == 130 and sides[-1] <= 80


def test_nothing_fits():
    tried = []

    def run(tile):
        tried.append(tile)
        raise SHORTAGES[0]
    with pytest.raises(MemoryError, match="tiles of 32 px.*smaller model.*Tried to allocate 2 GiB") as caught:
        halving(run, 200)
    assert tried == [200, 100, 50, SMALLEST] and caught.value.__cause__ is SHORTAGES[0]


def test_other_errors_are_not_swallowed(photo):
    class Broken(Bicubic):
        calls = 0

        def forward(self, x):
            self.calls += 1
            raise RuntimeError("expected input to have 4 channels")
    model = Broken()
    with pytest.raises(RuntimeError, match="4 channels"):
        upscale(model, photo)
    assert model.calls == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space as Linux does")
def test_a_real_shortage_of_memory():
    "A process that may allocate little more than it has: a picture too large for one go comes out all the same."
    code = """
import json, resource, torch
from esrdgan import tiles
from esrdgan.generator import RRDBNet
from esrdgan.inference import upscale
torch.set_num_threads(1)
sides, run = [], tiles.tile_spans
tiles.tile_spans = lambda size, tile, *rest: (sides.append(tile), run(size, tile, *rest))[1]
net, lr = RRDBNet(32, 1, 256, n_dense=1).requires_grad_(False), torch.rand(3, 260, 260)
upscale(net, lr[:, :20, :20])
used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 160_000_000, resource.RLIM_INFINITY))
out = upscale(net, lr, overlap=8, precision='fp32')
print(json.dumps([list(out.shape), bool(out.isfinite().all()), sides[2:]]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    shape, finite, sides = json.loads(done.stdout)
    assert shape == [3, 1040, 1040] and finite
    assert sides[0] == 260 and sides[-1] < 260


# --- precision

@pytest.mark.parametrize("amx,avx,library,expected", [(True, False, True, torch.bfloat16), (False, True, True, torch.bfloat16), (False, False, True, torch.float32),
                                                     (None, None, True, torch.float32), (True, True, False, torch.float32)])
def test_precision_of_a_processor(monkeypatch, amx, avx, library, expected):
    "The last: the chip could, but oneDNN was told not to (ONEDNN_MAX_CPU_ISA=AVX2)."
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: library)
    for name, value in (("_is_amx_tile_supported", amx), ("_is_avx512_bf16_supported", avx)):
        if value is None:
            monkeypatch.delattr(torch.cpu, name, raising=False)
        else:
            monkeypatch.setattr(torch.cpu, name, lambda value=value: value, raising=False)
    assert pick_precision(CPU) == pick_precision(CPU, None) == expected


@pytest.mark.parametrize("native", [True, False])
def test_precision_of_a_graphics_card(monkeypatch, native):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native and not including_emulation)
    assert pick_precision(torch.device("cuda")) == (torch.bfloat16 if native else torch.float16)
    assert pick_precision(torch.device("cuda"), "fp32") == torch.float32


def test_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device() == torch.device("cuda") == pick_device("cuda") and pick_device("cuda:1").index == 1
    with pytest.raises(ValueError, match="no device 'cuda:7' here: choose one of auto, cuda:0, cuda:1"):
        pick_device("cuda:7")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("cuda", "cuda:0", "cpu:abc", "cpu:1:2", "tpu", "", "CPU"):
        with pytest.raises(ValueError, match=f"no device '{name}' here"):
            pick_device(name)


def test_broken_answers_are_done_again_in_fp32(photo):
    kinds = []

    class Fragile(Bicubic):
        def forward(self, x):
            kinds.append(torch.is_autocast_enabled("cpu"))
            return super().forward(x) * (torch.nan if kinds[-1] else 1)
    assert torch.allclose(upscale(Fragile(), photo, precision="fp16"), imresize(photo, 4).clamp(0, 1))
    assert kinds == [True, False]
    with pytest.raises(ValueError, match="even in fp32"):
        upscale(Bicubic(), photo * torch.inf)


def test_sixteen_bits_survive_bf16(tmp_path):
    "The real thing: a ramp of 3,072 levels through tiny-psnr, its convolutions but for the last in bf16."
    from esrdgan.weights import load_generator
    ramp = torch.linspace(.48, .70, 3072).reshape(1, 48, 64).expand(3, -1, -1).contiguous()
    write_picture(Picture(ramp, bits=16), tmp_path / "ramp.png")
    model = load_generator("tiny-psnr")
    made = upscale_picture(model, read_picture(tmp_path / "ramp.png"), enlarge=partial(upscale, precision="bf16"))
    write_picture(made, tmp_path / "out.png")
    assert len(np.unique(to_uint16(read_picture(tmp_path / "out.png").rgb))) > 10_000
    assert "forward" not in vars(model.conv_last)                        # the model is as it was


def test_finite_pass_feeds_channels_last(net):
    shapes = []
    hook = net.conv_first.register_forward_pre_hook(lambda m, x: shapes.append(x[0].is_contiguous(memory_format=torch.channels_last)))
    finite_pass(net, torch.rand(1, 3, 9, 10), torch.float32, ensemble=True)
    hook.remove()
    assert shapes == [True] * 8


@pytest.mark.parametrize("settings", [dict(), dict(scale=1), dict(scale=2), dict(scale=8), dict(hr_kernel=5), dict(scale=1, hr_kernel=5), dict(scale=2, hr_kernel=5),
                                      dict(scale=2, unshuffle=True), dict(scale=1, unshuffle=True, hr_kernel=5)], ids=str)
@pytest.mark.parametrize("height", [1, 63, 64, 65, 67, 129, 150])
def test_strips_change_nothing(settings, height):
    "The layers at full size, strip by strip or at once: where strips meet, and at the edges of the picture, too."
    torch.manual_seed(0)
    model = RRDBNet(6, 1, 4, **settings).requires_grad_(False)
    for p in model.parameters():
        p.copy_(torch.randn(p.shape) * (.3 if p.dim() > 1 else 1))      # large biases: what lies beyond the edge of a strip is not zero behind a layer
    x = torch.rand(1, 3, height, 7)
    whole = model(x)
    torch.testing.assert_close(in_strips(model, x), whole, rtol=1e-4, atol=1e-5 * float(whole.abs().max()))    # sums in another order


def test_no_layer_at_full_size_sees_more_than_a_strip(net):
    seen = []
    hook = net.conv_hr.register_forward_pre_hook(lambda m, x: seen.append(x[0].shape[2]))
    upscale(net, torch.rand(3, 500, 8))
    hook.remove()
    assert len(seen) == 8 and max(seen) == (STRIP + 2 * HALO) * 4


def test_ensemble_knows_no_orientation(net):
    x = torch.rand(1, 3, 12, 20, generator=torch.Generator().manual_seed(3))
    for move in (lambda z: z.flip(-1), lambda z: z.flip(-2), lambda z: z.mT, lambda z: torch.rot90(z, 1, (-2, -1))):
        assert torch.allclose(self_ensemble(net, move(x)), move(self_ensemble(net, x)), atol=1e-5)
    assert torch.allclose(upscale(net, x[0], ensemble=True, precision="fp32"), self_ensemble(net, x)[0].clamp(0, 1), atol=1e-5)


# --- agreement with the input

@pytest.mark.parametrize("scale", [2, 3, 4, 8])
@pytest.mark.parametrize("shape", [(1, 9, 14), (3, 16, 16), (2, 3, 7, 21)])
def test_consistent_answers_come_nearer_to_their_input_and_to_the_truth(shape, scale):
    g = torch.Generator().manual_seed(scale)
    truth = torch.rand(*shape[:-2], *(scale * n for n in shape[-2:]), generator=g, dtype=torch.float64)
    lr = imresize(truth, 1 / scale)
    guess = truth + .1 * torch.randn(truth.shape, generator=g, dtype=torch.float64)
    apart = lambda x: (imresize(x, 1 / scale) - lr).square().mean()
    steps = [make_consistent(guess, lr, n) for n in range(5)]
    assert torch.equal(steps[0], guess) and torch.allclose(make_consistent(truth, lr), truth)
    for before, after in zip(steps, steps[1:]): assert apart(after) < .5 * apart(before)
    assert (steps[3] - truth).square().mean() < (guess - truth).square().mean()


def test_upscale_can_be_made_to_agree(net, photo):
    small, far = imresize(photo, 1 / 4), lambda x: (imresize(x, 1 / 4) - imresize(photo, 1 / 4)).square().mean()
    plain, made = (upscale(net, small, precision="fp32", consistent=c) for c in (False, True))
    assert far(made) < .1 * far(plain)
    picture = upscale_picture(net, Picture(small), enlarge=partial(upscale, precision="fp32", consistent=True))
    assert torch.equal(picture.rgb, made)


# --- pictures

@pytest.mark.parametrize("scale", [None, 4, 1, .5, 1.3, 2, 3, 5.5, .01])
def test_size_of_the_result(scale):
    out = upscale_picture(Bicubic(), Picture(torch.rand(3, 11, 17)), scale)
    assert out.rgb.shape == (3, *(max(1, round(n * (scale or 4))) for n in (11, 17)))
    assert 0 <= out.rgb.min() and out.rgb.max() <= 1


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf")])
def test_impossible_scales(scale):
    with pytest.raises(ValueError, match="must be positive"):
        upscale_picture(Bicubic(), Picture(torch.rand(3, 4, 4)), scale)


def disc(n=40):
    i = torch.arange(n) - (n - 1) / 2
    return (n * .4 - (i[:, None]**2 + i**2).sqrt()).clamp(0, 1)[None]


def test_no_fringe_whatever_is_hidden():
    alpha = disc()
    colour = torch.tensor([.9, .5, .1])[:, None, None].expand(3, 40, 40)
    for hidden in (0., 1.):
        out = upscale_picture(Bicubic(), Picture(torch.where(alpha > 0, colour, hidden), alpha))
        assert (out.rgb - colour[:, :1, :1]).abs().max() < 1e-5          # one colour, also where nothing is seen
    assert db(imresize(torch.where(alpha > 0, colour, 0.), 4), imresize(colour.contiguous(), 4)) < 20   # what the fill prevents


def test_alpha_keeps_what_is_opaque_and_what_is_not(net):
    alpha = disc()
    out = upscale_picture(net, Picture(torch.rand(3, 40, 40), alpha), enlarge=EXACT).alpha
    smooth = imresize(alpha, 4).clamp(0, 1)
    flat = (smooth == 0) | (smooth == 1)
    assert out.shape == (1, 160, 160) and torch.equal(out[flat], smooth[flat]) and flat.float().mean() > .5
    assert not torch.equal(out, smooth)                                   # the edge is the model's
    for value in (0., 1.):
        plain = upscale_picture(net, Picture(torch.rand(3, 8, 8), torch.full((1, 8, 8), value)), enlarge=EXACT)
        assert (plain.alpha == value).all()


@pytest.mark.parametrize("scale", [1.5, 2.5, 3])
def test_alpha_is_exact_at_scales_where_imresize_rounds(scale):
    class Faint(Bicubic):
        def forward(self, x):
            return .99 * imresize(x, 4)

    alpha = torch.ones(1, 21, 17)
    assert upscale_picture(Faint(), Picture(torch.rand(3, 21, 17), alpha), scale).alpha.min() == 1
    alpha[:, :, :8] = 0                                                   # half of it transparent: the middle may be soft, no more
    out = upscale_picture(Faint(), Picture(torch.rand(3, 21, 17), alpha), scale).alpha
    edge = round(4 * scale)
    assert (out[:, :, :edge] == 0).all() and (out[:, :, -edge:] == 1).all()


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 10**6))
def test_fill_stays_between_the_visible_colours(height, width, seed):
    rng = torch.Generator().manual_seed(seed)
    rgb, alpha = torch.rand(3, height, width, generator=rng), (torch.rand(1, height, width, generator=rng) - .7).clamp(0, 1)
    out, seen = fill_transparent(rgb, alpha), alpha[0] > 0
    assert torch.equal(out[:, seen], rgb[:, seen]) and out.isfinite().all()
    if seen.any():
        for plane, source in zip(out, rgb):
            assert source[seen].min() - 1e-4 <= plane.min() and plane.max() <= source[seen].max() + 1e-4


def test_sixteen_bits_grey_and_profile_through_files(tmp_path, net):
    ramp = torch.linspace(.3, .31, 60)[None, None].expand(3, 20, 60)      # 1/100 of the range: three levels of 8 bits
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    write_picture(Picture(ramp, bits=16, icc=icc), tmp_path / "ramp.png")
    grey = Picture(torch.rand(1, 12, 12).expand(3, -1, -1), torch.ones(1, 12, 12), grey=True)
    write_picture(grey, tmp_path / "grey.png")
    report = upscale_folder(Bicubic(), list_pictures(tmp_path), tmp_path / "out")
    assert not report.failed
    out = read_picture(tmp_path / "out" / "ramp_x4.png")
    assert out.bits == 16 and out.icc == icc and len(out.rgb.unique()) > 200
    assert (out.rgb - imresize(ramp.contiguous(), 4)).abs().max() < 2e-5
    assert read_picture(tmp_path / "out" / "grey_x4.png").grey
    big = upscale_picture(net, grey)
    assert torch.equal(big.rgb[0], big.rgb[1]) and torch.equal(big.rgb[0], big.rgb[2])


@pytest.mark.parametrize("sample", ["cameraman_grey", "dogs", "drawing", "flower_alpha", "sunset_16bit", "text"])
def test_every_kind_of_sample(net, sample, tmp_path):
    source = read_picture(Path(__file__).parent.parent / "data" / "samples" / f"{sample}.png")
    crop = lambda x: None if x is None else x[:, :40, :40]
    out = upscale_picture(net, replace(source, rgb=crop(source.rgb), alpha=crop(source.alpha)))
    write_picture(out, tmp_path / "out.png")
    back = read_picture(tmp_path / "out.png")
    assert (back.grey, back.bits, back.alpha is None) == (source.grey, source.bits, source.alpha is None)
    assert back.rgb.shape == (3, 160, 160) and back.rgb.std() > .01


# --- folders

@given(st.lists(st.tuples(st.sampled_from(["a", "b/a", "A", "a_png", "a_2", "a_png_2", "x.y"]), st.sampled_from([".png", ".jpg", ".PNG"])), min_size=1, max_size=12))
def test_names_never_meet(parts):
    paths = [Path(stem + suffix) for stem, suffix in parts]
    names = output_names(paths)
    assert len({str(n).lower() for n in names}) == len(paths) and all(n.name.endswith("_x4.png") and n.parent == p.parent for n, p in zip(names, paths))


@pytest.mark.parametrize("place, form, name", [("a.jpg", "same", "a_x4.jpg"), ("a.JPEG", "same", "a_x4.jpeg"), ("a.jfif", "same", "a_x4.jpg"), ("a.bmp", "same", "a_x4.png"),
                                               ("a.gif", "same", "a_x4.png"), ("a.TIF", "same", "a_x4.tif"), ("a.jpg", "webp", "a_x4.webp"), ("b/a.png", "tiff", "b/a_x4.tiff")])
def test_suffix_of_a_result(place, form, name):
    assert [n.as_posix() for n in output_names([Path(place)], form=form)] == [name]


@pytest.mark.parametrize("letter", ["n", "ü", "写"])
def test_long_names_are_cut_and_stay_different(letter):
    stem = letter * (250 // len(letter.encode()))
    names = output_names([Path(f"{stem}.png"), Path(f"{stem[:-1]}z.png"), Path(f"{stem}.jpg")], "_x4")
    assert len({*names}) == 3 and all(len(n.name.encode()) <= 255 and n.name.endswith("_x4.png") for n in names)


def small_picture(path, value=128):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 8, 3), value, np.uint8)).save(path)
    return path


def test_folder_goes_on_after_bad_files(tmp_path):
    good = [small_picture(tmp_path / "in" / n, v) for n, v in (("a.jpg", 50), ("a.png", 200), ("z.bmp", 90))]
    (tmp_path / "in" / "b.png").write_text("not a picture")
    (tmp_path / "in" / "c.png").write_bytes(b"")
    out = tmp_path / "new" / "out"
    report = upscale_folder(Bicubic(), list_pictures(tmp_path / "in"), out)
    assert sorted(p.name for p in report.done) == ["a_jpg_x4.png", "a_png_x4.png", "z_x4.png"]
    assert [p.name for p, _ in report.failed] == ["b.png", "c.png"] and all("\n" not in why for _, why in report.failed)
    assert abs(read_image(out / "a_jpg_x4.png").mean() * 255 - 50) < 3 and abs(read_image(out / "a_png_x4.png").mean() * 255 - 200) < 1
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in report.done)
    again = upscale_folder(Bicubic(), good, out)
    assert len(again.skipped) == 3 and not again.done
    small_picture(good[2], 10)
    changed = upscale_folder(Bicubic(), good, out)
    assert [p.name for p in changed.done] == ["z_x4.png"] and len(changed.skipped) == 2
    assert abs(read_image(out / "z_x4.png").mean() * 255 - 10) < 1
    assert len(upscale_folder(Bicubic(), good, out, overwrite=True).done) == 3


@pytest.mark.parametrize("change", [dict(model=Bicubic), dict(note={"model": "other"}), dict(note={"strength": .5}), dict(scale=2, mark="_x4"), dict(seamless=True), dict(strip=True),
                                    dict(width=32, mark="_x4")], ids=str)
def test_there_already_means_made_in_the_same_way(change, tmp_path):
    class Other(Bicubic):
        def __init__(self):
            super().__init__()
            self.register_buffer("weight", torch.ones(1))
    path, out = small_picture(tmp_path / "a.png"), tmp_path / "out"
    model, changed = Bicubic(), Other() if change.pop("model", None) else Bicubic()
    assert len(upscale_folder(model, [path], out).done) == 1
    for _ in range(2):
        report = upscale_folder(changed, [path], out, **change)
        assert not report.failed and [p.name for p in [*report.done, *report.skipped]] == ["a_x4.png"]
    assert report.skipped and len(list(out.iterdir())) == 1
    assert len(upscale_folder(model, [path], out).done) == 1               # and back again


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("content", [b"mine", b"", None])
def test_a_file_that_is_not_ours_is_never_replaced(overwrite, content, tmp_path):
    path = small_picture(tmp_path / "a.png")
    mine = small_picture(tmp_path / "a_x4.png", 7)
    if content is not None: mine.write_bytes(content)
    before = mine.read_bytes()
    for _ in range(2):
        report = upscale_folder(Bicubic(), [path], tmp_path, overwrite=overwrite)
        assert mine.read_bytes() == before and [p.name for p in [*report.done, *report.skipped]] == ["a_x4_2.png"] and not report.failed
    assert bool(report.skipped) != overwrite
    assert overwrite is False or "a_x4.png is not a result of this picture: written as a_x4_2.png" in report.remarks[0][1]


def test_a_result_of_another_picture_of_that_name_stays(tmp_path):
    one, two = small_picture(tmp_path / "1" / "a.png", 50), small_picture(tmp_path / "2" / "a.png", 200)
    out = tmp_path / "out"
    for path in (one, two, one, two):
        report = upscale_folder(Bicubic(), [path], out)
        assert not report.failed
    assert report.skipped == [out / "a_x4_2.png"] and sorted(p.name for p in out.iterdir()) == ["a_x4.png", "a_x4_2.png"]
    assert abs(read_image(out / "a_x4.png").mean() * 255 - 50) < 1 and abs(read_image(out / "a_x4_2.png").mean() * 255 - 200) < 1
    moved = (one.rename(tmp_path / "a.png"))
    assert upscale_folder(Bicubic(), [moved], out).skipped == [out / "a_x4.png"]       # the same picture in another place


def test_folders_are_mirrored(tmp_path):
    for name in ("top.png", "day1/img.png", "day2/img.png"): small_picture(tmp_path / "trip" / name)
    report = upscale_folder(Bicubic(), find_pictures(tmp_path / "trip").places, tmp_path / "out")
    assert sorted(p.relative_to(tmp_path / "out").as_posix() for p in report.done) == ["day1/img_x4.png", "day2/img_x4.png", "top_x4.png"]


def test_results_below_the_input_are_not_inputs(tmp_path):
    small_picture(tmp_path / "a.png")
    for scale, mark in ((4, "a_x4.png"), (2, "a_x2.png"), (4, None)):
        report = upscale_folder(Bicubic(), find_pictures(tmp_path).places, tmp_path / "out", scale)
        assert [p.name for p in report.done] == ([mark] if mark else []) and not report.failed
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a_x2.png", "a_x4.png"] and len(report.results) == 2


def test_what_the_system_refuses_costs_one_picture(tmp_path, monkeypatch):
    paths = [small_picture(tmp_path / "in" / n) for n in ("a.png", "b.png", "c.png")]
    (tmp_path / "out").mkdir()
    place = {paths[0]: Path("a.png"), paths[1]: Path("file") / "b.png", paths[2]: Path("c.png")}
    (tmp_path / "out" / "file").touch()
    worked = []
    report = upscale_folder(Bicubic(), place, tmp_path / "out", enlarge=lambda m, x: worked.append(1) or upscale(m, x))
    assert len(report.done) == 2 and [p.name for p, _ in report.failed] == ["b.png"] and len(worked) == 2          # known before the work
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    report = upscale_folder(Bicubic(), paths, tmp_path / "full")
    assert len(report.failed) == 3 and all("No space left" in why for _, why in report.failed) and not list((tmp_path / "full").iterdir())


def test_a_name_of_248_letters_is_one_picture_of_three(tmp_path):
    paths = [small_picture(tmp_path / "in" / f"{n}.png") for n in ("a", "n" * 248, "z")]
    report = upscale_folder(Bicubic(), paths, tmp_path / "out")
    assert len(report.done) == 3 and len(upscale_folder(Bicubic(), paths, tmp_path / "out").skipped) == 3


@pytest.mark.parametrize("form", ["jpg", "webp", "tiff", "same"])
def test_every_format_knows_what_it_was_made_of(form, tmp_path):
    path = small_picture(tmp_path / "a.jpg")
    for done in (1, 0):
        report = upscale_folder(Bicubic(), [path], tmp_path / "out", form=form, note={"model": "m"})
        assert len(report.done) == done and not report.failed and not report.remarks
    [made] = (tmp_path / "out").iterdir()
    assert made_by_us(made)["model"] == "m" and made.suffix == {"same": ".jpg"}.get(form, f".{form}") and Image.open(made).size == (32, 24)
    assert len(upscale_folder(Bicubic(), [path], tmp_path / "out", form=form, note={"model": "m"}, quality=30).done) == (form != "tiff")


def test_what_a_format_does_not_hold_is_said_or_refused_before_the_work(tmp_path):
    write_picture(Picture(torch.rand(3, 8, 8), bits=16, notes=Notes(chunks=[(b"gAMA", bytes(4))])), tmp_path / "in" / "deep.png")
    write_picture(Picture(torch.rand(3, 8, 8), torch.rand(1, 8, 8)), tmp_path / "in" / "clear.png")
    worked = []
    report = upscale_folder(Bicubic(), list_pictures(tmp_path / "in"), tmp_path / "out", form="jpg", enlarge=lambda m, x: worked.append(1) or upscale(m, x))
    assert [w for _, w in report.remarks] == [".jpg does not hold what its PNG says of colours", ".jpg does not hold 8 of its 16 bits"]
    assert len(worked) == 1 and "JPEG cannot hold transparency" in report.failed[0][1]


def test_stripped_results_keep_their_colours_and_our_note(tmp_path):
    notes = Notes(dpi=(300, 300), comment=b"me", chunks=[(b"tEXt", b"Title\0a scan"), (b"gAMA", (100000).to_bytes(4, "big"))])
    write_picture(Picture(torch.rand(3, 8, 8), notes=notes), tmp_path / "a.png")
    for strip, keys in ((False, {"esrdgan", "Title", "Comment", "dpi", "gamma"}), (True, {"esrdgan", "gamma"})):
        [made] = upscale_folder(Bicubic(), [tmp_path / "a.png"], tmp_path / f"{strip}", strip=strip).done
        assert {*Image.open(made).info} == keys


# --- sizes, textures

class Flat(nn.Module):
    "Answers with one colour, so that it is seen which network was asked."
    def __init__(self, value, scale=4):
        super().__init__()
        self.scale, self.value = scale, nn.Parameter(torch.tensor(value))

    def forward(self, x): return self.value.expand(*x.shape[:2], x.shape[2] * self.scale, x.shape[3] * self.scale)


def test_auto_asks_one_network_for_clean_pictures_and_another_for_damaged_ones(photo):
    both = Auto(Flat(.25), Flat(.75), ("crisp", "calm"))
    noisy = gaussian_noise(photo, .1, torch.Generator().manual_seed(0))
    for x, name, value in ((photo, "crisp", .25), (jpeg(photo, 75), "calm", .75), (noisy, "calm", .75)):
        assert both.choose(x)[1] == name and (upscale(both, x, precision="fp32") == value).all()
    for side in (1, 7, 23): assert both.choose(torch.rand(3, side, 40))[1] == "crisp"
    assert both.choose(torch.zeros(3, 64, 64))[1] == "crisp"
    with pytest.raises(ValueError, match="one scale, not x4 and x2"): Auto(Flat(.2), Flat(.3, 2))


@pytest.mark.parametrize("top, left", [(0, 0), (3, 0), (5, 7)])
def test_blocks_are_found_wherever_their_grid_begins(photo, top, left):
    "JPEG 75 stands out, cropped or not; noise stands out and is no grid; a turn or a mirror image changes nothing but the place."
    saved = jpeg(photo, 75)[:, top:, left:]
    assert blockiness(photo) < .12 < .3 < blockiness(saved)
    assert blockiness(gaussian_noise(photo, .1, torch.Generator().manual_seed(0))) < .12
    assert blockiness(saved.flip(-1)) > .3


def test_grain_grows_with_noise(photo):
    found = [grain(gaussian_noise(photo, s / 255, torch.Generator().manual_seed(0))) for s in (0, 4, 8, 16)]
    assert found == sorted(found) and found[-1] > 7


def test_auto_in_a_folder_is_counted_and_done_again_for_other_weights(tmp_path, photo):
    for name, x in dict(a=photo, b=jpeg(photo, 60), c=jpeg(photo, 75)).items(): write_picture(Picture(x), tmp_path / "in" / f"{name}.png")
    both = Auto(Flat(.25), Flat(.75), ("crisp", "calm"))
    run = lambda model: upscale_folder(model, list_pictures(tmp_path / "in"), tmp_path / "out", enlarge=EXACT)
    assert run(both).chosen == ["crisp", "calm", "calm"]
    assert [round(read_image(p).mean().item(), 2) for p in list_pictures(tmp_path / "out")] == [.25, .75, .75]
    assert len(run(both).skipped) == 3 and len(run(Auto(Flat(.25), Flat(.5))).done) == 3


@pytest.mark.parametrize("sides, size", [(dict(width=100), (50, 100)), (dict(height=10), (10, 20)), (dict(width=7, height=9), (9, 7)), (dict(width=1), (1, 1)), ({}, (80, 160))])
def test_exact_sizes(sides, size):
    assert result_size((20, 40), 4, **sides) == size
    assert upscale_picture(Bicubic(), Picture(torch.rand(3, 20, 40), torch.rand(1, 20, 40)), **sides).alpha.shape == (1, *size)


@pytest.mark.parametrize("sides", [{}, dict(scale=2.5), dict(scale=.5), dict(width=50), dict(width=31, height=77)])
def test_a_seamless_texture_is_the_middle_of_nine(sides, net):
    texture = torch.rand(3, 12, 20, generator=torch.Generator().manual_seed(0))
    size = upscale_picture(Bicubic(), Picture(texture), **sides).rgb.shape[1:]
    nine = dict(width=3 * size[1], height=3 * size[0])
    for model, tolerance in ((Bicubic(), 1e-5), (net, 2e-3)):
        tile = upscale_picture(model, Picture(texture), enlarge=EXACT, seamless=True, **sides).rgb
        whole = upscale_picture(model, Picture(texture.repeat(1, 3, 3)), enlarge=EXACT, **nine).rgb
        assert tile.shape[1:] == size and (tile - whole[:, size[0]:2 * size[0], size[1]:2 * size[1]]).abs().max() < tolerance


def test_a_model_is_known_by_its_weights(net):
    before = model_digest(net)
    assert model_digest(generator()) == before != model_digest(generator(1)) and len(before) == 16


def test_the_folder_of_the_inputs_may_be_the_output(tmp_path):
    small_picture(tmp_path / "a.png")
    for done in (1, 0):
        assert len(upscale_folder(Bicubic(), list_pictures(tmp_path), tmp_path).done) == done
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "a_x4.png"]


@pytest.mark.parametrize("where", ["model", "rename"])
def test_an_interrupt_leaves_no_half_file(tmp_path, monkeypatch, where):
    paths = [small_picture(tmp_path / "in" / f"{n}.png") for n in "ab"]

    def stop(*_):
        raise KeyboardInterrupt
    out = tmp_path / "out"
    upscale_folder(Bicubic(), paths[:1], out)
    model = Bicubic()
    if where == "model":
        monkeypatch.setattr(model, "forward", stop)
    else:
        monkeypatch.setattr("os.replace", stop)
    with pytest.raises(KeyboardInterrupt):
        upscale_folder(model, paths, out)
    assert [p.name for p in out.iterdir()] == ["a_x4.png"]
    monkeypatch.undo()
    report = upscale_folder(Bicubic(), paths, out)
    assert (len(report.done), len(report.skipped)) == (1, 1)


def test_running_out_of_memory_is_one_line_in_the_report(tmp_path, monkeypatch):
    def no_memory(*_):
        raise MemoryError("out of memory even with tiles of 32 px: close other programs")
    monkeypatch.setattr(inference, "picture_bands", no_memory)
    report = upscale_folder(Bicubic(), [small_picture(tmp_path / "a.png")], tmp_path / "out")
    assert "32 px" in report.failed[0][1]


# --- the real thing

def test_x4plus_on_baby(data_root):
    "The figures that the project promises: fp32 against the truth, bf16 and tiles of 64 px against fp32."
    from esrdgan.weights import load_generator
    model = load_generator("x4plus")
    lr, hr = (read_image(data_root / "Set5" / kind / "baby.png") for kind in ("LRbicx4", "HR"))
    whole = upscale(model, lr, precision="fp32")
    assert abs(db(quantize(whole), hr) - 24.44) <= .02
    assert db(upscale(model, lr, precision="bf16"), whole) >= 45
    assert db(upscale(model, lr, tile=64, precision="fp32"), whole) >= 45
    assert db(upscale(model, lr, tile=64), whole) >= 45


def test_x4plus_draws_the_edge_of_a_mask_better_than_bicubic(data_root):
    from esrdgan.weights import load_generator
    mask = disc(384)
    small = imresize(mask, .25).clamp(0, 1)
    out = upscale_picture(load_generator("x4plus"), Picture(torch.zeros(3, 96, 96), small), enlarge=EXACT).alpha
    assert db(out, mask) > db(imresize(small, 4).clamp(0, 1), mask) + 3


# --- results that leave in bands ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("scale", [None, 2, 4.7])
@pytest.mark.parametrize("kind", ["rgb", "grey", "alpha"])
def test_a_file_written_in_bands_is_what_one_go_makes(kind, scale, bits, net, tmp_path):
    "The oracle: enlarged as a whole, resized as a whole, rounded as a whole. Other order of the two axes of `imresize`: one step of 16 bits, or a rounding to 8 bits that falls the other way."
    torch.manual_seed(0)
    rgb = torch.rand(3, 150, 61) if kind != "grey" else torch.rand(1, 150, 61).expand(3, -1, -1)
    alpha = (torch.rand(1, 150, 61) * 3 - 1).clamp(0, 1) if kind == "alpha" else None
    write_picture(Picture(rgb, alpha, kind == "grey", bits), tmp_path / "a.png")
    source = read_picture(tmp_path / "a.png")
    how = partial(upscale_bands, precision="fp32", tile=40, overlap=16)
    report = upscale_folder(net, [tmp_path / "a.png"], tmp_path / "out", scale, how)
    made = read_picture(report.done[0])
    size = result_size((150, 61), scale or 4)
    whole = lambda x: imresize(upscale(net, x, precision="fp32", tile=40, overlap=16), size=size).clamp(0, 1)
    colours = whole(source.rgb if alpha is None else fill_transparent(source.rgb, source.alpha))
    if kind == "grey": colours = colours.mean(0, keepdim=True).expand(3, -1, -1)
    near = (1.01 / 65535 if bits == 16 else 1.01 / 255)
    apart = (made.rgb - (colours * (2**bits - 1)).round() / (2**bits - 1)).abs()
    assert made.bits == bits and made.grey == (kind == "grey") and apart.max() <= near and (apart > 0).float().mean() < (.05 if bits == 16 else .001)
    if scale is None: assert apart.max() == 0
    if alpha is not None:
        smooth = imresize(source.alpha, size=size).clamp(0, 1)
        expected = torch.where((smooth > 1e-5) & (smooth < 1 - 1e-5), whole(source.alpha.expand(3, -1, -1)).mean(0, keepdim=True), smooth.round())
        assert (made.alpha - expected).abs().max() <= near and made.alpha.min() == 0 and made.alpha.max() == 1


def test_the_first_band_leaves_before_the_last_tile_is_made(monkeypatch):
    "And none has more than so many pixels, however tall the tiles."
    monkeypatch.setattr(tiles, "_PIXELS", 100 * 80)
    passes = []
    class Counting(Bicubic):
        def forward(self, x): passes.append(x.shape); return super().forward(x)
    picture = Picture(torch.rand(3, 400, 20), torch.rand(1, 400, 20))
    bands = picture_bands(Counting(), picture, (1600, 80), partial(upscale_bands, tile=100, overlap=8))
    first = next(bands)
    assert first.shape[0] == 4 and first.shape[1] <= 100 and len(passes) == 2       # one of colours, one of alpha; of four each
    rest = list(bands)
    assert len(passes) == 8 and first.shape[1] + sum(b.shape[1] for b in rest) == 1600 and max(b.shape[1] for b in rest) == 100


def test_a_band_of_any_width_has_a_row():
    assert [band.shape for band in tiles.tiled_bands(lambda x: nearest(x, 4), torch.rand(3, 3, 700_000), 4, (3, 350_000), 0)] == [(3, 1, 2_800_000)] * 12


def test_the_colours_of_a_picture_go_while_its_alpha_stays(net, tmp_path, monkeypatch):
    "Of a large picture with transparency the filled colours are held, not the others beside them."
    write_picture(Picture(torch.rand(3, 12, 10), torch.rand(1, 12, 10).round()), tmp_path / "a.png")
    alpha = read_picture(tmp_path / "a.png").alpha
    assert alpha.untyped_storage().nbytes() == 4 * alpha.numel()           # not a view of all four channels
    colours, gone, plain = [], [], inference.fill_transparent
    def fill(rgb, alpha):
        colours.append(weakref.ref(rgb))
        return plain(rgb, alpha)
    def enlarge(model, x):
        gone.append(colours[0]() is None)
        yield from upscale_bands(model, x)
    monkeypatch.setattr(inference, "fill_transparent", fill)
    report = upscale_folder(net, [tmp_path / "a.png"], tmp_path / "out", enlarge=enlarge)
    assert len(report.done) == 1 and gone == [True, True]                   # once for the colours, once for alpha


def test_a_tile_that_does_not_fit_is_cut_and_the_next_ones_are_cut_at_once():
    failed = []
    class Small(Bicubic):
        def forward(self, x):
            if x[0, 0].numel() > 60**2:
                failed.append(x.shape)
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return super().forward(x)
    lr = torch.rand(3, 200, 80)
    made = upscale(Small(), lr, tile=70, overlap=8)
    assert torch.allclose(made, imresize(lr, 4).clamp(0, 1), atol=1e-5)
    assert failed == [(1, 3, 83, 48)]        # the first of six that is too large: (75, 48), (83, 48), (75, 48), twice each


def test_a_large_result_tells_its_memory_before_it_is_made(net, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(inference, "_LARGE", 40 * 40 - 1)
    write_picture(Picture(torch.rand(3, 10, 10)), tmp_path / "a.png")
    upscale_folder(net, [tmp_path / "a.png"], tmp_path / "out")
    assert "a.png: 40 x 40 pixels, about 1.3 GB of memory" in capsys.readouterr().err
    sizes = (3000, 4000), (12000, 16000)
    tiny = RRDBNet(24, 1, 32)
    assert 1.9 < memory_needed(tiny, *sizes) < 2.3 and 2.7 < memory_needed(tiny, *sizes, alpha=True) < 3.1      # benchmarks/memory.md: 2.10, 2.91
    assert memory_needed(net, *sizes, form="jpg") > memory_needed(net, *sizes) + 1
