"""The doctor: rules on made-up logs, real runs on seeds that no threshold was chosen on, and the command.

The rules' own numbers stand in the room `doctor`; here is what surrounds them: real logs, thinned logs, folders, damage.
"""
import sys

import pytest

from esrdgan.cli import main
from esrdgan.doctor import CAUSES, TOO_FEW, WELL, Record, diagnose, evidence, report
from esrdgan.logs import read_lines
from esrdgan.recipes import recipe_config
from esrdgan.config import write_config
from esrdgan.state import save_checkpoint
from lessons import NBS, ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import doctor as cases


@pytest.fixture(scope="module")
def rolls():
    "The museum's cloth, as the lesson trains it."
    from lessons import names_of
    with names_of(NBS / "17_bug_museum.ipynb", cases.CLOTH) as names:
        yield names


@pytest.mark.parametrize("name", ["healthy cloth", "D gets no gradient from fakes", "G gets no gradient from D", "left in eval mode", "growing noise"])
def test_a_run_made_now_is_named(name, rolls):
    "Seed 5 of the museum: these signs are exact or have wide margins, on any processor."
    faults, cause = cases.MUSEUM[name]
    rows, settings, counted, kind = cases.museum(rolls, faults, 5)
    assert diagnose(Record(rows, settings, kind, (counted, len(rows))))[0].cause == cause


@pytest.mark.parametrize("name", ["tiny-gan", "mini-gan", "tiny-psnr", "mini-psnr"])
def test_no_alarm_on_the_logs_of_our_own_weights(name):
    assert [f.cause for f in diagnose(Record(read_lines(ROOT / f"weights/{name}.jsonl")))] == [WELL]


def test_a_log_that_blew_up_is_named_whole_and_thinned():
    rows = read_lines(ROOT / "benchmarks/blown_up.jsonl")
    for some in (rows, rows[::5]): assert diagnose(Record(some))[0].cause == "learning rate too high"
    assert diagnose(Record([dict(step=1, pixel=1.), dict(step=2, pixel=None)]))[0].evidence == "pixel is not finite"


def test_few_steps_are_said_to_be_few_and_no_steps_are_no_error():
    for rows in ([], [dict(step=n, pixel=.1, d_real=0., d_fake=0.) for n in range(1, 21)]):
        assert diagnose(Record(rows))[0].cause == TOO_FEW
        evidence(Record(rows), diagnose(Record(rows)))


def test_every_cause_names_a_lesson_that_is_there():
    for name, cause in CAUSES.items():
        assert (NBS / f"{cause.lesson}.ipynb").is_file() and "?" in cause.rule.__doc__, name


@pytest.fixture
def run_folder(tmp_path):
    "A run whose G hears nothing from D: config, log, and a checkpoint whose batch norms counted every batch."
    import json

    import torch

    from esrdgan.discriminator import VGGDiscriminator
    from esrdgan.generator import RRDBNet
    from esrdgan.state import State
    folder = tmp_path / "mine"
    (folder / "gan").mkdir(parents=True)
    config = recipe_config("tour")
    config.data.hr = "x"
    write_config(config, folder / "config.ini")
    rows = [dict(step=n, pixel=.1, d_real=.5, d_fake=-.5, adversarial_d=.6, sr_pixel=.1, sr_adversarial_g=0., rate_g=1e-3, rate_d=1e-3) for n in range(1, 61)]
    (folder / "gan/log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    state = State(RRDBNet(8, 1, 4), VGGDiscriminator(4, 32, n_head=8))
    for m in state.discriminator.modules():
        if isinstance(m, torch.nn.BatchNorm2d): m.num_batches_tracked.fill_(240)
    state.step = 60
    save_checkpoint(state, folder / "gan")
    return folder


def test_the_command_reads_a_run_a_stage_and_a_log(run_folder, capsys):
    for path in (run_folder, run_folder / "gan", run_folder / "gan/log.jsonl"):
        assert main(["doctor", str(path), "--out", str(run_folder / "out")]) == 0
        said = capsys.readouterr().out
        assert "60 steps\nG hears nothing from D: " in said and "nbs/13_loop.ipynb" in said
    assert (run_folder / "out/gan.png").stat().st_size > 5000 and (run_folder / "out/log.png").exists()


def test_a_batch_norm_that_stood_still_is_seen_in_the_checkpoint(run_folder, capsys):
    import torch
    [path] = (run_folder / "gan").glob("step_*.pt")
    saved = torch.load(path, weights_only=True)
    for name, count in saved["discriminator"].items():
        if name.endswith("num_batches_tracked"): count.fill_(120)
    torch.save(saved, path)
    assert main(["doctor", str(run_folder), "--out", str(run_folder)]) == 0
    assert "batch norm stands still: a batch norm of D counted 120 batches of 240" in capsys.readouterr().out


def test_what_cannot_be_read_is_one_line(run_folder, tmp_path, capsys):
    assert main(["doctor", str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err.startswith("esrdgan: ") and main(["doctor", str(tmp_path)]) == 2
    assert "holds no log.jsonl" in capsys.readouterr().err
    [path] = (run_folder / "gan").glob("step_*.pt")
    path.write_bytes(b"PK\3\4 not whole")
    assert main(["doctor", str(run_folder), "--out", str(run_folder)]) == 0
    told = capsys.readouterr()
    assert "passed over, not a whole checkpoint" in told.err and "G hears nothing" in told.out
    (run_folder / "gan/log.jsonl").write_text("{\n{\n")
    assert main(["doctor", str(run_folder)]) == 2 and "line 1 is not JSON" in capsys.readouterr().err


def test_the_report_tells_what_to_do():
    lines = report(diagnose(Record([dict(step=n, noise_d=.3, d_real=1., d_fake=0.) for n in range(1, 61)])))
    assert lines[0].startswith("noise never decays: ") and "try: " in lines[1] and "nbs/12_tricks.ipynb" in lines[1]
