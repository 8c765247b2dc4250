"""Twenty-two faults in `esrdgan use`: three pictures in a folder, and something goes wrong with the middle one.

Whatever it is, the other two are finished and whole, nothing half-written has a result's name, one line says what was wrong, and the same command
goes on afterwards: it makes what is missing and leaves what is there.
"""
import errno
import os
import signal

import pytest
import torch
from PIL import Image

import esrdgan.files
import esrdgan.inference
from esrdgan.cli import main
from esrdgan.generator import RRDBNet
from esrdgan.image import read_image
from esrdgan.weights import save_generator

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_generator(RRDBNet(4, 1, 4), path)
    return str(path)


@pytest.fixture
def folder(tmp_path):
    "a.png, b.png, c.png: 12 x 9 pixels of three colours, so that a hook can tell b by its size or its colour."
    place = tmp_path / "in"
    place.mkdir()
    for name, level in zip("abc", (60, 128, 200)): Image.new("RGB", (12, 9), (level, level, level)).save(place / f"{name}.png")
    return place


def is_b(x): return abs(x.mean().item() - 128 / 255) < .05


def refuse(number):
    def refused(*args, **kw): raise OSError(number, os.strerror(number))
    return refused


# what is done to the file b.png
def cut(b): b.write_bytes(b.read_bytes()[:-30])
def emptied(b): b.write_bytes(b"")
def a_page(b): b.write_text("<!doctype html><html>not found</html>")
def an_ink(b): b.write_bytes(b"8BPS" + b"\0" * 40)
def raw(b): b.write_bytes(b"FUJIFILMCCD-RAW " + b"\0" * 100)
def floats(b): Image.new("F", (12, 9), .5).save(b, "TIFF")


# what is wrong: (how, what is said, and the status where it is not 1: a kind that no program of this sort reads is skipped)
FILES = {"cut short": (cut, "damaged or cut short"), "empty": (emptied, "is empty"), "a web page": (a_page, "is a web page"),
         "a Photoshop file of zeros": (an_ink, "b.png"), "a camera's raw file": (raw, "develop it first", 0), "floating-point numbers": (floats, "floating-point")}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_bad(name, folder, model, tmp_path, capsys):
    spoil, says, *status = FILES[name]
    good = (folder / "b.png").read_bytes()
    spoil(folder / "b.png")
    assert says in goes_wrong(folder, model, tmp_path, capsys, *status)
    (folder / "b.png").write_bytes(good)
    goes_on(folder, model, tmp_path)


def goes_wrong(folder, model, tmp_path, capsys, status=1):
    assert main(["use", str(folder), "--out", str(tmp_path / "out"), "--model", model, "--precision", "fp32"]) == status
    told = capsys.readouterr()
    lines = [line for line in told.err.splitlines() + told.out.splitlines() if "b.png" in line or "b_x4" in line]
    assert len(lines) == 1, told
    whole(tmp_path / "out", "ac")
    return lines[0]


def whole(out, names):
    "Exactly these results, each of them readable, and nothing beside them."
    assert sorted(p.name for p in out.rglob("*") if p.is_file()) == [f"{name}_x4.png" for name in names]
    for name in names: assert read_image(out / f"{name}_x4.png").shape == (3, 36, 48)


def goes_on(folder, model, tmp_path, there="ac"):
    before = {name: (tmp_path / "out" / f"{name}_x4.png").stat().st_mtime_ns for name in there}
    assert main(["use", str(folder), "--out", str(tmp_path / "out"), "--model", model, "--precision", "fp32"]) == 0
    whole(tmp_path / "out", "abc")
    assert before == {name: (tmp_path / "out" / f"{name}_x4.png").stat().st_mtime_ns for name in there}


# what the system does while b is read or written: (where, what, what it is replaced by, what is said)
OPEN, FSYNC, REPLACE, READ, WRITABLE = open, os.fsync, os.replace, esrdgan.inference.read_picture, esrdgan.inference.check_writable


def at_b(usual, fault, which=1):
    "`fault` where the argument number `which` (1: the first) names b, else as usual."
    return lambda *args, **kw: (fault if os.path.basename(str(args[which - 1])).startswith("b") else usual)(*args, **kw)


def second_write(fault, usual):
    "The results are written in order: the second is b's."
    calls = []
    def write(*args, **kw):
        calls.append(1)
        return (fault if len(calls) == 2 else usual)(*args, **kw)
    return write


SYSTEM = {
    "permission to read is denied": (esrdgan.inference, "read_picture", lambda: at_b(READ, refuse(errno.EACCES)), "Permission denied"),
    "the disk has a bad block": (esrdgan.inference, "read_picture", lambda: at_b(READ, refuse(errno.EIO)), "Input/output error"),
    "it vanishes before it is read": (esrdgan.inference, "read_picture", lambda: at_b(READ, refuse(errno.ENOENT)), "No such file"),
    "the network drive is gone": (esrdgan.inference, "read_picture", lambda: at_b(READ, refuse(errno.ESTALE)), "Stale"),
    "the result may not be written": (esrdgan.inference, "check_writable", lambda: at_b(WRITABLE, refuse(errno.EACCES)), "Permission denied"),
    "the folder is read-only": (esrdgan.inference, "check_writable", lambda: at_b(WRITABLE, refuse(errno.EROFS)), "Read-only"),
    "the disk is full when the bytes are forced out": (esrdgan.files.os, "fsync", lambda: second_write(refuse(errno.ENOSPC), FSYNC), "No space left"),
    "the quota is used up": (esrdgan.files.os, "fsync", lambda: second_write(refuse(errno.EDQUOT), FSYNC), "quota"),
    "the result may not get its name": (esrdgan.files.os, "replace", lambda: second_write(refuse(errno.EPERM), REPLACE), "not permitted"),
    "too many files are open": (esrdgan.files.os, "replace", lambda: second_write(refuse(errno.EMFILE), REPLACE), "Too many open files")}


@pytest.mark.parametrize("name", SYSTEM)
def test_the_system_refuses(name, folder, model, tmp_path, capsys, monkeypatch):
    where, what, how, says = SYSTEM[name]
    with monkeypatch.context() as patch:
        patch.setattr(where, what, how())
        assert says in goes_wrong(folder, model, tmp_path, capsys)
    goes_on(folder, model, tmp_path)


# what the network does with b
FORWARD = RRDBNet.trunk


def no_memory(): raise MemoryError()
def a_bug(): raise RuntimeError("expected input to have 4 channels")
def not_a_number(): return torch.full((1, 4, 9, 12), torch.nan)       # features


NETWORK = {"memory runs out": (no_memory, "memory"), "an error of the network": (a_bug, "4 channels"), "NaN, even in fp32": (not_a_number, "even in fp32")}


@pytest.mark.parametrize("name", NETWORK)
def test_the_network_fails(name, folder, model, tmp_path, capsys, monkeypatch):
    fault, says = NETWORK[name]
    with monkeypatch.context() as patch:
        patch.setattr(RRDBNet, "trunk", lambda net, x: fault() if is_b(x) else FORWARD(net, x))
        assert says in goes_wrong(folder, model, tmp_path, capsys)
    goes_on(folder, model, tmp_path)


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM", "SIGKILL"])
def test_it_is_stopped_in_the_middle(how, folder, model, tmp_path):
    "In a process of its own: b is never finished. What was done stays, and no half file has a result's name."
    if not (child := os.fork()):
        def stop(net, x):
            if is_b(x): os.kill(os.getpid(), signal.SIGINT if how == "Ctrl-C" else getattr(signal, how))
            return FORWARD(net, x)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        RRDBNet.trunk = stop
        status = 1
        try: status = main(["use", str(folder), "--out", str(tmp_path / "out"), "--model", model, "--precision", "fp32"])
        finally: os._exit(status)
    _, ended = os.waitpid(child, 0)
    assert (os.waitstatus_to_exitcode(ended) == 130) if how == "Ctrl-C" else os.WIFSIGNALED(ended)
    whole(tmp_path / "out", "a")
    goes_on(folder, model, tmp_path, "a")
