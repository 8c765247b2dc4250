"""ONNX files: what the room `export` writes, run by another program, at sizes the exporter has not seen."""
import configparser
import copy
import importlib.util
import json
import logging
import os
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from esrdgan import export
from esrdgan.export import TOLERANCE, export_onnx, onnx_difference
from esrdgan.generator import RRDBNet

ROOT = Path(__file__).parent.parent
PACKAGES = ["onnx", "onnxruntime", "onnxscript"]
SIZES = [(1, 1, 1), (3, 7, 9), (2, 24, 20), (1, 8, 30), (1, 33, 2)]        # batch, height, width: of these only 24 x 20 was traced


def generator(**sizes):
    "A small generator whose blocks matter: with fresh weights a wrong block would hardly show."
    torch.manual_seed(0)
    defaults = dict(n_features=8, n_blocks=1, growth=8, n_dense=1, init_scale=1., residual_scale=.7, rrdb_scale=.7)
    return RRDBNet(**{**defaults, **sizes}).requires_grad_(False).eval()


def run(path, x):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["output"], {"input": x.numpy()})[0])


OLD = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6)
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.skipif(OLD, reason="the export asks for PyTorch 2.6")]


@pytest.fixture(scope="module")
def net():
    return generator(n_dense=3)


@pytest.fixture(scope="module")
def saved(net, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    export_onnx(net, path)
    return path


@pytest.fixture
def traced(saved, monkeypatch):
    "Spares the tests below the seconds that the exporter takes: it gives what it gave before."
    monkeypatch.setattr(export, "_graph", lambda model: onnx.load(saved))


# --- the same function

def agree_at_every_size(net, path):
    onnx.checker.check_model(path, full_check=True)
    for batch, height, width in SIZES:
        x = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(height))
        answer = run(path, x)
        assert answer.shape == (batch, 3, height * net.scale, width * net.scale)
        assert torch.allclose(answer, net(x), atol=TOLERANCE)


def test_scale_4(net, saved):
    agree_at_every_size(net, saved)


@pytest.mark.parametrize("sizes", [
    dict(scale=1), dict(scale=2), dict(scale=8), dict(scale=2, unshuffle=True), dict(scale=1, unshuffle=True),
    dict(lff_kernel=1, hr_kernel=5, slope=.1, n_dense=2)], ids=lambda s: "-".join(f"{k}{v}" for k, v in s.items()))
def test_every_generator_at_every_size(sizes, tmp_path, capfd, caplog):
    net, path = generator(**sizes), tmp_path / "net.onnx"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        difference = export_onnx(net, path)
    assert (*capfd.readouterr(), caught) == ("", "", [])                       # the exporter is kept quiet
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert 0 <= difference <= TOLERANCE
    agree_at_every_size(net, path)
    output = onnx.load(path).graph.output[0].type.tensor_type.shape.dim
    times = f"{net.scale}*" if net.scale > 1 else ""
    assert [d.dim_param or d.dim_value for d in output] == ["batch", 3, times + "height", times + "width"]


def test_a_second_program_agrees(net, saved):
    "onnx's own reference implementation, written in NumPy from the operators' document."
    x = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    answer, = onnx.reference.ReferenceEvaluator(str(saved)).run(None, {"input": x.numpy()})
    assert np.allclose(answer, net(x), atol=TOLERANCE)


def test_the_blocks_matter_here(net, saved):
    "The generators of these tests would show one wrong slope deep inside."
    other = copy.deepcopy(net)
    other.body[0].rdb1.conv1.slope = .3
    assert onnx_difference(saved, other) > 10 * TOLERANCE


def test_the_model_stays_as_it_was_whatever_it_is(tmp_path):
    "In bf16, training, channels last, in a caller's autocast and inference mode: a float32 file, and nothing moved."
    net = generator().to(torch.bfloat16).to(memory_format=torch.channels_last).train()
    before, random = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        assert export_onnx(net, tmp_path / "net.onnx") <= TOLERANCE
    assert net.training and all(m.training for m in net.modules())
    assert all(v.dtype == torch.bfloat16 and torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert net.conv_hr.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(torch.get_rng_state(), random)
    x = torch.rand(1, 3, 10, 13, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(run(tmp_path / "net.onnx", x), copy.deepcopy(net).float()(x), atol=TOLERANCE)
    graph = onnx.load(tmp_path / "net.onnx").graph
    assert "Cast" not in {node.op_type for node in graph.node}
    assert {kept.data_type for kept in graph.initializer} <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}


# --- the file

def test_one_file_holds_all(net, saved, tmp_path):
    assert [p.name for p in saved.parent.iterdir()] == ["net.onnx"]
    assert not any(onnx.external_data_helper.uses_external_data(kept) for kept in onnx.load(saved, load_external_data=False).graph.initializer)
    alone = shutil.copy(saved, tmp_path / "elsewhere.onnx")
    x = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(run(alone, x), net(x), atol=TOLERANCE)


def test_metadata(net, saved):
    known = onnxruntime.InferenceSession(saved, providers=["CPUExecutionProvider"]).get_modelmeta().custom_metadata_map
    assert json.loads(known.pop("esrdgan")) == net.config
    assert known == {"scale": "4", "layout": "NCHW", "channels": "RGB", "range": "0..1"}
    assert [(o.domain, o.version) for o in onnx.load(saved).opset_import] == [("", 18)]


def test_nothing_of_our_disk_is_in_the_file(saved):
    data = saved.read_bytes()
    for trace in ("site-packages", str(ROOT), "generator.py", "stack_trace", os.path.expanduser("~") + os.sep):
        assert trace.encode() not in data


def test_one_convolution_for_each(net, saved):
    kinds = [node.op_type for node in onnx.load(saved).graph.node]
    assert kinds.count("Conv") == sum(isinstance(m, torch.nn.Conv2d) for m in net.modules())
    assert set(kinds) == {"Conv", "LeakyRelu", "Concat", "Mul", "Add", "Resize"}


# --- the check

def test_the_difference_is_what_it_says(net, saved):
    other = copy.deepcopy(net)
    other.conv_last.bias[1] += .01
    assert onnx_difference(saved, other) == pytest.approx(.01, abs=1e-5)
    assert onnx_difference(saved.read_bytes(), net) == onnx_difference(str(saved), net) < 1e-5
    other.conv_last.bias[1] += 999.99                            # beyond 1, the largest value is the measure
    assert onnx_difference(saved, other) == pytest.approx(1, abs=.01)


def test_what_cannot_be_compared(net, saved, tmp_path):
    fixed = onnx.load(saved)
    fixed.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 32
    for graph, words in [(fixed.SerializeToString(), "refuses the graph: .*Got: 17 Expected: 32"), (b"no graph", "refuses the graph"),
                         (saved.read_bytes()[:5000], "refuses the graph"), (tmp_path / "none.onnx", "refuses the graph.*none.onnx")]:
        with pytest.raises(ValueError, match=words) as caught:
            onnx_difference(graph, net)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"makes \(1, 3, 68, 92\) of \(1, 3, 17, 23\), and not \(1, 3, 34, 46\)"):
        onnx_difference(saved, generator(scale=2))


def test_a_wrong_export_is_caught_and_leaves_the_folder_alone(tmp_path, monkeypatch):
    "PyTorch's exporter is made to read other weights than the model has."
    real, net, kept = torch.onnx.export, generator(), []

    def dishonest(model, *args, **options):
        other = copy.deepcopy(model)
        other.body[0].rdb2.conv1.weight[0, 0] += .1
        kept[:] = kept or [real(other, *args, **options)]        # the seconds it takes, once
        return kept[0]
    monkeypatch.setattr(torch.onnx, "export", dishonest)
    (tmp_path / "net.onnx").write_bytes(b"old")
    for path in (tmp_path / "net.onnx", tmp_path / "new" / "net.onnx"):
        with pytest.raises(ValueError, match=r"net.onnx: the graph differs from PyTorch by [\de.-]+, more than 2e-05; nothing was written"):
            export_onnx(net, path)
        assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"] and (tmp_path / "net.onnx").read_bytes() == b"old"


def test_not_a_number_is_refused(net, tmp_path, traced):
    broken = copy.deepcopy(net)
    broken.conv_last.bias[0] = torch.nan
    with pytest.raises(ValueError, match="differs from PyTorch by nan.*nothing was written"):
        export_onnx(broken, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


# --- writing

def test_writing(net, saved, tmp_path, traced):
    path = tmp_path / "a" / "b" / "net.onnx"
    for _ in range(2):                                           # a new folder, then an old file
        assert export_onnx(net, str(path)) == onnx_difference(saved, net)
        assert [p.name for p in path.parent.iterdir()] == ["net.onnx"] and path.read_bytes() == saved.read_bytes()
        path.write_bytes(b"old")


@pytest.mark.parametrize("what", ["write", "replace"])
def test_a_full_disk_leaves_the_old_file(net, tmp_path, traced, monkeypatch, what):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"old")

    def fail(*args):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(os, "fsync" if what == "write" else "replace", fail)
    with pytest.raises(OSError, match="No space"):
        export_onnx(net, path)
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"] and path.read_bytes() == b"old"


@pytest.mark.parametrize("name", ["net.pth", "net", "onnx"])
def test_names(net, tmp_path, name):
    with pytest.raises(ValueError, match="choose such a name"):
        export_onnx(net, tmp_path / name)


def test_channels(tmp_path):
    with pytest.raises(ValueError, match="has 1 channels in and 3 out"):
        export_onnx(generator(in_channels=1), tmp_path / "net.onnx")


# --- packages

def test_an_old_pytorch_is_named_with_its_cure(net, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(ValueError, match="PyTorch 2.5.1.* pip install .esrdgan.export"): export_onnx(net, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", PACKAGES)
def test_a_missing_package_is_named_with_its_cure(net, tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError) as caught:
        export_onnx(net, tmp_path / "net.onnx")
    assert str(caught.value) == f'{name} is missing: pip install "esrdgan[export]"'
    assert not list(tmp_path.iterdir())


def test_the_module_itself_needs_none_of_them(monkeypatch):
    for name in PACKAGES:
        monkeypatch.setitem(sys.modules, name, None)
    spec = importlib.util.spec_from_file_location("esrdgan._fresh", export.__file__)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_the_cure_installs_them():
    ini = configparser.ConfigParser(delimiters=["="], interpolation=None)
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    for extra in ("export", "lessons", "test"):
        assert set(PACKAGES) <= set(ini["DEFAULT"][f"{extra}_requirements"].split())
