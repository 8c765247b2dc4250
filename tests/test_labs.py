"Lab and Live without a browser: what a hand, a clock and an error do to them."
import matplotlib
import pytest

from esrdgan import labs
from esrdgan.labs import LAST, RUN, Lab, Live, figure, slider


class Counter:
    "A trainer that counts; `rate` above 5 breaks it on the way, above 8 at the start."
    def __init__(self, rate=1):
        if rate > 8:
            raise ValueError("rate is too high to start")
        self.rate, self.path, self.calls = rate, [0], []

    def step(self, n):
        self.calls.append(n)
        for _ in range(n):
            if self.rate > 5 and len(self.path) > 3:
                raise FloatingPointError("the loss is nan")
            self.path.append(self.path[-1] + self.rate)
        return dict(path=list(self.path))


def plot(result, pinned=None):
    fig, [ax] = figure()
    for r in (pinned, result):
        if r:
            ax.plot(r["path"])
    return fig


def counter(**kwargs):
    return Live(Counter, plot, dict(rate=slider("rate", 1, 0, 10, 1)), question="How far?", steps=20, **kwargs)


def tick(live):
    live.play.value += 1


def test_first_picture_is_the_end_and_the_clock_rests():
    live = counter()
    assert live.done == 20 and live.result["path"][-1] == 20 and bytes(live.image.value).startswith(b"\x89PNG")
    assert not live.play.playing and live.play.value == LAST
    assert live.progress.value == 20 and live.progress.description == "step 20 of 20"


def test_a_control_starts_a_new_run_that_plays_to_its_end():
    live = counter()
    live.controls["rate"].value = 2
    assert (live.done, live.play.playing, live.result["path"]) == (0, True, [0])
    pictures = set()
    while live.play.playing:
        tick(live)
        pictures.add(live.image.value)
    assert live.done == 20 and live.result["path"][-1] == 40 and len(pictures) > 1
    assert sum(live.trainer.calls) == 20                       # not one step too many


def test_a_tick_trains_as_long_as_drawing_takes(monkeypatch):
    clock = [0.]
    monkeypatch.setattr(labs, "perf_counter", lambda: clock[0])

    class Slow(Counter):
        def step(self, n):
            clock[0] += .001 * n
            return super().step(n)

    for drawing, fits in ((.4, 400), (.01, 50)):                # 50 ms at least
        def slow_plot(result, pinned=None):
            clock[0] += drawing
            return plot(result, pinned)

        live = Live(Slow, slow_plot, dict(rate=slider("rate", 1, 0, 10, 1)), question="How far?", steps=2000)
        live.reset()
        for _ in range(11): tick(live)
        assert live.chunk == fits and live.play.playing


def test_ticks_grow_at_most_twofold():
    live = counter()
    live.controls["rate"].value = 2
    while live.play.playing:
        tick(live)
    calls = live.trainer.calls[1:]
    assert calls[0] == 1 and all(b <= 2 * a for a, b in zip(calls, calls[1:]))


def test_pause_keeps_the_run():
    live = counter()
    live.controls["rate"].value = 2
    tick(live)
    live.play.playing = False
    done, result = live.done, live.result
    live.play.playing = True
    assert (live.done, live.result) == (done, result)
    tick(live)
    assert live.done > done


def test_stale_ticks_are_dropped():
    live = counter()
    live.controls["rate"].value = 2
    tick(live)
    old = live.play.value
    live.controls["rate"].value = 3
    live.play.value = old + 1                                  # of the run before
    assert live.done == 0 and live.play.value == live.run * RUN and live.play.playing
    tick(live)
    assert live.done > 0


@pytest.mark.parametrize("playing", (True, False), ids=("Play after the end", "Stop"))
def test_the_clock_back_at_zero_starts_anew(playing):
    live = counter()
    run = live.run
    live.play.playing = playing
    live.play.value = 0                                        # what the browser sends
    assert (live.done, live.run, live.play.playing) == (0, run + 1, playing)


def test_reset_reproduces_the_numbers():
    live = counter()
    first, picture = live.result, live.image.value
    live.controls["rate"].value = 4
    live.pin()
    live.reset()
    assert live.pinned is None and live.controls["rate"].value == 1 and live.done == 0
    while live.play.playing:
        tick(live)
    assert live.result == first and live.image.value == picture


def test_reset_of_several_controls_is_one_run():
    live = Live(lambda rate, offset: Counter(rate), plot, dict(rate=slider("rate", 1, 0, 5, 1), offset=slider("offset", 0, 0, 5, 1)), question="?", steps=5)
    live.controls["rate"].value = 2
    live.controls["offset"].value = 2
    run = live.run
    live.reset()
    assert live.run == run + 1


def test_pin_keeps_the_run_and_trains_nothing():
    live = counter()
    live.pin()
    calls = list(live.trainer.calls)
    picture = live.image.value
    live.controls["rate"].value = 3
    live.finish()
    assert live.pinned["path"][-1] == 20 and live.result["path"][-1] == 60 and live.image.value != picture
    live.pin()
    assert live.pinned["path"][-1] == 60 and sum(calls) == 20


@pytest.mark.parametrize("rate, message", ((7, "FloatingPointError: the loss is nan"), (9, "ValueError: rate is too high to start")))
def test_an_error_stops_the_clock_and_is_one_red_line(rate, message):
    live = counter()
    live.controls["rate"].value = rate
    for _ in range(10):
        if not live.play.playing:
            break
        tick(live)
    assert message in live.status.value and not live.play.playing
    assert not any(w.disabled for w in [*live.controls.values(), *live.buttons])
    live.finish()                                              # pressing on does not raise either
    assert "Error" in live.status.value
    live.controls["rate"].value = 2                            # and the next run is sound
    live.finish()
    assert live.result["path"][-1] == 40 and "Error" not in live.status.value


def test_an_error_at_construction_still_shows_the_lab():
    live = Live(Counter, plot, dict(rate=slider("rate", 9, 0, 10, 1)), question="?", steps=20)
    assert "too high to start" in live.status.value and not live.play.playing


def test_prediction_is_kept_and_starts_nothing():
    live = counter(predict=["10", "20"], answer="Look at 20.")
    assert "Choose a prediction" in live.status.value
    run = live.run
    live.prediction.value = "10"
    assert live.run == run and live.status.value == "You predicted: 10. Look at 20."


def test_a_lab_computes_once_for_a_prediction_pin_or_reset():
    calls = []
    lab = Lab(lambda a, b: calls.append((a, b)) or dict(path=[a, b]), plot, dict(a=slider("a", 1, 0, 5, 1), b=slider("b", 1, 0, 5, 1)),
              question="?", predict=["yes", "no"], answer="Look.")
    lab.prediction.value = "yes"
    lab.pin()
    assert calls == [(1, 1)]
    lab.controls["a"].value = 2
    lab.controls["b"].value = 3
    lab.reset()
    assert calls == [(1, 1), (2, 1), (2, 3), (1, 1)]


def test_no_figure_is_left_open():
    import matplotlib.pyplot as plt
    before = plt.get_fignums()
    live = counter()
    live.controls["rate"].value = 2
    live.finish()
    assert plt.get_fignums() == before and matplotlib.get_backend()


def test_both_publish_widget_and_picture():
    bundle = counter()._repr_mimebundle_()
    assert bundle["image/png"] and "application/vnd.jupyter.widget-view+json" in bundle
