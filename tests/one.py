"""One notebook and what belongs to it: python tests/one.py 13 (a lesson's number) or tiles (a name). `make lesson N=13` calls this.

Runs the notebook, moves its labs in the browser, and runs its module's tests, two at a time. Nothing is saved: tests/lessons.py does that.
"""
import sys

import pytest

import lessons

# modules whose tests stand with another's
TESTED_WITH = dict(ancestor="config", build="run", course="labs", degrade="resize", layouts="weights", pixels="image", recipes="config", tiles="inference")

def arguments(name):
    "What to give pytest for the notebook of that name."
    found = [p for p in lessons.road() + lessons.rooms() if p in lessons.named(name)]
    if len(found) != 1:
        sys.exit(f"{name!r} names {len(found) or 'no'} notebook{'s' * (len(found) != 1)}; give N=13, a lesson's number, or NAME=tiles, a notebook's or module's name")
    [path] = found
    tests = lessons.ROOT / "tests"
    where = str(path.relative_to(lessons.NBS).with_suffix(""))
    chosen = [f"{tests / 'test_lessons.py'}::test_lesson_runs[{where}]"] if path in lessons.without_browser() else []
    if (lessons.NBS / "solutions" / path.name).exists() and path in lessons.road():
        chosen.append(f"{tests / 'test_lessons.py'}::test_lesson_runs[solutions/{path.stem}]")
    if lessons.labs(path):
        chosen.insert(0, f"{tests / 'test_browser.py'}::test_every_lab_keeps_its_answer_until_guess_and_move[{where}]")
    module = lessons.module(path)
    own = [tests / f"test_{name}.py" for name in (module, TESTED_WITH.get(module))]
    return chosen + [str(p) for p in own if p.exists()][:1]


if __name__ == "__main__":
    [name] = sys.argv[1:] or [""]
    sys.exit(pytest.main(["-q", "-n", "2", "--dist", "worksteal", "--durations=3", "--rootdir", str(lessons.ROOT), *arguments(name)]))
