"""What a run tells: every step once, the same numbers in every place, nothing lost in a kill."""
import ast
import builtins
import io
import json
import math
from pathlib import Path

import IPython.display
import pytest
import torch

import esrdgan.logs
from esrdgan.logs import GROUPS, JsonLines, LiveFigure, Progress, TensorBoardLog, curves, ends, groups, numbers, read_lines
from esrdgan.state import State
from esrdgan.train import Log, Settings, train
from esrdgan.tricks import Tricks
from test_state import new_state, random_batches
from test_train import ALL, Features

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def gan_state():
    state = new_state(gan=True)
    return State(state.generator, state.discriminator, Features())


def gan_logs(state, steps, **kw):
    settings = Settings(steps=steps, tricks=Tricks(d_steps=2), **ALL)
    yield from train(state, random_batches(state.step), settings)


def read_events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(folder), size_guidance=dict(scalars=0, histograms=0, images=0))
    events.Reload()
    return events


def test_event_files_and_json_lines_hold_every_series_and_the_same_numbers(tmp_path):
    state = gan_state()
    writers = [JsonLines(tmp_path / "log.jsonl"), board := TensorBoardLog(tmp_path / "tb", dict(generator=state.generator, discriminator=state.discriminator), every=2)]
    for log in gan_logs(state, 4):
        if log.step == 4: log.values["psnr_y_crop4"] = 27.25                      # as a caller adds what it measured
        for writer in writers: writer.write(log)
    sample = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    board.pictures(4, {"coffee": sample})
    for writer in writers: writer.close()
    rows, events = read_lines(tmp_path / "log.jsonl"), read_events(tmp_path / "tb")
    assert [r["step"] for r in rows] == [1, 2, 3, 4]
    wanted = {f"{g}/{k}" for k, g in GROUPS.items()} - {"loss/consistency", "gradient at SR/sr_consistency", "noise/noise_d"}     # this run has neither
    assert len(wanted) == 18
    assert wanted | {"validation/psnr_y_crop4"} == set(events.Tags()["scalars"])
    for tag in events.Tags()["scalars"]:
        name = tag.split("/")[1]
        told = {e.step: e.value for e in events.Scalars(tag)}
        assert set(told) == {r["step"] for r in rows if name in r}                # G's terms at every second step only
        for r in rows:
            if name in r: assert told[r["step"]] == pytest.approx(r[name], rel=1e-6)   # event files hold 32 bits
    histograms = {f"{who} {what}/{name}" for who, n in (("generator", state.generator), ("discriminator", state.discriminator))
                  for what in ("weights", "gradients") for name in ends(n)}
    assert histograms == set(events.Tags()["histograms"]) and len(histograms) == 8
    assert "generator weights/conv_first.weight" in histograms and "generator gradients/conv_last.weight" in histograms
    found = events.Histograms("generator weights/conv_last.weight")
    assert [e.step for e in found] == [2, 4]
    assert found[-1].histogram_value.num == state.generator.conv_last.weight.numel()
    assert found[-1].histogram_value.sum == pytest.approx(state.generator.conv_last.weight.sum().item(), rel=1e-3)
    [image] = events.Images("pictures/coffee")
    from PIL import Image
    read = torch.tensor(list(Image.open(io.BytesIO(image.encoded_image_string)).tobytes())).view(8, 8, 3).permute(2, 0, 1)
    assert image.step == 4 and (read / 255 - sample).abs().max() < 1.01 / 255


def fake(step, **kw): return Log(step, dict(pixel=1 / step), dict(rate_g=1e-4, **kw))


def test_a_resumed_run_tells_each_step_once(tmp_path):
    path, folder = tmp_path / "run" / "log.jsonl", tmp_path / "tb"
    for start, stop in ((0, 6), (4, 8)):                     # the last checkpoint was of step 4
        lines, board = JsonLines(path, start), TensorBoardLog(folder, step=start)
        for step in range(start + 1, stop + 1):
            for writer in (lines, board): writer.write(fake(step, red=float(start)))
        lines.close(); board.close()
    rows = read_lines(path)
    assert [r["step"] for r in rows] == list(range(1, 9)) and [r["red"] for r in rows] == [0.] * 4 + [4.] * 4
    told = read_events(folder).Scalars("colour drift/red")
    assert [(e.step, e.value) for e in told] == [(r["step"], r["red"]) for r in rows]
    JsonLines(path).close()
    assert read_lines(path) == [] and [p.name for p in path.parent.iterdir()] == ["log.jsonl"]


def test_a_line_is_on_the_disk_at_once_and_a_cut_one_is_passed_over(tmp_path):
    path = tmp_path / "log.jsonl"
    log = JsonLines(path)
    log.write(fake(1)); log.write(fake(2))
    assert len(read_lines(path)) == 2                        # not closed yet
    log.close()
    path.write_text(path.read_text() + '{"step": 3, "pix', encoding="utf-8")
    assert [r["step"] for r in read_lines(path)] == [1, 2]
    log = JsonLines(path, step=3); log.write(fake(3)); log.close()
    assert [r["step"] for r in read_lines(path)] == [1, 2, 3]
    path.write_text('{"step": 1}\nnonsense\n{"step": 3}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="line 2 is not JSON"): read_lines(path)


def test_the_lines_are_json_for_everybody(tmp_path):
    log = JsonLines(tmp_path / "l"); log.write(fake(1, psnr_y_crop4=math.inf)); log.close()
    def refuse(word): raise AssertionError(word)
    [row] = [json.loads(line, parse_constant=refuse) for line in (tmp_path / "l").read_text().splitlines()]
    assert row["psnr_y_crop4"] is None
    value = .1 + .2
    log = JsonLines(tmp_path / "l"); log.write(fake(1, red=value)); log.close()
    assert read_lines(tmp_path / "l")[0]["red"] == value       # every bit
    assert numbers(fake(1))["pixel"] == 1 and groups(fake(1, dists=.1)) == {"loss/pixel": 1, "learning rate/rate_g": 1e-4, "validation/dists": .1}


def test_without_tensorboard_one_line_says_what_to_do(tmp_path, monkeypatch):
    real = builtins.__import__
    def absent(name, *args):
        if "tensorboard" in name: raise ImportError("No module named 'tensorboard'")
        return real(name, *args)
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match=r'pip install "esrdgan\[train\]"'): TensorBoardLog(tmp_path)


class Terminal(io.StringIO):
    def isatty(self): return True


def test_progress_tells_speed_time_left_and_numbers():
    out = Terminal()
    bar = Progress(10, 4, file=out)
    for step in (5, 6): bar.write(Log(step, dict(pixel=.0123456, r1=3.), dict(d_real=1.5)))
    bar.write(Log(7, dict(adversarial_d=.7), {}))
    bar.bar.refresh(); bar.close()
    last = out.getvalue().split("\r")[-1]
    assert "7/10" in last and "pixel=0.0123" in last and "d_real=1.5" in last and "r1" not in last and "step/s" in last + "step/s" * ("s/step" in last)
    assert "<" in last                                       # elapsed<left


def test_where_no_terminal_is_a_line_comes_now_and_then(monkeypatch):
    clock, out = [0.], io.StringIO()
    monkeypatch.setattr(esrdgan.logs.time, "monotonic", lambda: clock[0])
    bar = Progress(1000, 4, file=out)
    for step in range(5, 1001):
        clock[0] += 1.
        bar.write(fake(step, **({"psnr_y_crop4": 27.25} if step == 50 else {})))
    bar.close()
    lines = out.getvalue().splitlines()
    assert [int(line.split()[1].replace(",", "")) for line in lines] == [5, 35, *range(50, 1000, 30), 1000]
    assert lines[0] == "step 5 of 1,000: pixel 0.2" and lines[1].startswith("step 35 of 1,000, 1 s a step, 16:05 left: ") and "psnr_y_crop4 27.2" in lines[2]


def test_a_pipe_that_nobody_reads_ends_no_run():
    class Gone(io.StringIO):
        def write(self, text): raise BrokenPipeError
    bar = Progress(3, file=Gone())
    for step in (1, 2, 3): bar.write(fake(step))
    bar.close()


def test_going_on_with_a_long_log_reads_it_once_and_holds_one_line(tmp_path):
    import tracemalloc
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(dict(step=i, pixel=1 / i)) + "\n" for i in range(1, 20_001)))
    tracemalloc.start()
    JsonLines(path, 19_990).close()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read_lines(path)[-1]["step"] == 19_990 and peak < 300_000 < path.stat().st_size


def test_curves_draw_every_series_with_its_numbers():
    state = gan_state()
    rows = [numbers(log) for log in gan_logs(state, 4)]
    fig = curves(rows)
    drawn = {line.get_label(): line.get_xydata().tolist() for ax in fig.axes for line in ax.lines}
    assert set(drawn) == {k for r in rows for k in r} - {"step", "rate_g", "rate_d"}
    for name, points in drawn.items(): assert points == [[r["step"], r[name]] for r in rows if name in r]
    assert [len(ax.lines) for ax in fig.axes] == [6, 2, 2, 3, 3]
    many = curves([dict(step=i, pixel=1.) for i in range(1, 50_001)])
    assert len(many.axes[0].lines[0].get_xdata()) <= 1001    # a long run is drawn as quickly as a short one
    rare = curves([dict(step=i, pixel=1.) | ({"dists": .1} if i % 500 == 0 else {}) for i in range(1, 20_001)])
    assert len(rare.axes[1].lines[0].get_xdata()) == 40      # and what is measured rarely is drawn all the same
    assert curves([]).axes == []
    rows[-1]["psnr_y_crop4"] = 27.
    assert [ax.get_title() for ax in curves(rows).axes] == ["loss", "logits", "gradient norm", "gradient at SR", "colour drift", "psnr_y_crop4"]


def test_the_live_figure_updates_in_place_and_is_throttled(monkeypatch):
    shown, clock = [], [100.]

    class Handle:
        def update(self, fig): shown.append(("update", fig))

    def display(fig, display_id): shown.append(("display", fig)); return Handle()
    monkeypatch.setattr(IPython.display, "display", display)
    monkeypatch.setattr(esrdgan.logs.time, "monotonic", lambda: clock[0])
    live = LiveFigure(seconds=1.)
    for step in range(1, 41):
        clock[0] += .1
        live.write(fake(step))
    assert [what for what, _ in shown] == ["display"] + ["update"] * 3
    live.close()
    assert shown[-1][1].axes[0].lines[0].get_xdata()[-1] == 40     # the last step is in the last figure
    import matplotlib.pyplot as plt
    assert plt.get_fignums() == []


def test_a_figure_that_is_slow_to_draw_takes_a_tenth_of_the_time(monkeypatch):
    clock = [0.]
    monkeypatch.setattr(IPython.display, "display", lambda *a, **k: clock.__setitem__(0, clock[0] + 2.))
    monkeypatch.setattr(esrdgan.logs.time, "monotonic", lambda: clock[0])
    live = LiveFigure(seconds=1.)
    live.write(fake(1))
    assert live.due == 22.


def test_logs_know_nothing_of_pictures_and_networks_of_ours():
    tree = ast.parse(Path(esrdgan.logs.__file__).read_text(encoding="utf-8"))
    ours = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level}
    assert ours == {"image"}
