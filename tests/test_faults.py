"""What can go wrong while a training runs. After each fault: what was finished is whole, nothing half-written looks whole, and the same command goes on to the same end."""
import errno
import io
import os
import shutil
import signal
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import esrdgan.data
import esrdgan.logs
import esrdgan.run as room
import esrdgan.state
from esrdgan.config import Config, check_config
from esrdgan.generator import RRDBNet
from esrdgan.image import PictureError, write_image
from esrdgan.logs import read_lines
from esrdgan.run import RunLogger, Stopped, run
from esrdgan.state import TrainingError, checkpoints

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.skipif(not hasattr(os, "fork"), reason="the kills fork")]
LAST = 4        # steps; every second one is measured, every one saved


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    home = tmp_path_factory.mktemp("faults")
    for i in range(2): write_image(torch.rand(3, 40, 40, generator=torch.Generator().manual_seed(i)), home / "hr" / f"{i}.png")
    made = Config()
    made.run.device, made.data.hr, made.data.hold_out = "cpu", str(home / "hr"), 1
    made.data.patch, made.data.batch_size, made.data.workers = 32, 2, 0
    made.generator.n_features, made.generator.n_blocks, made.generator.growth = 4, 1, 2
    made.training.precision, made.training.validate_every, made.training.save_every = "fp32", 2, 1
    made.psnr.steps, made.gan.steps = LAST, 0
    return check_config(made)


@pytest.fixture(autouse=True)
def small(tmp_path_factory, monkeypatch):
    "TensorBoard waits for the next second at each start; one row below brings it back."
    monkeypatch.setenv("ESRDGAN_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    def absent(*args): raise ImportError("TensorBoard is left out")
    monkeypatch.setattr(room, "TensorBoardLog", absent)


pytestmark.append(pytest.mark.filterwarnings("ignore:TensorBoard is left out"))


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory, one_thread):
    "The run nobody disturbs."
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESRDGAN_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        run(config, folder)
    return folder


@pytest.fixture(scope="module")
def half(config, whole, tmp_path_factory):
    "Stopped after step 3."
    folder = tmp_path_factory.mktemp("half") / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setenv("ESRDGAN_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.setattr(RunLogger, "write", at_step(3, lambda: signal.raise_signal(signal.SIGINT)))
        run(config, folder)
    return folder


def content(folder):
    "All numbers of a stage: its log, its newest checkpoint, its best."
    def flat(x):
        if isinstance(x, torch.Tensor): return [x.tolist()]
        return [y for k in (sorted(x, key=str) if isinstance(x, dict) else range(len(x))) for y in flat(x[k])] if isinstance(x, (dict, list, tuple)) else [x]
    files = checkpoints(folder / "psnr")[0], folder / "psnr/best.pt"
    return [read_lines(folder / "psnr/log.jsonl"), *(p.name for p in files), *(flat(torch.load(p, weights_only=True)) for p in files)]


def at_step(step, act):
    "`RunLogger.write` that does something else besides."
    write = RunLogger.write
    def writes(self, log, pictures={}):
        if log.step == step: act()
        write(self, log, pictures)
    return writes


def nothing_half(folder):
    "Each file that looks like a checkpoint is one, and the log knows every step that one holds."
    steps = []
    for path in [*checkpoints(folder / "psnr"), *(folder / "psnr").glob("best.pt")]: steps.append(torch.load(path, weights_only=True)["step"])
    known = [row["step"] for row in read_lines(folder / "psnr/log.jsonl")] if (folder / "psnr/log.jsonl").exists() else []
    assert known[:max(steps, default=0)] == list(range(1, max(steps, default=0) + 1))
    return max((int(p.stem[5:]) for p in checkpoints(folder / "psnr")), default=0)


def full(*args, **kw): raise OSError(errno.ENOSPC, "No space left on device")
def no_memory(*args, **kw): raise MemoryError
def die(*args, **kw): os.kill(os.getpid(), signal.SIGKILL)


def on_call(number, act, then):
    "A function that does `act` at its call of this number (counted from 1), else what `then` does."
    calls = []
    def called(*args, **kw):
        calls.append(1)
        return (act if len(calls) == number else then)(*args, **kw)
    return called


def half_file(act):
    "`torch.save` that gets as far as the middle."
    def saves(content, file):
        file.write(b"PK half a checkpoint")
        file.flush()
        act()
    return saves


def torch_says(*args): raise RuntimeError("[enforce fail at inline_container.cc:659] . unexpected pos 64 vs 0\nmore")


def half_line(act):
    def writes(self, log):
        self.file.write('{"step": 3, "pix')
        self.file.flush()
        act()
    whole = esrdgan.logs.JsonLines.write
    return lambda self, log: (writes if log.step == 3 else whole)(self, log)


def text_to(name, act):
    "`Path.write_text` that fails for files whose name begins so."
    write = Path.write_text
    return lambda self, *args, **kw: (act if self.name.startswith(name) else write)(self, *args, **kw)


class Board:
    "Where TensorBoard's own writer meets a full disk."
    def __init__(self, *args): pass
    def write(self, log): log.step == 3 and full()
    def pictures(self, step, found): pass
    def close(self): pass


# What fails while a run goes on: (what is replaced, by what), what the error says ("": the process is killed), the least step that is safe
def no_picture(*_):
    raise PictureError("1/step_00000002.png cannot be written: No space left on device")


def of_a_checkpoint(flush):
    "Pictures are flushed, too: count the checkpoints alone."
    return lambda file: (flush if sys._getframe(1).f_globals["__name__"] == "esrdgan.state" else FSYNC)(file)


SAVE, REPLACE, FSYNC, FORWARD = torch.save, os.replace, os.fsync, RRDBNet.trunk
BREAKS = {
    "the disk is full in the middle of a checkpoint": ((torch, "save", lambda: on_call(4, half_file(torch_says), SAVE)), "cannot be written .*MB are free", 2),
    "the disk is full when a checkpoint is flushed": ((os, "fsync", lambda: of_a_checkpoint(on_call(4, full, FSYNC))), "cannot be written .*No space left", 2),
    "a checkpoint may not get its name": ((esrdgan.state.os, "replace", lambda: on_call(4, full, REPLACE)), "No space left", 1),
    "the disk is full in the middle of best.pt": ((torch, "save", lambda: on_call(2, half_file(full), SAVE)), "best.pt: cannot be written", 1),
    "the disk is full in the middle of a line": ((esrdgan.logs.JsonLines, "write", lambda: half_line(full)), "No space left", 2),
    "the disk is full at a picture": ((room, "write_image", lambda: no_picture), "after step 2 of psnr: .*No space left", 1),
    "the disk is full at TensorBoard's file": ((room, "TensorBoardLog", lambda: Board), "No space left", 2),
    "the disk is full at config.ini": ((Path, "write_text", lambda: text_to("config.ini", full)), "No space left", 0),
    "the disk is full at the owner's note": ((Path, "write_text", lambda: text_to(".owner", full)), "No space left", 0),
    "memory runs out": ((RRDBNet, "trunk", lambda: on_call(4, no_memory, FORWARD)), "step 3 of psnr: out of memory", 2),
    "a picture cannot be read any more": ((esrdgan.data, "sample", lambda: on_call(5, full, esrdgan.data.sample)), "the next pictures cannot be had .*all is saved", 2),
    "killed in the middle of a checkpoint": ((torch, "save", lambda: on_call(4, half_file(die), SAVE)), "", 2),
    "killed between best.pt and the step's file": ((torch, "save", lambda: on_call(3, die, SAVE)), "", 1),
    "killed before a file gets its name": ((esrdgan.state.os, "replace", lambda: on_call(4, die, REPLACE)), "", 1),
    "killed in the middle of a line": ((esrdgan.logs.JsonLines, "write", lambda: half_line(die)), "", 2),
    "killed between the line and the checkpoint": ((room, "save_checkpoint", lambda: on_call(3, die, room.save_checkpoint)), "", 2),
    "killed in a validation": ((room, "_score", lambda: on_call(2, die, room._score)), "", 1),
    "killed while config.ini is written": ((Path, "write_text", lambda: text_to("config.ini", die)), "", 0),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_run_that_broke_goes_on_to_the_same_end(name, config, whole, tmp_path, monkeypatch):
    (where, what, how), says, safe = BREAKS[name]
    mine = tmp_path / "run"
    with monkeypatch.context() as patch:
        if says:
            patch.setattr(where, what, how())
            with pytest.raises((TrainingError, OSError, MemoryError), match=says) as info: run(config, mine)
            assert "\n" not in str(info.value) and not list(tmp_path.rglob("*.part"))
        elif pid := os.fork():
            assert os.WIFSIGNALED(os.waitpid(pid, 0)[1]), "it was to be killed"
        else:
            try:
                setattr(where, what, how())
                run(config, mine)
            finally: os._exit(1)
    assert nothing_half(mine) >= safe
    run(config, mine, resume=True)
    assert content(mine) == content(whole) and not list(tmp_path.rglob("*.part"))


def newest(folder): return checkpoints(folder / "psnr")[0]
def spoil(path, how): path.write_bytes(how(path.read_bytes()))
def flipped(b):
    "One bit of the largest tensor changes; most other bytes of so small a file are padding."
    with zipfile.ZipFile(io.BytesIO(b)) as archive: at = b.index(archive.read(max(archive.infolist(), key=lambda i: i.file_size))) + 9
    return b[:at] + bytes([b[at] ^ 4]) + b[at + 1:]
def cut(b): return b[:-100]
def unreadable(path): path.rename(path.with_name("aside")); path.mkdir()
def readable(path): path.rmdir(); path.with_name("aside").rename(path)


# What is found broken at the next start: how it broke, what the error says ("": the run goes on), how it is mended
FOUND = {
    "the newest checkpoint is cut short": (lambda f: spoil(newest(f), cut), "", None),
    "a bit of the newest checkpoint has changed": (lambda f: spoil(newest(f), flipped), "", None),
    "the newest checkpoint is empty": (lambda f: spoil(newest(f), lambda b: b""), "", None),
    "the newest checkpoint cannot be read": (lambda f: unreadable(newest(f)), "step_00000003.pt: cannot be read", lambda f: readable(newest(f))),
    "all checkpoints are damaged": (lambda f: [p.rename(f"{p}.aside") and p.write_bytes(b"PK") for p in checkpoints(f / "psnr")], "step_00000003.pt: not a whole",
                                     lambda f: [p.rename(p.with_suffix("")) for p in f.rglob("*.aside")]),
    "the log is torn": (lambda f: spoil(f / "psnr/log.jsonl", lambda b: b + b'{"step": 4, "pi'), "", None),
    "the log holds something else": (lambda f: spoil(f / "psnr/log.jsonl", lambda b: b"?" + b), "line 1 is not JSON", lambda f: spoil(f / "psnr/log.jsonl", lambda b: b[1:])),
    "a dead owner's files are there": (lambda f: (f / ".owner").write_text("process 1 on a host"), "", None),
    "parts of files are there": (lambda f: (f / "psnr/step_00000009.pt.part").write_bytes(b"PK"), "", None),
    "the note of a number that was not finite is garbled": (lambda f: (f / "psnr/blown_up.json").write_text("{"), "", None),
    "config.ini is gone": (lambda f: (f / "config.ini").unlink(), "", None),
}


@pytest.mark.parametrize("name", FOUND)
def test_a_run_that_is_found_broken_goes_on_or_says_why_not(name, config, whole, half, tmp_path):
    breaks, says, mend = FOUND[name]
    mine = shutil.copytree(half, tmp_path / "run")
    breaks(mine)
    if says:
        before = {p: p.read_bytes() for p in mine.rglob("*") if p.is_file()}
        with pytest.raises((TrainingError, ValueError), match=says) as info: run(config, mine, resume=True)
        assert "\n" not in str(info.value) and before == {p: p.read_bytes() for p in mine.rglob("*") if p.is_file()}, "a refusal changes nothing"
        mend(mine)
    run(config, mine, resume=True)
    assert content(mine) == content(whole) and not list(tmp_path.rglob("*.part"))
    assert len([*mine.rglob("*.damaged")]) == ("newest" in name and not says) and (mine / "config.ini").exists()


def test_a_data_folder_that_is_away_stops_the_run_and_costs_nothing(config, whole, half, tmp_path):
    mine, hr = shutil.copytree(half, tmp_path / "run"), Path(config.data.hr)
    before = {p: p.read_bytes() for p in mine.rglob("*") if p.is_file()}
    hr.rename(hr.with_name("away"))
    try:
        with pytest.raises(ValueError, match="hr"): run(config, mine, resume=True)
        assert before == {p: p.read_bytes() for p in mine.rglob("*") if p.is_file()}
    finally: hr.with_name("away").rename(hr)
    run(config, mine, resume=True)
    assert content(mine) == content(whole)
