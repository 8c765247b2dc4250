"Training from the command line: what the commands of the room `cli` add to `run`, through `main`."
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from esrdgan.cli import main
from esrdgan.config import read_config, write_config
from esrdgan.generator import RRDBNet
from esrdgan.image import write_image
from esrdgan.logs import read_lines
from esrdgan.recipes import recipe_config
from esrdgan.state import checkpoints
from esrdgan.weights import load_generator, save_generator

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def cfg(tmp_path):
    "A two-stage training of seconds on two made pictures."
    generator = torch.Generator().manual_seed(1)
    for i in range(2):
        write_image(torch.rand(3, 64, 64, generator=generator), tmp_path / "hr" / f"{i}.png")
    config = recipe_config("tour")
    config.run.name, config.run.out, config.run.device = "small", str(tmp_path / "runs"), "cpu"
    config.training.precision = "fp32"
    config.data.hr, config.data.valid, config.data.patch, config.data.batch_size = str(tmp_path / "hr"), "", 32, 2
    config.generator.n_features, config.generator.n_blocks, config.generator.growth = 8, 1, 4
    config.psnr.steps, config.psnr.warmup, config.gan.steps, config.training.save_every = 3, 0, 2, 1
    write_config(config, tmp_path / "small.ini")
    return tmp_path / "small.ini"


def one_line(capsys):
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1, said
    return said[0]


def test_train_then_use(cfg, tmp_path, capsys):
    assert main(["train", "--cfg", str(cfg)]) == 0
    made = capsys.readouterr().out.splitlines()[0]
    assert load_generator(made).scale == 4
    assert [r["step"] for r in read_lines(tmp_path / "runs/small/gan/log.jsonl")] == [1, 2]
    assert main(["use", str(tmp_path / "hr/0.png"), "--model", made, "--out", str(tmp_path / "big")]) == 0
    assert (tmp_path / "big/0_x4.png").exists()


def test_a_run_is_not_overwritten_and_resume_goes_on(cfg, capsys):
    assert main(["train", "--cfg", str(cfg)]) == 0
    capsys.readouterr()
    assert main(["train", "--cfg", str(cfg)]) == 2
    assert "--resume" in one_line(capsys)
    assert main(["train", "--cfg", str(cfg), "--resume"]) == 0


def test_a_run_goes_on_where_its_folder_was_moved(cfg, tmp_path, capsys):
    assert main(["train", "--cfg", str(cfg)]) == 0
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "runs/small").rename(tmp_path / "elsewhere/renamed")
    config = read_config(moved / "config.ini")
    config.gan.steps = 3
    write_config(config, moved / "config.ini")
    assert main(["train", "--cfg", str(moved / "config.ini")]) == 2 and f"{moved} holds a run already" in capsys.readouterr().err
    assert main(["train", "--cfg", str(moved / "config.ini"), "--resume"]) == 0
    assert [r["step"] for r in read_lines(moved / "gan/log.jsonl")] == [1, 2, 3] and not list((tmp_path / "runs").iterdir())
    assert main(["train", "--cfg", str(moved / "config.ini"), "--name", "other"]) == 0      # as a pattern for another run
    assert (tmp_path / "runs/other/gan/best.pt").exists() or checkpoints(tmp_path / "runs/other/gan")


def test_paths_may_begin_at_home_and_hold_variables(cfg, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path)); monkeypatch.setenv("USERPROFILE", str(tmp_path)); monkeypatch.setenv("PICTURES", "hr")
    text = cfg.read_text().replace(f"hr = {tmp_path}/hr", "hr = ~/$PICTURES").replace(f"out = {tmp_path}/runs", "out = ~/${PICTURES}_runs")
    cfg.write_text(text)
    assert main(["train", "--cfg", str(cfg)]) == 0
    assert checkpoints(tmp_path / "hr_runs/small/gan")


def test_sigterm_saves_and_returns_143(cfg, tmp_path, monkeypatch, capsys):
    import esrdgan.run as room
    write = room.RunLogger.write

    def pressed(self, log, pictures={}):
        if log.step == 2: signal.raise_signal(signal.SIGTERM)
        write(self, log, pictures)
    monkeypatch.setattr(room.RunLogger, "write", pressed)
    assert main(["train", "--cfg", str(cfg)]) == 143
    assert capsys.readouterr().err.splitlines()[-1].startswith("stopped after step 2 of psnr; continue with: esrdgan train --cfg")


def test_a_lack_of_memory_is_one_line_in_any_command_and_a_bug_is_not(monkeypatch, capsys):
    import esrdgan.recipes as room
    for error, status in (RuntimeError("CUDA out of memory. Tried"), 2), (MemoryError(), 2), (RuntimeError("a bug"), None):
        def fail(name): raise error
        monkeypatch.setattr(room, "recipe_config", fail)
        if status: assert main(["train"]) == status and "out of memory" in one_line(capsys)
        else:
            with pytest.raises(RuntimeError): main(["train"])


def test_check_makes_a_step_and_keeps_nothing(cfg, tmp_path, capsys):
    assert main(["train", "--cfg", str(cfg), "--check"]) == 0
    assert "psnr: " in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_check_names_every_bad_picture(cfg, tmp_path, capsys):
    for name in ("broken.png", "worse.png"):
        (tmp_path / "hr" / name).write_bytes(b"no picture")
    assert main(["train", "--cfg", str(cfg), "--check"]) == 1
    said = capsys.readouterr().out
    assert "broken.png" in said and "worse.png" in said


def test_ctrl_c_tells_how_to_go_on(cfg, tmp_path, monkeypatch, capsys):
    import esrdgan.run as room
    steps = room.train

    def interrupted(*args):
        import signal
        for log in steps(*args):
            if log.step == 2:
                signal.raise_signal(signal.SIGINT)
            yield log
    monkeypatch.setattr(room, "train", interrupted)
    assert main(["train", "--cfg", str(cfg)]) == 130
    assert "--resume" in capsys.readouterr().err
    monkeypatch.setattr(room, "train", steps)
    assert main(["train", "--cfg", str(tmp_path / "runs/small/config.ini"), "--resume"]) == 0
    assert [r["step"] for r in read_lines(tmp_path / "runs/small/psnr/log.jsonl")] == [1, 2, 3]


def test_a_loss_that_is_not_finite_is_one_line(cfg, monkeypatch, capsys):
    import esrdgan.build as room
    monkeypatch.setattr(room, "l1", lambda sr, hr: (sr - hr).mean() * float("nan"))
    assert main(["train", "--cfg", str(cfg)]) == 2
    assert "pixel" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("words, says", [
    (["train", "--recipe", "tuor"], "did you mean tour"),
    (["train", "--cfg", "absent.ini"], "cannot be read"),
    (["train", "--cfg", "{cfg}", "--recipe", "nonsense"], "give one of them"),
    (["train", "--cfg", "{cfg}", "--name", "a/b"], "give a name that a folder can have"),
    (["train", "--recipe", "esrgan"], "[data] hr"),
    (["check-config", "absent.ini"], "cannot be read"),
    (["init", "{cfg}"], "there already"),
])
def test_mistakes_are_one_line(words, says, cfg, capsys):
    assert main([w.format(cfg=cfg) for w in words]) == 2
    assert says in one_line(capsys)


def torchrun(*words, interrupt=None):
    "`esrdgan` in two processes: exit status, stdout, stderr. `interrupt`: a function that waits until it is time for Ctrl-C."
    env = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | dict(PYTHONPATH=str(ROOT))
    if sys.platform == "linux": env["GLOO_SOCKET_IFNAME"] = "lo"
    process = subprocess.Popen([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "esrdgan", *map(str, words)],
                               env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if interrupt:
        interrupt()
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=180)
    return process.returncode, out, err


def test_two_processes_train_as_one_and_one_goes_on_where_two_stopped(cfg, tmp_path, capsys):
    status, out, err = torchrun("train", "--cfg", cfg, "--name", "two")
    assert status == 0, err[-3000:]
    assert out.count("use it:") == 1
    assert main(["train", "--cfg", str(cfg), "--name", "one"]) == 0
    for stage in ("psnr", "gan"):
        one, two = (read_lines(tmp_path / "runs" / name / stage / "log.jsonl") for name in ("one", "two"))
        assert [r["step"] for r in one] == [r["step"] for r in two]
        if stage == "psnr":       # later steps drift: Adam makes whole steps of gradients that are rounding (the room `distributed`)
            assert one[0].keys() == two[0].keys() and all(abs(v - two[0][k]) < 1e-5 for k, v in one[0].items())
    config = read_config(tmp_path / "runs/two/config.ini")
    config.gan.steps = 3
    write_config(config, tmp_path / "more.ini")
    assert main(["train", "--cfg", str(tmp_path / "more.ini"), "--resume"]) == 0
    assert [r["step"] for r in read_lines(tmp_path / "runs/two/gan/log.jsonl")] == [1, 2, 3]


def test_ctrl_c_stops_two_processes_after_the_same_step(cfg, tmp_path):
    config, log = read_config(cfg), tmp_path / "runs/small/psnr/log.jsonl"
    config.psnr.steps = 100_000
    write_config(config, tmp_path / "long.ini")

    def five_steps():
        for _ in range(600):
            if log.exists() and len(read_lines(log)) > 5: return
            time.sleep(.1)

    status, out, err = torchrun("train", "--cfg", tmp_path / "long.ini", interrupt=five_steps)
    rows = read_lines(log)
    assert status != 0 and err.count("continue with: esrdgan train") == 2 and len({line for line in err.splitlines() if "continue with" in line}) == 1, err[-3000:]
    assert int(checkpoints(tmp_path / "runs/small/psnr")[0].stem.split("_")[1]) == rows[-1]["step"] >= 6


def test_two_processes_share_a_folder(cfg, tmp_path):
    model = save_generator(RRDBNet(n_features=4, n_blocks=1, growth=2), tmp_path / "tiny.safetensors")
    for i in range(5): write_image(torch.rand(3, 20, 20), tmp_path / "in" / f"{i}.png")
    words = "use", tmp_path / "in", "--model", model, "--out", tmp_path / "out", "--device", "cpu"
    status, out, err = torchrun(*words)
    assert status == 0, err[-3000:]
    assert out == f"{tmp_path / 'out'}: 5 written\n" and len(list((tmp_path / "out").iterdir())) == 5
    (tmp_path / "in" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    status, out, err = torchrun(*words)
    assert status != 0 and out == f"{tmp_path / 'out'}: 5 there already (--overwrite does them again), 1 failed\n"
    assert sum("broken.png" in line for line in err.splitlines()) == 1
