"Lab and Live without a browser: what a hand, a clock and an error do to them; the map, `blank` and `check`."
import base64
import re

import ipywidgets as widgets
import matplotlib
import pytest

from esrdgan.labs import ASK, LAST, PICTURES, RUN, SURPRISE, Lab, Live, Steered, blank, check, figure, slider, whole_gan

GUESS = dict(predict=["10", "20"], right="20", answer="It goes on by rate.", show=dict(rate=4))


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


def rate():
    return dict(rate=slider("rate", 1, 0, 10, 1))


def counter(**kwargs):
    return Live(Counter, plot, rate(), question="How far?", **{"steps": 20, **kwargs})


def lab(**kwargs):
    return Lab(lambda rate: dict(path=[0, rate]), plot, rate(), question="How far?", **kwargs)


def tick(live):
    live.play.value += 1


def play(live):
    while live.play.playing: tick(live)


# ---------------------------------------------------------------- guess and move

@pytest.mark.parametrize("guess, verdict", (("20", "Your prediction held"), ("10", "did not hold: 10. Right is: 20")))
@pytest.mark.parametrize("moved_first", (True, False))
def test_the_answer_needs_a_guess_and_a_move(guess, verdict, moved_first):
    one = lab(**GUESS)
    start = one.image.value, dict(one.result)
    assert "Choose a prediction, then move" in one.status.value
    if moved_first:
        one.controls["rate"].value = 4
        assert (one.image.value, one.result) == start and "Choose a prediction first" in one.status.value
        one.prediction.value = guess
    else:
        one.prediction.value = guess
        assert (one.image.value, one.result) == start and "Now move a control" in one.status.value and "It goes on" not in one.status.value
        one.controls["rate"].value = 4
    assert one.result["path"] == [0, 4] and one.image.value != start[0]
    assert verdict in one.status.value and "It goes on by rate." in one.status.value


def test_a_guess_cannot_be_changed_once_the_picture_has():
    one = lab(**GUESS)
    one.prediction.value = "10"
    assert not one.prediction.disabled                          # nothing was moved yet
    one.prediction.value = "20"
    one.controls["rate"].value = 4
    assert one.prediction.disabled


@pytest.mark.parametrize("kind", (Lab, Live, Steered))
def test_what_a_browser_rounds_is_no_move(kind):
    "A slider that starts at .3 in steps of .1 comes back from the browser as .30000000000000004."
    more = {Lab: {}, Live: dict(steps=20), Steered: dict(steps=20, steers=["rate"], presets={})}[kind]
    core = (lambda rate: dict(path=[0, rate])) if kind is Lab else Counter
    one = kind(core, plot, dict(rate=slider("rate", .3, .1, 2.4, .1)), question="?", predict=["yes", "no"], right="no", answer="Because.", **more)
    start = one.image.value
    for guess in (None, "yes"):
        one.prediction.value = guess
        one.controls["rate"].value = .1 + .1 * 2
        one.controls["rate"].value = .3
        assert one.image.value == start and not one.moved and "Because" not in one.status.value
    one.controls["rate"].value = .4
    assert one.moved


@pytest.mark.parametrize("make", (lab, counter))
def test_reset_brings_everything_back(make):
    one = make(**GUESS)
    picture, status, result = one.image.value, one.status.value, one.result
    one.prediction.value = "10"
    one.controls["rate"].value = 4
    one.pin()
    one.reset()
    assert (one.image.value, one.status.value, one.result) == (picture, status, result)
    assert one.prediction.value is None and not one.prediction.disabled and one.pinned is None and one.values() == {"rate": 1}
    one.controls["rate"].value = 4                              # and the answer is hidden again
    assert one.image.value == picture


def test_the_right_answer_must_be_among_the_predictions():
    with pytest.raises(ValueError, match="'30' is not among"):
        lab(predict=["10", "20"], right="30")


def test_labs_without_a_right_answer_or_predictions_move_at_once():
    one = lab(predict=["10", "20"], answer="Look.")
    one.controls["rate"].value = 4
    assert one.result["path"] == [0, 4] and "Look." not in one.status.value
    one.prediction.value = "10"
    assert "You predict: 10. Look." in one.status.value
    two = lab(answer="Look.")
    assert not two.prediction and "Look." not in two.status.value
    two.controls["rate"].value = 4
    assert two.result["path"] == [0, 4] and "Look." in two.status.value


def test_a_lab_computes_once_for_a_prediction_pin_or_reset():
    calls = []
    one = Lab(lambda a, b: calls.append((a, b)) or dict(path=[a, b]), plot, dict(a=slider("a", 1, 0, 5, 1), b=slider("b", 1, 0, 5, 1)),
              question="?", predict=["yes", "no"], right="yes")
    one.prediction.value = "yes"
    one.pin()
    assert calls == [(1, 1)]
    one.controls["a"].value = 2
    one.controls["b"].value = 3
    one.reset()
    assert calls == [(1, 1), (2, 1), (2, 3), (1, 1)]


# ---------------------------------------------------------------- what is saved in the file

def image_of(html): return base64.b64decode(re.search(r"base64,([^\"]+)\"", html.data)[1])


@pytest.mark.parametrize("make", (lab, counter))
def test_start_and_answer_are_published_and_nothing_moves(make):
    one, there = make(**GUESS), make()
    start, status = one.image.value, one.status.value
    there.controls["rate"].value = 4
    if make is counter: there.finish()
    folded = one.folded()
    assert image_of(folded) == there.image.value != start and folded.data.startswith("<details><summary>") and "20. It goes on by rate." in folded.data
    assert (one.image.value, one.status.value, one.values()) == (start, status, {"rate": 1})
    one.prediction.value = "20"
    one.controls["rate"].value = 4
    bundle = one._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]) == start and "application/vnd.jupyter.widget-view+json" in bundle


# ---------------------------------------------------------------- what stands where

def inside(widget):
    yield widget
    for child in getattr(widget, "children", ()): yield from inside(child)


@pytest.mark.parametrize("number", (3, 12))
def test_controls_stand_in_groups_beside_the_picture(number):
    controls = {f"c{i}": slider(f"c{i}", 1, 0, 5, 1) for i in range(number)}
    one = Lab(lambda **kw: dict(path=[0]), plot, controls, question="?", predict=["yes"], right="yes", groups={"Generator": ["c1", "c2"]})
    assert "esrdgan-lab" in one.box._dom_classes and "esrdgan-lab-status" in one.status._dom_classes
    row = one.box.children[-1]
    assert isinstance(row, widgets.HBox) and row.children[1] is one.image
    column = list(inside(row.children[0]))
    assert all(w in column for w in [*controls.values(), *one.buttons, one.status]) and len([w for w in column if w in controls.values()]) == number
    assert not any(isinstance(w, widgets.VBox) for w in column)        # the lab's box is the nearest VBox around each part
    folds = [w for w in column if isinstance(w, widgets.Accordion)]
    assert bool(folds) == (number > 8)
    if folds:
        assert folds[0].titles == ("Generator",) and [w for w in inside(folds[0]) if w in controls.values()] == [controls["c1"], controls["c2"]]
    else:
        assert [getattr(w, "value", None) for w in column].index("<b>Generator</b>") == column.index(controls["c1"]) - 1


def test_a_long_list_without_groups_folds_what_is_more_than_eight():
    controls = {f"c{i}": slider(f"c{i}", 1, 0, 5, 1) for i in range(11)}
    one = Lab(lambda **kw: dict(path=[0]), plot, controls, question="?")
    [fold] = [w for w in inside(one.box) if isinstance(w, widgets.Accordion)]
    assert [w for w in inside(fold) if w in controls.values()] == [controls[f"c{i}"] for i in (8, 9, 10)] and fold.selected_index is None


# ---------------------------------------------------------------- a lab that trains

@pytest.mark.parametrize("first", (0, 3))
def test_a_live_lab_rests_at_its_start(first):
    live = counter(first=first)
    assert live.done == first and live.result["path"] == list(range(first + 1)) and bytes(live.image.value).startswith(b"\x89PNG")
    assert not live.play.playing and live.progress.description == f"step {first} of 20"
    live.play.playing = True                                   # Play goes on from there
    tick(live)
    assert live.done == first + 1


def test_a_live_lab_says_its_verdict_at_the_end_of_the_run():
    live = counter(**GUESS)
    live.controls["rate"].value = 2
    assert live.result["path"] == [0] and not live.play.playing and "Choose a prediction first" in live.status.value
    live.prediction.value = "20"
    assert live.play.playing and live.done == 0
    while live.play.playing:
        assert "held" not in live.status.value and "It goes on" not in live.status.value
        tick(live)
    assert live.result["path"][-1] == 40 and "Your prediction held" in live.status.value


def test_play_waits_for_a_guess():
    live = counter(**GUESS)
    live.play.playing = True
    tick(live)
    assert live.done == 0 and not live.play.playing and "Choose a prediction first" in live.status.value
    live.prediction.value = "10"
    live.play.playing = True
    play(live)
    assert live.done == 20 and "Now move a control" in live.status.value      # the start's run says nothing of the answer


def test_a_control_starts_a_new_run_that_plays_to_its_end():
    live = counter()
    live.controls["rate"].value = 2
    assert (live.done, live.play.playing, live.result["path"]) == (0, True, [0])
    pictures = set()
    while live.play.playing:
        tick(live)
        pictures.add(live.image.value)
    assert live.done == 20 and live.result["path"][-1] == 40 and len(pictures) > 1 and live.play.value == LAST
    assert sum(live.trainer.calls) == 20 and live.progress.description == "step 20 of 20"


@pytest.mark.parametrize("steps", (7, 60, 130))
def test_a_run_is_cut_into_at_most_sixty_pictures(steps):
    live = counter(steps=steps)
    live.controls["rate"].value = 2
    play(live)
    assert PICTURES == 60 and sum(live.trainer.calls) == steps and len(live.trainer.calls) - 1 <= min(steps, 60) and max(live.trainer.calls) <= -(-steps // 60)


def test_pause_keeps_the_run_and_drops_the_tick_that_came_with_it():
    live = counter()
    live.controls["rate"].value = 2
    tick(live)
    live.play.playing = False
    done, result = live.done, live.result
    tick(live)
    assert (live.done, live.result) == (done, result)
    live.play.playing = True
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
    live.finish()
    run = live.run
    live.play.playing = playing
    live.play.value = 0                                        # what the browser sends
    assert (live.done, live.run, live.play.playing) == (0, run + 1, playing)


def test_the_same_controls_give_the_same_run():
    live = counter()
    live.finish()
    first, picture = live.result, live.image.value
    live.controls["rate"].value = 4
    live.reset()
    assert live.done == 0 and not live.play.playing
    live.play.playing = True
    play(live)
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
    live.finish()
    calls, picture = list(live.trainer.calls), live.image.value
    live.pin()
    assert live.trainer.calls == calls and sum(calls) == 20
    live.controls["rate"].value = 3
    live.finish()
    assert live.pinned["path"][-1] == 20 and live.result["path"][-1] == 60 and live.image.value != picture
    live.pin()
    assert live.pinned["path"][-1] == 60


def test_a_tick_leaves_buttons_and_controls_alone():
    "Else Reset could not be pressed while a run plays."
    live = counter()
    live.controls["rate"].value = 2
    seen = []
    for w in (*live.buttons, *live.controls.values()): w.observe(lambda change: seen.append(change), "disabled")
    tick(live)
    assert not seen


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


def test_no_figure_is_left_open():
    import matplotlib.pyplot as plt
    before = plt.get_fignums()
    live = counter()
    live.controls["rate"].value = 2
    live.finish()
    assert plt.get_fignums() == before and matplotlib.get_backend()


# ---------------------------------------------------------------- a lab that is steered

class Car(Counter):
    "Counts on by `rate`, which can be changed on the way; `offset` is where it begins."
    def __init__(self, rate=1, offset=0):
        super().__init__(rate)
        self.path = [offset]

    def change(self, name, value):
        setattr(self, name, value)

    def one(self, name):
        self.path.append(self.path[-1] + {"up": 100, "down": -100}[name])
        return dict(path=list(self.path))


def car(**kwargs):
    controls = rate() | dict(offset=slider("offset", 0, 0, 50, 10))
    return Steered(Car, plot, controls, question="How far?", steps=20, steers=["rate"], presets={"slow": {}, "fast": dict(rate=4), "late": dict(offset=10)}, hands=["up", "down"], **kwargs)


def test_a_steering_control_acts_on_the_next_step_and_the_run_goes_on():
    one = car(**GUESS)
    one.prediction.value = "20"
    one.press("slow")
    run = one.run
    one.train(5)
    picture = one.image.value
    one.controls["rate"].value = 3
    assert (one.run, one.done, one.result["path"]) == (run, 5, [0, 1, 2, 3, 4, 5]) and one.image.value == picture     # the next step is still to come
    one.train(1)
    assert one.result["path"][-1] == 8
    one.controls["offset"].value = 20                          # this one begins a new run, with the rate as it now is
    assert (one.run, one.done, one.play.playing) == (run + 1, 0, True)
    one.finish()
    assert one.result["path"] == list(range(20, 81, 3)) and "Your prediction held" in one.status.value
    one.controls["rate"].value = 2                             # after the end: a new run, too
    assert (one.run, one.done) == (run + 2, 0)


def test_a_preset_sets_its_controls_and_all_others_as_at_the_start():
    one = car()
    one.controls["offset"].value = 30
    one.press("fast")
    assert one.values() == dict(rate=4, offset=0) and one.done == 0 and one.play.playing
    one.press("late")
    assert one.values() == dict(rate=1, offset=10)
    assert [b.description for b in one.doors] == ["slow", "fast", "late", SURPRISE]


def test_nothing_is_steered_pressed_or_stepped_without_a_guess():
    one = car(**GUESS)
    picture = one.image.value
    for act in (lambda: one.press("fast"), lambda: one.by_hand("up"), lambda: setattr(one.controls["rate"], "value", 2)):
        act()
        assert one.image.value == picture and one.done == 0 and not one.play.playing and "Choose a prediction first" in one.status.value


def test_a_surprise_keeps_its_name_until_a_diagnosis():
    one, seen = car(**GUESS), set()
    one.prediction.value = "20"
    for _ in range(30):
        one.press(SURPRISE)
        assert one.values() == dict(rate=1, offset=0) and not one.diagnosis.disabled       # the controls tell nothing
        one.controls["rate"].value = 1
        one.finish()
        assert "choose a diagnosis" in one.status.value and "it was" not in one.status.value
        truth = {(0, 20): "slow", (0, 80): "fast", (10, 30): "late"}[one.result["path"][0], one.result["path"][-1]]
        assert one.secret == truth
        seen.add(truth)
        other = next(name for name in one.presets if name != truth)
        one.diagnosis.value = other
        assert f"Not so: it was {truth}" in one.status.value
        one.diagnosis.value = truth
        assert f"Right: it was {truth}" in one.status.value
    assert seen == set(one.presets)
    one.reset()
    one.prediction.value = "10"
    one.controls["offset"].value = 20
    one.finish()
    assert one.secret is None and one.diagnosis.value == ASK and one.result["path"][0] == 20 and "diagnosis" not in one.status.value


def test_a_control_moved_during_a_surprise_ends_the_surprise():
    one = car()
    one.press(SURPRISE)
    one.train(5)
    one.controls["rate"].value = 3
    assert one.secret is None and (one.done, one.values()["rate"]) == (0, 3)       # a new run with what the controls say


def test_a_step_by_hand_stops_the_clock_and_counts():
    one = car()
    one.press("slow")
    one.train(5)
    one.by_hand("up")
    assert (one.done, one.result["path"][-1], one.play.playing, one.progress.description) == (6, 105, False, "step 6 of 20")
    one.hands[1].click()
    assert one.result["path"][-1] == 5
    one.train(13)
    assert one.done == 20
    one.by_hand("up")
    assert one.done == 20                                      # a finished run takes no more


def steps_at_ticks(monkeypatch, step, drawing, ticks):
    "How far a run has come after each tick, on a clock that counts: so many seconds for a step, so many for a picture."
    import esrdgan.labs
    one, clock, plain, seen = car(), [0.], Car.step, []
    monkeypatch.setattr(esrdgan.labs.time, "monotonic", lambda: clock[0])

    def slow(self, n):
        clock[0] += step * n
        return plain(self, n)

    monkeypatch.setattr(Car, "step", slow)
    one.press("slow")
    for _ in range(ticks):
        tick(one)
        seen.append(one.done)
        clock[0] += drawing
    return seen


@pytest.mark.parametrize("drawing, made", [(.04, [1, 5, 9, 13]), (.14, [1, 4, 7, 10]), (.4, [1, 2, 3, 4]), (5., [1, 2, 3, 4])])
def test_a_tick_makes_the_steps_that_drawing_leaves_time_for(monkeypatch, drawing, made):
    "A step takes .1 s, from one picture to the next there are .45, and at least one step is made."
    assert steps_at_ticks(monkeypatch, .1, drawing, 4) == made


def test_steps_that_do_not_fit_as_a_whole_are_owed(monkeypatch):
    "A step of .2 s beside .15 s of drawing: one and a half fit, so about every other tick makes two."
    seen = steps_at_ticks(monkeypatch, .2, .15, 7)
    made = [b - a for a, b in zip(seen, seen[1:])]
    assert set(made) == {1, 2} and 8 <= sum(made) <= 10


# ---------------------------------------------------------------- the map and the exercises

def test_the_map_colours_what_is_named():
    def coloured(sheet): return {t.get_text() for t in sheet.axes[0].texts if t.get_color() == "black"}

    assert coloured(whole_gan("D", "pixel loss")) >= {"discriminator\nD", "pixel loss"}
    assert not coloured(whole_gan("D")) & {"pixel loss", "SR", "update"}
    assert coloured(whole_gan()) >= {"HR", "SR", "LR", "shrink", "update", "generator G", "metric", "perceptual\nnetwork"}
    for part in ("LR", "HR", "SR", "shrink", "G", "blocks", "D", "features", "pixel loss", "perceptual loss", "adversarial loss", "metric", "update"):
        assert coloured(whole_gan(part)), part
    with pytest.raises(ValueError, match="'judge'"): whole_gan("judge")


def test_blank_shows_heads_without_bodies():
    text = blank("esrdgan.pixels.to_float").data
    assert '"Whole numbers to a float tensor' in text and "array:np.ndarray,   # (H, W)" in text and text.endswith("    ...\n```") and "from_numpy" not in text
    code = blank("esrdgan.labs.Lab").data
    assert "def refresh(self):\n        ..." in code and "open = refresh" in code and "lambda" not in code
    compile(code.split("```")[1].removeprefix("python"), "blank", "exec")


def test_check_says_right_or_where_to_look_and_never_raises():
    def half(x): return abs(x - .5) < 1e-6

    assert check(.5, half, "how many of two?") and repr(check(.5, half, "")) == "Right."
    assert not check(.7, half, "") and check(.7, half, "how many of two?") == "Not yet: how many of two?"
    assert not check("x", half, "here") and check("x", half, "here").startswith("Not yet: here (TypeError")
    assert check(1, lambda x: 1 / 0, "here").startswith("Not yet: here (ZeroDivisionError")
    assert not check(None, half, "") and "write your answer above" in check(None, half, "").lower()
