"Training from the command line: what the commands of lesson 18c add to `run`, through `main`."
import pytest
import torch

from esrdgan.cli import main
from esrdgan.config import recipe_config, write_config
from esrdgan.image import write_image
from esrdgan.logs import read_lines
from esrdgan.weights import load_generator


@pytest.fixture
def cfg(tmp_path):
    "A two-stage training of seconds on two made pictures."
    generator = torch.Generator().manual_seed(1)
    for i in range(2):
        write_image(torch.rand(3, 64, 64, generator=generator), tmp_path / "hr" / f"{i}.png")
    config = recipe_config("tour")
    config.run.name, config.run.out, config.run.device = "small", str(tmp_path / "runs"), "cpu"
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
    assert "pixel" in one_line(capsys)


@pytest.mark.parametrize("words, says", [
    (["train", "--recipe", "tuor"], "did you mean tour"),
    (["train", "--cfg", "absent.ini"], "cannot be read"),
    (["train", "--recipe", "esrgan"], "[data] hr"),
    (["check-config", "absent.ini"], "cannot be read"),
    (["init", "{cfg}"], "there already"),
])
def test_mistakes_are_one_line(words, says, cfg, capsys):
    assert main([w.format(cfg=cfg) for w in words]) == 2
    assert says in one_line(capsys)
