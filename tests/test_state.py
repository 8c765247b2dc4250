"""What a training carries, and its file: whole or not at all, whatever kills the process; other tools can open it."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from esrdgan.discriminator import VGGDiscriminator
from esrdgan.generator import RRDBNet
from esrdgan.logs import JsonLines, read_lines
from esrdgan.state import State, TrainingError, checkpoints, save_checkpoint, load, resume, save
from esrdgan.train import Settings, train
from esrdgan.weights import load_generator

HERE = Path(__file__).parent


pytestmark = pytest.mark.usefixtures("one_thread")


def new_state(seed=0, n_features=8, growth=4, gan=False, **kw):
    torch.manual_seed(seed)
    return State(RRDBNet(n_features, 1, growth), VGGDiscriminator(4, 32, n_head=8) if gan else None, **kw)


def random_batches(start=0, n=10**9):
    for i in range(start, n):
        draw = torch.Generator().manual_seed(i)
        yield torch.rand(2, 3, 8, 8, generator=draw), torch.rand(2, 3, 32, 32, generator=draw)


def advance(state, steps):
    return list(train(state, random_batches(state.step), Settings(steps=state.step + steps, adversarial_weight=.01 * (state.discriminator is not None))))


def fingerprint(state):
    "Every number of a state, as one list of tensors."
    parts = [state.ema, state.generator, state.opt_g] + ([state.discriminator, state.opt_d] if state.discriminator else [])
    found = [torch.tensor([state.step, state.seed])]

    def walk(x):
        if isinstance(x, torch.Tensor): found.append(x.detach().clone())
        elif isinstance(x, dict): [walk(v) for _, v in sorted(x.items(), key=lambda kv: str(kv[0]))]
        elif isinstance(x, (list, tuple)): [walk(v) for v in x]
        elif isinstance(x, (int, float)): found.append(torch.tensor(float(x), dtype=torch.float64))
    for p in parts: walk(p.state_dict())
    return found


def same(a, b): return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b))


def test_a_saved_state_comes_back_whole(tmp_path):
    one = new_state(gan=True, seed=3, config={"name": "a", "sizes": [1, 2]})
    advance(one, 3)
    save(one, tmp_path / "deep" / "x.pt")
    two = new_state(gan=True, seed=4)
    assert not same(fingerprint(one), fingerprint(two))
    load(two, tmp_path / "deep" / "x.pt")
    assert same(fingerprint(one), fingerprint(two)) and two.config == one.config
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["x.pt"]


def test_a_checkpoint_is_a_file_of_weights(tmp_path):
    state = new_state(growth=32)
    advance(state, 2)
    with torch.no_grad(): state.ema.conv_last.bias += 1                        # so that EMA and network differ
    save(state, tmp_path / "x.pt")
    x = torch.rand(1, 3, 12, 12)
    with torch.no_grad(): wanted = state.ema(x)
    assert torch.allclose(load_generator(tmp_path / "x.pt")(x), wanted, atol=1e-6)
    spandrel = pytest.importorskip("spandrel")
    model = spandrel.ModelLoader().load_from_file(tmp_path / "x.pt")
    with torch.no_grad(): theirs = model.model(x)
    assert model.scale == 4 and torch.allclose(theirs, wanted, atol=1e-5)


def test_the_gan_stage_starts_from_a_psnr_checkpoint(tmp_path):
    first = new_state()
    advance(first, 2)
    save(first, tmp_path / "best.pt")
    second = State(load_generator(tmp_path / "best.pt"), VGGDiscriminator(4, 32, n_head=8))
    assert second.step == 0
    logs = list(train(second, random_batches(), Settings(steps=2, adversarial_weight=.01)))
    assert set(logs[-1].losses) == {"pixel", "adversarial_d", "adversarial_g"}


def flipped(content): return content[:len(content) // 2] + bytes([content[len(content) // 2] ^ 1]) + content[len(content) // 2 + 1:]


@pytest.mark.parametrize("spoil, says", [
    (lambda p: p.write_bytes(p.read_bytes()[:-300]), "not a whole checkpoint"),
    (lambda p: p.write_bytes(p.read_bytes()[:100]), "not a whole checkpoint"),
    (lambda p: p.write_bytes(b""), "not a whole checkpoint"),
    (lambda p: p.write_bytes(b"hello"), "not a whole checkpoint"),
    (lambda p: p.write_bytes(flipped(p.read_bytes())), "not a whole checkpoint"),
    (lambda p: p.unlink(), "cannot be read .No such file"),
    (lambda p: (p.unlink(), p.mkdir()), "cannot be read"),
    (lambda p: torch.save([1], p), "not a checkpoint of this training"),
    (lambda p: save(new_state(), p), "discriminator"),
    (lambda p: save(new_state(gan=True, n_features=6), p), "built with"),
    (lambda p: save(State(RRDBNet(8, 1, 4), VGGDiscriminator(6, 32, n_head=8)), p), "its discriminator does not fit"),
    (lambda p: torch.save(torch.load(p, weights_only=True) | {"opt_d": {"state": {}, "param_groups": []}}, p), "its opt_d does not fit"),
    (lambda p: torch.save(torch.load(p, weights_only=True) | {"opt_g": 3}, p), "its opt_g does not fit"),
    (lambda p: torch.save({k: v for k, v in torch.load(p, weights_only=True).items() if k != "opt_g"}, p), "opt_g missing"),
])
def test_a_failing_load_changes_nothing(tmp_path, spoil, says):
    other = new_state(seed=1, gan=True)
    advance(other, 1)
    path = tmp_path / "x.pt"
    save(other, path)
    spoil(path)
    state = new_state(gan=True, config={"mine": 1})
    advance(state, 2)
    before = fingerprint(state)
    with pytest.raises(TrainingError, match=says) as info: load(state, path)
    assert "\n" not in str(info.value) and str(path) in str(info.value)
    assert same(before, fingerprint(state)) and state.config == {"mine": 1}
    advance(state, 1)


def test_a_psnr_state_refuses_a_gan_checkpoint(tmp_path):
    save(new_state(gan=True), tmp_path / "x.pt")
    with pytest.raises(TrainingError, match="too much"): load(new_state(), tmp_path / "x.pt")     # it would forget D


def test_a_failing_save_leaves_the_old_file(tmp_path, monkeypatch):
    state = new_state()
    save(state, tmp_path / "x.pt")
    old = (tmp_path / "x.pt").read_bytes()

    for error in OSError("no space left"), RuntimeError("file write failed\nmore"):      # the second is what torch makes of the first
        def full(*args): args[1].write(b"half"); raise error
        monkeypatch.setattr(torch, "save", full)
        with pytest.raises(TrainingError, match="x.pt: cannot be written .(no space left|file write failed); .* MB are free there"): save(state, tmp_path / "x.pt")
        assert (tmp_path / "x.pt").read_bytes() == old and len(list(tmp_path.iterdir())) == 1


def test_other_precisions_and_a_config_that_cannot_be_stored_are_refused():
    with pytest.raises(ValueError, match="float32, bfloat16 or float16"): new_state(precision=torch.float64)
    with pytest.raises(TypeError, match="Path"): new_state(config={"folder": Path("x")})


def names(folder): return sorted(p.name for p in folder.iterdir())


def test_pruning(tmp_path):
    state = new_state()
    for _ in range(5):
        advance(state, 1)
        save_checkpoint(state, tmp_path, best=state.step == 2, last=3)
    assert names(tmp_path) == ["best.pt"] + [f"step_{n:08d}.pt" for n in (3, 4, 5)]
    load(state, tmp_path / "best.pt")
    assert state.step == 2
    (tmp_path / "step_00000009.pt.part").write_bytes(b"left by a kill")
    advance(state, 2)
    save_checkpoint(state, tmp_path, last=3)                                # went back to 2: step 5 belongs to a line that was left
    assert names(tmp_path) == ["best.pt", "step_00000003.pt", "step_00000004.pt"]
    save_checkpoint(state, tmp_path, last=1)
    assert names(tmp_path) == ["best.pt", "step_00000004.pt"]


def test_resume_takes_the_newest_that_is_whole(tmp_path):
    assert resume(new_state(), tmp_path) is None and resume(new_state(), tmp_path / "not there") is None
    state = new_state()
    for _ in range(3):
        advance(state, 1)
        save_checkpoint(state, tmp_path, last=3)
    a, b, c = checkpoints(tmp_path)
    a.write_bytes(a.read_bytes()[:-1000])
    state, told = new_state(1), []
    assert resume(state, tmp_path, told.append) == b and state.step == 2
    assert len(told) == 1 and told[0].startswith(f"{a}: not a whole") and told[0].endswith("kept as step_00000003.pt.damaged")
    advance(state, 2)
    save_checkpoint(state, tmp_path, last=1)                                # the broken file never costs a whole one its place
    assert names(tmp_path) == ["step_00000003.pt.damaged", "step_00000004.pt"]
    checkpoints(tmp_path)[0].write_bytes(b"")
    before = fingerprint(state)
    with pytest.raises(TrainingError, match="step_00000004"): resume(state, tmp_path)
    assert same(before, fingerprint(state)) and "step_00000004.pt" in names(tmp_path)


@pytest.mark.parametrize("trouble, says", [
    (lambda p: (p.unlink(), p.mkdir()), "cannot be read"),                   # as a failing disk or missing rights: the file may be well
    (lambda p: save(new_state(n_features=6), p), "built with"),
])
def test_resume_passes_over_nothing_that_may_be_good(tmp_path, trouble, says):
    state = new_state()
    for _ in range(2):
        advance(state, 1)
        save_checkpoint(state, tmp_path)
    trouble(checkpoints(tmp_path)[0])
    state = new_state(1)
    with pytest.raises(TrainingError, match=f"step_00000002.pt: .*{says}"): resume(state, tmp_path)
    assert state.step == 0 and names(tmp_path) == ["step_00000001.pt", "step_00000002.pt"]


def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(tmp_path):
    (tmp_path / "run").write_bytes(b"")
    with pytest.raises(OSError): checkpoints(tmp_path / "run")


# A process that saves every step is killed at any moment. The server below imports torch once and forks its workers.

def worker(folder):
    state = new_state(n_features=32, growth=16)                  # 1 MB: writing takes about as long as a step
    resume(state, folder)
    log = JsonLines(folder / "log.jsonl", state.step)
    for told in train(state, random_batches(state.step), Settings(steps=10**6)):
        log.write(told)                                          # the log first: a checkpoint without its line would be a hole
        save_checkpoint(state, folder)


def server(folder, kills):
    import random
    draw, reached, parts = random.Random(0), 0, 0
    torch.set_num_threads(1)
    for _ in range(kills):
        pid = os.fork()
        if pid == 0:
            try: worker(folder)
            finally: os._exit(1)
        seen, limit = checkpoints(folder)[:1], time.time() + 30
        while checkpoints(folder)[:1] == seen and time.time() < limit: time.sleep(.002)
        time.sleep(draw.uniform(0, .08))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status), "the worker ended by itself"
        parts += any(folder.glob("*.part"))
        state = new_state(1, n_features=32, growth=16)
        for path in checkpoints(folder): load(state, path)       # not only the newest: none is ever half written
        path = resume(state, folder)
        assert path == checkpoints(folder)[0] and state.step > reached, (path, state.step, reached)
        reached = state.step
        rows = [r["step"] for r in read_lines(folder / "log.jsonl")]
        assert rows[:reached] == list(range(1, reached + 1)), (reached, rows)
    print(json.dumps(dict(reached=reached, parts=parts, files=len(list(folder.iterdir())))))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks its workers, so that 50 kills take seconds")
def test_no_kill_leaves_a_folder_that_cannot_be_resumed(tmp_path):
    call = f"import test_state; from pathlib import Path; test_state.server(Path({str(tmp_path)!r}), 50)"
    done = subprocess.run([sys.executable, "-c", call], cwd=HERE, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert told["reached"] >= 50 and told["files"] <= 4, told


def test_a_kill_while_the_best_is_kept_leaves_a_step_to_be_made_again(tmp_path, monkeypatch):
    "Were the step's own file first, the log would hold a best figure that `best.pt` never got."
    import esrdgan.state as room
    whole, calls = room.save, []

    def killed(state, path):
        calls.append(path.name)
        if len(calls) == 2: raise SystemExit
        whole(state, path)

    monkeypatch.setattr(room, "save", killed)
    state = new_state()
    with pytest.raises(SystemExit): room.save_checkpoint(state, tmp_path, best=True)
    assert calls[0] == "best.pt" and (tmp_path / "best.pt").exists() and not room.checkpoints(tmp_path)
