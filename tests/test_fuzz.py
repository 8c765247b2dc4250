"""A small share of tests/fuzz.py, and that it would notice."""
import random
import sys

import pytest

fuzz = pytest.importorskip("fuzz", reason="limits of time and memory as Unix has them", exc_type=ImportError)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def readers():
    return fuzz.Readers()


@pytest.mark.parametrize("name", fuzz.READERS)
def test_damaged_input_ends_in_a_result_or_in_one_line(name, readers, tmp_path):
    verdicts = []
    for n in range(40):
        folder = tmp_path / str(n)
        folder.mkdir()
        verdicts.append(fuzz.attempt(readers, name, 0, n, folder))
    assert {*verdicts} == {"result", "refused"}, [(n, v) for n, v in enumerate(verdicts) if v not in ("result", "refused")]


def raising(error): raise error


@pytest.mark.parametrize("read, told", [
    (lambda: raising(KeyError("x")), "KeyError in test_fuzz.py"), (lambda: raising(MemoryError()), "MemoryError"), (lambda: raising(SystemExit(1)), "SystemExit"),
    (lambda: raising(fuzz.ConfigError("two\nlines")), "a message that is no line"), (lambda: raising(fuzz.ConfigError("")), "a message that is no line")])
def test_a_finding_is_told(read, told, monkeypatch, tmp_path):
    monkeypatch.setitem(fuzz.READERS, "planted", lambda readers, draw, folder: (read, fuzz.ConfigError))
    assert told in fuzz.attempt(None, "planted", 0, 0, tmp_path)


def test_an_input_without_end_is_told(monkeypatch, tmp_path):
    def for_ever():
        while True: pass
    monkeypatch.setattr(fuzz, "SECONDS", 1)
    monkeypatch.setitem(fuzz.READERS, "planted", lambda readers, draw, folder: (for_ever, fuzz.WeightsError))
    assert fuzz.attempt(None, "planted", 0, 0, tmp_path) == "longer than 1 s"


def test_changes_depend_on_the_seed_alone():
    one, two, other = (fuzz.change_bytes(bytes(range(200)), random.Random(s)) for s in ("a", "a", "b"))
    assert one == two != other and sys.getsizeof(one) < 10_000
