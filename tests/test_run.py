"""A whole run, small: two stages on made-up pictures, stopped, killed, continued, measured, and compared bit for bit."""
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from esrdgan.build import RunPictures, build
from esrdgan.config import Config, ConfigError, check_config, read_config, write_config
from esrdgan.data import DataError
from esrdgan.degrade import PRESETS
from esrdgan.evaluate import Validator
from esrdgan.features import edge_vgg16_small
from esrdgan.image import write_image
from esrdgan.logs import read_lines
from esrdgan.losses import perceptual
from esrdgan.run import RunLogger, Stopped, check, claim, defer_interrupt, result, run
from esrdgan.state import TrainingError, checkpoints
from esrdgan.train import DistContext
from esrdgan.weights import load_generator, save_generator


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    draw = torch.Generator().manual_seed(0)
    for i in range(3):
        smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 6, 7, generator=draw), size=(48, 56), mode="bicubic")[0].clamp(0, 1)
        write_image(smooth, folder / f"p{i}.png")
    return folder


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ESRDGAN_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def tiny(pictures):
    config = Config()
    g, d, t, data = config.generator, config.discriminator, config.training, config.data
    config.run.name, config.run.device = "tiny", "cpu"
    data.hr = data.valid = str(pictures)
    data.patch, data.batch_size, data.workers = 32, 2, 0
    g.n_features, g.n_blocks, g.growth, d.n_features, d.n_head = 4, 1, 2, 2, 4
    config.features.network, config.features.layers = "edge_vgg16_small", {2: 1.}
    t.precision, t.validate_every, t.save_every = "fp32", 3, 2
    config.psnr.steps = config.gan.steps = 4
    tricks = config.tricks
    tricks.ema, tricks.label_noise, tricks.instance_noise, tricks.lr_noise, tricks.flip, tricks.smooth_real, tricks.clip = .5, .05, .1, .01, .1, .1, 5.
    config.gan.schedule, config.gan.warmup, config.psnr.schedule, config.psnr.milestones = "cosine", 2, "multistep", (2,)
    return check_config(config)


def same(a, b):
    a, b = (torch.load(x, weights_only=True) for x in (a, b))
    flat = lambda x: [y for v in (x.values() if isinstance(x, dict) else x) for y in flat(v)] if isinstance(x, (dict, list, tuple)) else [x]
    pairs = list(zip(flat(a), flat(b)))
    assert a.keys() == b.keys() and len(flat(a)) == len(flat(b)) > 100
    return all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in pairs)


@pytest.fixture(scope="module")
def whole(pictures, tmp_path_factory, one_thread):
    "The run nobody disturbs."
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESRDGAN_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        return run(tiny(pictures), folder), folder


def interrupt_at(monkeypatch, step, stage="psnr"):
    "Press Ctrl-C while this step is being written down."
    write = RunLogger.write

    def pressed(self, log, pictures={}):
        if log.step == step and self.folder.name == stage:
            signal.raise_signal(signal.SIGINT)
        write(self, log, pictures)
    monkeypatch.setattr(RunLogger, "write", pressed)


def test_two_stages_leave_logs_pictures_and_checkpoints(whole, pictures):
    path, folder = whole
    assert path == folder / "gan" / "best.pt" and read_config(folder / "config.ini") == tiny(pictures)
    for stage in ("psnr", "gan"):
        rows = read_lines(folder / stage / "log.jsonl")
        assert [r["step"] for r in rows] == [1, 2, 3, 4]
        assert [r["step"] for r in rows if "psnr_y_crop4" in r] == [r["step"] for r in rows if "lpips" in r] == [3, 4]
        assert [p.name for p in checkpoints(folder / stage)] == ["step_00000004.pt", "step_00000003.pt"] or len(checkpoints(folder / stage)) == 2
        assert sorted(p.name for p in (folder / stage / "pictures" / "p0").iterdir()) == ["step_00000003.png", "step_00000004.png"]
        assert list((folder / stage / "tensorboard").iterdir()) and not list((folder / stage).glob("*.part"))
    assert "adversarial_d" not in read_lines(folder / "psnr" / "log.jsonl")[0]
    assert {"adversarial_d", "adversarial_g", "perceptual", "d_real", "rate_d"} <= set(read_lines(folder / "gan" / "log.jsonl")[0])


def test_the_config_is_in_the_checkpoint_and_other_tools_can_read_it(whole, pictures):
    path, _ = whole
    saved = torch.load(path, weights_only=True)
    assert saved["config"] == tiny(pictures).plain()
    assert load_generator(path).config["n_features"] == 4
    assert all(torch.equal(v, saved["params_ema"][k]) for k, v in load_generator(path).state_dict().items())


def test_the_gan_stage_begins_where_the_psnr_stage_was_best(whole, pictures):
    _, folder = whole
    config = tiny(pictures)
    started = build(config, "gan", result(folder / "psnr")).generator.state_dict()
    best = torch.load(folder / "psnr" / "best.pt", weights_only=True)["params_ema"]
    assert all(torch.equal(v, started[k]) for k, v in best.items())


def test_the_best_is_the_best(whole):
    _, folder = whole
    for stage, sign, key in (("psnr", 1, "psnr_y_crop4"), ("gan", -1, "lpips")):
        measured = {r["step"]: sign * r[key] for r in read_lines(folder / stage / "log.jsonl") if key in r}
        assert torch.load(folder / stage / "best.pt", weights_only=True)["step"] == max(measured, key=measured.get)


def test_a_later_and_worse_figure_is_not_the_best_after_a_resume_either(pictures, tmp_path, monkeypatch):
    import esrdgan.run as room
    figures = iter([5., 9., 7., 8.])

    class Told:
        def __init__(self, *args): pass
        def __call__(self, generator): return dict(psnr_y_crop4=next(figures)), {}
    monkeypatch.setattr(room, "Validator", Told)
    config = tiny(pictures)
    config.gan.steps, config.training.validate_every, config.training.save_every = 0, 1, 1
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        interrupt_at(patch, 3)
        run(config, tmp_path / "r")
    (tmp_path / "r/psnr/log.jsonl").unlink()        # the figure travels with the state, not with the log
    run(config, tmp_path / "r", resume=True)
    best = torch.load(tmp_path / "r/psnr/best.pt", weights_only=True)
    assert (best["step"], best["best"]) == (2, 9.)


@pytest.mark.parametrize("stage, step", [("psnr", 1), ("psnr", 3), ("gan", 2)])
def test_stopped_and_continued_is_the_same_to_the_bit(whole, pictures, tmp_path, monkeypatch, stage, step):
    _, folder = whole
    config, mine = tiny(pictures), tmp_path / "tiny"
    with monkeypatch.context() as patch:
        interrupt_at(patch, step, stage)
        with pytest.raises(KeyboardInterrupt, match=f"after step {step} of {stage}; continue with: esrdgan train --cfg .*config.ini --resume"):
            run(config, mine)
    assert checkpoints(mine / stage)[0].name == f"step_{step:08d}.pt"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    run(read_config(mine / "config.ini"), mine, resume=True)
    for part in ("psnr", "gan"):
        assert read_lines(mine / part / "log.jsonl") == read_lines(folder / part / "log.jsonl")
        assert same(mine / part / "step_00000004.pt", folder / part / "step_00000004.pt")
        assert same(mine / part / "best.pt", folder / part / "best.pt")


def test_under_degradation_a_stop_and_other_workers_change_no_bit(pictures, tmp_path, monkeypatch, one_thread):
    "The uninterrupted run without workers; one stopped, continued with two; and pictures that are damaged indeed."
    found = {}
    for name, workers in (("whole", 0), ("again", 2)):
        config = tiny(pictures)
        config.degradation.preset, config.data.workers, config.run.name = "wild", workers, "tiny"
        if workers:
            with monkeypatch.context() as patch:
                interrupt_at(patch, 3, "gan")
                with pytest.raises(KeyboardInterrupt, match="after step 3 of gan"): run(config, tmp_path / name)
            config = read_config(tmp_path / name / "config.ini")
            assert config.rounds() == PRESETS["wild"]
        run(config, tmp_path / name, resume=True)
        found[name] = [read_lines(tmp_path / name / part / "log.jsonl") for part in ("psnr", "gan")]
    assert found["whole"] == found["again"]
    whole, again = (torch.load(tmp_path / name / "gan" / "step_00000004.pt", weights_only=True) for name in found)
    assert all(torch.equal(whole["params"][k], again["params"][k]) for k in whole["params"])
    assert found["whole"][0][0]["pixel"] != read_lines(run_clean(pictures, tmp_path) / "psnr" / "log.jsonl")[0]["pixel"]


def test_other_damage_is_other_settings(pictures):
    "So that a run which blew up is not told that it will again, when the damage was changed."
    import esrdgan.run as room
    config = tiny(pictures)
    before = room._mark(config, "gan")
    config.second_round.quality = "40, 50"
    assert room._mark(config, "gan") != before


def run_clean(pictures, tmp_path):
    config = tiny(pictures)
    config.psnr.steps, config.gan.steps = 1, 0
    run(config, tmp_path / "clean")
    return tmp_path / "clean"


@pytest.mark.parametrize("stage, step", [("psnr", 3), ("gan", 4)])
def test_a_stop_during_a_validation_is_heard_between_two_pictures(whole, pictures, tmp_path, monkeypatch, stage, step):
    "The step is saved without its figures, and measured after the next start; at the last step, too."
    _, folder = whole
    config, mine, passes = tiny(pictures), tmp_path / "tiny", []
    import esrdgan.evaluate as room
    enlarge = room.upscale

    def pressed(model, lr, **options):
        passes.append((stage, len(passes)))
        if len(passes) == {"psnr": 2, "gan": 11}[stage]: signal.raise_signal(signal.SIGTERM)    # the first or second of three pictures
        return enlarge(model, lr, **options)
    with monkeypatch.context() as patch:
        patch.setattr(room, "upscale", pressed)
        with pytest.raises(Stopped, match=f"after step {step} of {stage}; continue with") as stopped:
            run(config, mine)
    assert stopped.value.status == 143 and len(passes) == {"psnr": 2, "gan": 11}[stage]
    saved = torch.load(mine / stage / f"step_{step:08d}.pt", weights_only=True)
    assert saved["unmeasured"]["step"] == step and read_lines(mine / stage / "log.jsonl")[-1]["step"] == step - 1
    run(config, mine, resume=True)
    for part in ("psnr", "gan"):
        assert read_lines(mine / part / "log.jsonl") == read_lines(folder / part / "log.jsonl")
        assert same(mine / part / "step_00000004.pt", folder / part / "step_00000004.pt") and same(mine / part / "best.pt", folder / part / "best.pt")


@pytest.mark.parametrize("who, when", [(0, 1), (1, 2), (None, 9)])
def test_while_one_process_measures_any_can_stop_it(pictures, monkeypatch, who, when):
    "Two processes, here threads: each hears before each pass of the generator whether the other was asked to stop."
    import esrdgan.run as room
    told, barrier, asked, found, passes = [None, None], threading.Barrier(2, timeout=60), ([], []), {}, []

    def everyone(item, world):
        told[world.rank] = item
        barrier.wait()
        heard = list(told)
        barrier.wait()
        return heard
    monkeypatch.setattr(room, "everyone", everyone)
    state = build(tiny(pictures), "psnr")

    def validator(model):
        for _ in range(3):
            passes.append(1)
            if who is not None and len(passes) == when: asked[who].append(signal.SIGTERM)
            with torch.no_grad(): model(torch.rand(1, 3, 8, 8))
        return "measured"
    def process(rank): found[rank] = room._measure(validator, state, asked[rank], DistContext(rank, 2))
    other = threading.Thread(target=process, args=(1,))
    other.start(); process(0); other.join()
    assert found == ({0: "measured", 1: None} if who is None else {0: False, 1: False}) and len(passes) in (min(when, 3), min(when + 1, 3))    # process 1 may have answered already
    assert not state.ema.conv_first._forward_pre_hooks


@pytest.mark.parametrize("asked", [True, False])
def test_a_worker_that_dies_cuts_no_step_in_two(pictures, tmp_path, monkeypatch, asked):
    "A batch system's SIGTERM goes to the processes that prepare crops, too; a lack of memory ends one alone."
    import multiprocessing
    config, write = tiny(pictures), RunLogger.write
    config.gan.steps, config.data.valid, config.data.workers, config.training.save_every = 0, "", 1, 100

    def kill(self, log, pictures={}):
        if log.step == 2:
            for child in multiprocessing.active_children(): child.kill(); child.join()
            if asked: signal.raise_signal(signal.SIGTERM)
        write(self, log, pictures)
    monkeypatch.setattr(RunLogger, "write", kill)
    with pytest.raises(Stopped if asked else TrainingError, match="stopped after step . of psnr" if asked else "after step . of psnr the next pictures cannot be had .*all is saved") as info:
        run(config, tmp_path / "r")
    newest = checkpoints(tmp_path / "r/psnr")[0]
    assert torch.load(newest, weights_only=True)["step"] == read_lines(tmp_path / "r/psnr/log.jsonl")[-1]["step"] >= 2
    assert signal.getsignal(signal.SIGCHLD) in (signal.SIG_DFL, None) if hasattr(signal, "SIGCHLD") else True


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks the owner")
def test_a_folder_has_one_owner_and_a_dead_one_is_none(tmp_path):
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        with claim(tmp_path / "r"):
            os.write(writer, b"x")
            time.sleep(60)
        os._exit(0)
    os.read(reader, 1)
    with pytest.raises(TrainingError, match=rf"r: process {pid} on \S+, since \d{{4}}-\d\d-\d\d \d\d:\d\d, trains here"):
        with claim(tmp_path / "r"): pass
    os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
    with claim(tmp_path / "r"): (tmp_path / "r" / "something").touch()
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == [".lock", "something"]
    with claim(tmp_path / "new"): pass
    assert not (tmp_path / "new").exists()


def test_a_number_that_is_not_finite_is_not_met_again_without_a_word(pictures, tmp_path, monkeypatch, capsys):
    import esrdgan.build as room
    config, calls = tiny(pictures), []
    config.gan.steps, config.data.valid = 0, ""

    def spoilt(sr, hr):
        calls.append(1)
        return (sr - hr).abs().mean() * (float("nan") if len(calls) == 4 else 1)
    monkeypatch.setattr(room, "l1", spoilt)
    with pytest.raises(TrainingError, match="step 4: the pixel loss is nan;.* the same settings would meet it again: change them in config.ini, then continue with: esrdgan train"):
        run(config, tmp_path / "r")
    capsys.readouterr()
    run(config, tmp_path / "r", resume=True)
    warned = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: step 4 of psnr blew up with these very settings")]
    assert len(warned) == 1
    for p in checkpoints(tmp_path / "r/psnr"):
        if p.name > "step_00000002.pt": p.unlink()
    config.psnr.learning_rate /= 2
    config.training.save_every = 1
    run(config, tmp_path / "r", resume=True)
    assert "blew up" not in capsys.readouterr().err


def test_a_run_says_what_it_does(pictures, tmp_path, capsys):
    config = tiny(pictures)
    config.gan.steps = 0
    run(config, tmp_path / "r")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"psnr: 4 steps in fp32 on cpu, each of 2 crops of 32x32 from 3 pictures ({pictures}); measured on 3 every 3 steps"
    assert [line.split(":")[0].split(",")[0] for line in lines[1:]] == ["step 1 of 4", "step 3 of 4", "step 4 of 4"] and "lpips" in lines[2]
    config.psnr.steps = 5
    run(config, tmp_path / "r", resume=True)
    assert capsys.readouterr().err.splitlines()[0] == f"psnr: continues after step 4, from {tmp_path / 'r/psnr/step_00000004.pt'}"


def test_out_of_memory_is_one_line_with_advice(pictures, tmp_path, monkeypatch):
    import esrdgan.build as room
    config = tiny(pictures)
    for error in RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory\nmore"), MemoryError():
        def full(sr, hr): raise error
        monkeypatch.setattr(room, "l1", full)
        with pytest.raises(TrainingError, match=r"step 1 of psnr: out of memory: make \[data\] batch_size \(2\) or patch \(32\) smaller") as info: run(config, tmp_path / "r", resume=True)
        assert "\n" not in str(info.value)


def test_a_refused_resume_leaves_the_configuration(pictures, tmp_path):
    config = tiny(pictures)
    config.gan.steps, config.psnr.steps, config.data.valid = 0, 2, ""
    run(config, tmp_path / "r")
    before = (tmp_path / "r/config.ini").read_bytes()
    config.generator.growth, config.psnr.steps = 3, 3
    with pytest.raises(TrainingError): run(config, tmp_path / "r", resume=True)
    assert (tmp_path / "r/config.ini").read_bytes() == before


def test_a_killed_run_goes_on_from_its_last_checkpoint(whole, pictures, tmp_path):
    _, folder = whole
    config = tiny(pictures)
    write_config(config, tmp_path / "x.ini")
    program = ("import os, signal, sys, torch; torch.set_num_threads(1)\n"
        "from esrdgan.config import read_config; from esrdgan.run import RunLogger, run\n"
        "write = RunLogger.write\n"
        "def dies(self, log, pictures={}):\n"
        "    write(self, log, pictures)\n"
        "    if log.step == 3 and self.folder.name == 'gan': os._exit(9)\n"
        "RunLogger.write = dies\n"
        "run(read_config(sys.argv[1]), sys.argv[2])\n")
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "x.ini"), str(tmp_path / "tiny")], capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert done.returncode == 9, done.stderr
    assert len(read_lines(tmp_path / "tiny" / "gan" / "log.jsonl")) == 3 and checkpoints(tmp_path / "tiny" / "gan")[0].name == "step_00000002.pt"
    run(config, tmp_path / "tiny", resume=True)
    assert read_lines(tmp_path / "tiny" / "gan" / "log.jsonl") == read_lines(folder / "gan" / "log.jsonl")
    assert same(tmp_path / "tiny" / "gan" / "step_00000004.pt", folder / "gan" / "step_00000004.pt")


def test_a_finished_run_resumed_changes_nothing(whole, pictures):
    path, folder = whole
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.suffix in (".pt", ".jsonl")}
    assert run(tiny(pictures), folder, resume=True) == path
    assert before == {p: p.read_bytes() for p in before}


def test_a_run_is_not_overwritten(whole, pictures):
    _, folder = whole
    with pytest.raises(ConfigError, match="holds a run already.*--resume"):
        run(tiny(pictures), folder)


def test_more_steps_continue_a_finished_run(pictures, tmp_path):
    config = tiny(pictures)
    config.gan.steps, config.psnr.steps, config.data.valid = 0, 2, ""
    assert run(config, tmp_path / "r") == tmp_path / "r" / "psnr" / "step_00000002.pt"
    config.psnr.steps = 3
    assert run(config, tmp_path / "r", resume=True).name == "step_00000003.pt"
    assert torch.load(tmp_path / "r" / "psnr" / "step_00000003.pt", weights_only=True)["config"]["psnr"]["steps"] == 3


def test_a_damaged_checkpoint_is_passed_over(pictures, tmp_path):
    config = tiny(pictures)
    config.gan.steps, config.psnr.steps, config.data.valid, config.training.save_every = 0, 3, "", 1
    run(config, tmp_path / "r")
    whole = (tmp_path / "r/psnr/step_00000003.pt").read_bytes()
    (tmp_path / "r/psnr/step_00000003.pt").write_bytes(whole[:1000])
    run(config, tmp_path / "r", resume=True)
    assert [r["step"] for r in read_lines(tmp_path / "r/psnr/log.jsonl")] == [1, 2, 3]
    assert torch.load(tmp_path / "r/psnr/step_00000003.pt", weights_only=True)["step"] == 3


def test_another_generator_cannot_continue_the_run(pictures, tmp_path):
    config = tiny(pictures)
    config.gan.steps, config.psnr.steps, config.data.valid = 0, 2, ""
    run(config, tmp_path / "r")
    config.generator.growth = 3
    with pytest.raises(TrainingError, match="its generator was built with"):
        run(config, tmp_path / "r", resume=True)


def test_networks_follow_the_seed_and_leave_the_global_state(pictures):
    config = tiny(pictures)
    torch.manual_seed(5)
    expected = torch.get_rng_state()
    a, b = build(config, "gan"), build(config, "gan")
    assert torch.equal(torch.get_rng_state(), expected)
    config.run.seed = 1
    c = build(config, "gan")
    for x, y, z in ((a.generator, b.generator, c.generator), (a.discriminator, b.discriminator, c.discriminator)):
        assert all(torch.equal(p, q) for p, q in zip(x.parameters(), y.parameters()))
        assert not all(torch.equal(p, q) for p, q in zip(x.parameters(), z.parameters()))


def test_settings_reach_the_networks(pictures):
    config = tiny(pictures)
    config.discriminator.kind, config.losses.pixel, config.losses.adversarial, config.training.betas = "unet", "charbonnier", "vanilla", (.5, .7)
    state = build(config, "gan")
    assert state.discriminator(torch.rand(1, 3, 32, 32)).shape == (1, 1, 32, 32) and state.opt_d.defaults["betas"] == (.5, .7)
    assert state.pixel.__name__ == "charbonnier" and state.adversarial.d.__name__ == "vanilla_d" and list(state.features.layers) == [2]
    assert build(config, "psnr").discriminator is None and build(config, "psnr").features is None


def test_start_from(pictures, tmp_path):
    config = tiny(pictures)
    config.run.seed = 3
    save_generator(build(config, "psnr").generator, tmp_path / "old.safetensors")
    want = build(config, "psnr").generator.state_dict()
    config.run.seed, config.generator.start_from = 0, str(tmp_path / "old.safetensors")
    assert all(torch.equal(v, want[k]) for k, v in build(config, "psnr").generator.state_dict().items())
    config.generator.growth = 3
    with pytest.raises(ConfigError, match=r"\[generator\] start_from .* growth 2, not 3"):
        build(config, "psnr")


def test_processes_share_a_batch(pictures):
    config = tiny(pictures)
    state = build(config, "psnr")
    (lr, hr), (first, _), (second, _) = (next(RunPictures(config).batches(state, DistContext(rank, size))) for rank, size in ((0, 1), (0, 2), (1, 2)))
    assert torch.equal(torch.cat([first, second]), lr) and lr.shape == (2, 3, 8, 8) and hr.shape == (2, 3, 32, 32)
    with pytest.raises(ConfigError, match=r"\[data\] batch_size is 2: give a multiple of the number of processes, 3"):
        next(RunPictures(config).batches(state, DistContext(0, 3)))


def test_the_validator_knows_the_truth(pictures):
    config = tiny(pictures)
    validator = Validator(RunPictures(config).valid, torch.device("cpu"), config.training.precision)
    figures, shown = validator(build(config, "psnr").ema, shown=1)
    assert set(figures) == {"psnr_y_crop4", "lpips"} and list(shown) == ["p0"] and shown["p0"].shape == (3, 48, 56)
    assert figures["lpips"] > .1 and 0 < figures["psnr_y_crop4"] < 30


def test_the_validator_measures_what_its_names_say(pictures):
    "Luma, four pixels cut, 8-bit values; the mean over all pictures."
    from esrdgan.data import sample
    from esrdgan.image import quantize
    from esrdgan.metrics import psnr
    from esrdgan.perception import lpips
    class Tinted(torch.nn.Module):       # blue and borders are wrong: RGB, or the whole picture, would give another figure
        scale = 4
        def forward(self, x):
            y = torch.nn.functional.interpolate(x, scale_factor=4, mode="bicubic")
            y[:, 2] += .1
            y[..., :3] = 0
            return y
    pairs = RunPictures(tiny(pictures)).valid
    figures, _ = Validator(pairs, torch.device("cpu"), "fp32")(Tinted())
    rows = [sample(pairs, 0, i) for i in range(len(pairs.hr.paths))]
    made = [(quantize(Tinted()(lr[None])[0].clamp(0, 1)), hr) for lr, hr in rows]
    mean = lambda measure: sum(measure(sr, hr) for sr, hr in made) / len(made)
    assert figures["psnr_y_crop4"] == pytest.approx(mean(lambda sr, hr: psnr(sr, hr, "y", 4)), abs=1e-3)
    assert figures["lpips"] == pytest.approx(mean(lpips), abs=1e-3)
    for other in (("rgb", 0), ("rgb", 4), ("y", 0)):
        assert abs(figures["psnr_y_crop4"] - mean(lambda sr, hr: psnr(sr, hr, *other))) > .5


def test_bad_pictures_stop_a_run_before_it_begins(pictures, tmp_path):
    config = tiny(pictures)
    config.data.hr = str(tmp_path / "bad")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"nothing")
    assert len(RunPictures(config).problems()) == 1
    with pytest.raises(DataError, match="x.png"):
        run(config, tmp_path / "r")
    assert not (tmp_path / "r").exists()
    config.data.hr = ""
    with pytest.raises(DataError, match=r"\[data\] hr is empty"):
        check(config)


def test_check_tells_of_both_stages_and_leaves_nothing(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = check(tiny(pictures))
    assert [line.split(":")[0] for line in lines] == ["psnr", "gan", "validation"] and "adversarial_g" in lines[1] and "s a step" in lines[0]
    assert "lpips" in lines[2] and "for 3 pictures" in lines[2] and list(tmp_path.iterdir()) == []
    config = tiny(pictures)
    config.tricks.d_steps, config.data.valid, config.psnr.steps, config.gan.steps = 3, "", 0, 1
    [line] = check(config)                          # the real run would get to G at its third step
    assert "adversarial_d" in line and "adversarial_g" in line


def test_the_first_interrupt_is_deferred(capsys):
    with defer_interrupt() as asked:
        assert not asked
        signal.raise_signal(signal.SIGINT)
        assert asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert capsys.readouterr().err == "stopping after this step; press again to stop without saving\n"
    with defer_interrupt() as asked:                # a batch system and a closed terminal may say it twice
        for name in ("SIGTERM", "SIGTERM", *["SIGHUP"] * hasattr(signal, "SIGHUP")): signal.raise_signal(getattr(signal, name))
        assert asked[0] == signal.SIGTERM
    if hasattr(os, "fork"):
        with defer_interrupt() as asked:            # a process that prepares crops leaves it to its parent
            pid, status = os.fork(), 1
            if not pid:
                try: signal.raise_signal(signal.SIGINT); signal.raise_signal(signal.SIGINT); status = len(asked)
                finally: os._exit(status)
            assert os.waitpid(pid, 0)[1] == 0
    if hasattr(signal, "SIGHUP"):
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with defer_interrupt() as asked:            # nohup
            signal.raise_signal(signal.SIGHUP)
            assert not asked
        signal.signal(signal.SIGHUP, before)
    seen = []
    def elsewhere():        # only the main thread may set handlers; others go on without
        with defer_interrupt() as asked:
            seen.append(asked)
    thread = threading.Thread(target=elsewhere)
    thread.start(); thread.join()
    assert seen == [[]]


def test_what_a_run_leaves_enlarges_as_it_was_trained(pictures, tmp_path):
    "The residual scales and the slope are in no shape of a weight; the checkpoint notes them."
    config = tiny(pictures)
    config.psnr.steps, config.gan.steps = 2, 0
    config.generator.residual_scale, config.generator.rrdb_scale, config.generator.slope = .7, .4, .1
    made = run(config, tmp_path / "r")
    state = build(config, "psnr")
    state.ema.load_state_dict(torch.load(made, weights_only=True)["params_ema"])
    x = torch.rand(1, 3, 8, 8)
    with torch.no_grad(): assert torch.equal(load_generator(made)(x), state.ema(x))


def test_pictures_held_out_are_measured_and_never_learned_from(pictures, tmp_path):
    config = tiny(pictures)
    config.data.valid, config.data.hold_out = "", 1
    pictures_of_run = RunPictures(config)
    learn, held = pictures_of_run.files
    assert [p.name for p in learn] == ["p0.png", "p2.png"] and [p.name for p in held] == ["p1.png"]
    assert pictures_of_run.problems() == []
    assert list(Validator(pictures_of_run.valid, torch.device("cpu"), "fp32")(build(config, "psnr").ema)[1]) == ["p1"]
    config.psnr.steps, config.gan.steps = 3, 0
    run(config, tmp_path / "r")
    assert [p.name for p in (tmp_path / "r/psnr/pictures").iterdir()] == ["p1"]
    (pictures / "p1.png").rename(tmp_path / "p1.png")            # what was learned is what two folders give
    try: two = tiny(pictures); two.psnr.steps, two.gan.steps, two.data.valid = 3, 0, str(tmp_path); run(two, tmp_path / "two")
    finally: (tmp_path / "p1.png").rename(pictures / "p1.png")
    a, b = (torch.load(result(tmp_path / name / "psnr"), weights_only=True)["params"] for name in ("r", "two"))
    assert all(torch.equal(v, b[k]) for k, v in a.items())
    config.data.hold_out = 3
    assert RunPictures(config).problems() == [f"[data] hold_out is 3, but {pictures} holds 3 pictures"]


def test_the_perceptual_network_is_cast_once_and_says_the_same(pictures):
    "What autocast would do to its weights at every step is done when the run is built; the picture is still brought to the network's range in float32."
    config = tiny(pictures)
    config.training.precision = "bf16"
    once, each = build(config, "gan", "").features, edge_vgg16_small({2: 1.}).to(memory_format=torch.channels_last)
    x = torch.rand(2, 3, 32, 32, requires_grad=True)
    assert {p.dtype for p in once.parameters()} == {torch.bfloat16} and once.mean.dtype == torch.float32
    answers = []
    for features in (once, each):
        with torch.autocast("cpu", torch.bfloat16): loss = perceptual(features, x, x.detach().flip(-1))
        answers.append((loss, *torch.autograd.grad(loss, x)))
    assert all(map(torch.equal, *answers))
