"The rules of the house that a machine can check: CONTRIBUTING.md says why."
import ast
import re
from functools import cache

import nbformat
import pytest
from nbdev.export import nb_export

import lessons
import readme
from lessons import NBS, ROOMS, ROOT

PICTURES = {p for folder in ("train", "valid", "samples") for p in (ROOT / "data" / folder).iterdir()}
PACKAGE = ROOT / "esrdgan"
ROAD, BESIDE = lessons.road(), lessons.rooms()
MODULES = {lessons.module(p): p for p in ROAD + BESIDE if lessons.module(p)}

WORDS, CODE_CELLS = dict(lesson=1500, room=900), dict(lesson=35, room=30)
LONGER = {"11_losses": 2000, "13_loop": 2000, "17_bug_museum": 2000}     # words; three exceptions, no more
ROAD_WORDS, IDLE, MOST_MODULES = 22_000, 8, 37
HEAD = re.compile(r"^### Exercise \d+ · difficulty [1-5] of 5 · importance [1-5] of 5 · \d+ min$")


def where(path):
    return str(path.relative_to(NBS).with_suffix(""))


@cache
def read(path):
    return nbformat.read(path, as_version=4)


def cells(path, kind=None):
    "(number, text) of a notebook's cells, all or of one kind."
    return [(i, c.source) for i, c in enumerate(read(path).cells) if kind in (None, c.cell_type)]


def each(paths):
    return pytest.mark.parametrize("path", paths, ids=where)


# The tree

def test_the_road_is_numbered_without_gap_or_letter():
    assert [p.stem[:3] for p in ROAD] == [f"{n:02d}_" for n in range(1, 18)]
    assert {p.name for p in NBS.glob("*.ipynb")} - {p.name for p in ROAD} == {"index.ipynb"}


def test_the_folders_beside_the_road():
    folders = {p.name for p in NBS.iterdir() if p.is_dir() and not p.name.startswith(".")} - {"_proc"}
    assert folders == {*ROOMS, "solutions", "images"}
    assert not [p for p in NBS.rglob("*.ipynb") if p not in lessons.lessons() and ".ipynb_checkpoints" not in p.parts]


def test_solutions_belong_to_lessons_of_the_road():
    assert {p.stem for p in lessons.solutions()} == {p.stem for p in ROAD if exercises(p)}, "a room's solutions stand folded at its own end"


# The package

@pytest.mark.parametrize("name, path", MODULES.items())
def test_package_is_what_the_notebooks_export(name, path, tmp_path, monkeypatch):
    monkeypatch.chdir(NBS)
    (tmp_path / "esrdgan").mkdir()
    nb_export(path, lib_path=tmp_path / "esrdgan")

    def body(folder):
        text = (folder / f"{name}.py").read_text(encoding="utf-8").split("# %% auto")[1]
        return re.sub(r"^# %% .*$", "# %%", text, flags=re.M)            # the cell's place, given relative to lib_path

    assert body(tmp_path / "esrdgan") == body(PACKAGE), f"esrdgan/{name}.py is stale: run make lessons"


def test_every_module_has_one_notebook():
    files = {p.stem for p in PACKAGE.glob("*.py") if not p.name.startswith("_")}
    assert not files - set(MODULES), "a module without a notebook"
    assert not set(MODULES) - files, "a notebook whose module is not there: run make lessons"
    assert sorted(MODULES.values()) == sorted(p for p in ROAD + BESIDE if lessons.module(p)), "two notebooks export one module"
    assert all(lessons.module(p) == p.stem for p in BESIDE), "a room has the name of its module"
    assert len(files) <= MOST_MODULES


def imports(path):
    "The modules of esrdgan that a file reads, anywhere in it, by any kind of import."
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("esrdgan."))
        if isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            if module in (".", "esrdgan"):
                yield from (a.name for a in node.names if a.name in MODULES)
            elif module.startswith((".", "esrdgan.")):
                yield module.removeprefix("esrdgan").lstrip(".").split(".")[0]


USES = {name: set(imports(PACKAGE / f"{name}.py")) for name in MODULES if (PACKAGE / f"{name}.py").exists()}


def test_no_module_imports_itself_round_a_corner():
    done = set()

    def visit(name, way):
        assert name not in way, " -> ".join([*way[way.index(name):], name])
        if name not in done:
            for other in sorted(USES.get(name, ())):
                visit(other, [*way, name])
            done.add(name)
    for name in USES:
        visit(name, [])


@pytest.mark.parametrize("name", USES)
def test_a_module_imports_only_what_there_is(name):
    assert USES[name] <= set(MODULES)


@pytest.mark.parametrize("name", [n for n, p in MODULES.items() if p in ROAD])
def test_a_lesson_builds_on_lower_lessons_and_on_rooms(name):
    for other in USES[name]:
        assert MODULES[other] in BESIDE or MODULES[other] < MODULES[name], f"{name} imports {other}, built by the later {MODULES[other].stem}"


GONE = "(?:settings|report|commands|household)"
OLD = re.compile(rf"\bfrom\s+(?:esrdgan)?\.{GONE}\b|\bimport\s+esrdgan\.{GONE}\b|\bfrom\s+(?:esrdgan|\.)\s+import\s[^#\n]*\b{GONE}\b")


def test_nothing_imports_a_module_that_was_merged_away():
    texts = {p.relative_to(ROOT): p.read_text(encoding="utf-8") for folder in ("esrdgan", "tests", "benchmarks", "weights") for p in (ROOT / folder).rglob("*.py")}
    texts |= {p.relative_to(ROOT): "\n".join(text for _, text in cells(p)) for p in lessons.lessons()}
    assert not {str(p): m.group(0) for p, text in texts.items() for m in [OLD.search(text)] if m}


# What is written about it

def test_contributing_maps_every_notebook():
    "One row a notebook: | `09_discriminator` | `discriminator` | what it owns | what its module imports |; a room as `networks/tiles`, no module as -."
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = {}
    for line in re.findall(r"^\| `[\w/]+` \|.*$", text, re.M):
        name, module, owns, uses = (cell.strip() for cell in line.strip().strip("|").split("|"))
        assert owns, f"{name}: what does it own?"
        assert name not in rows, f"{name} has two rows"
        rows[name.strip("`")] = (module.strip("`"), uses)
    assert list(rows) == [where(p) for p in ROAD + BESIDE], "the map is stale: other notebooks, or another order"
    for path in ROAD + BESIDE:
        module, uses = rows[where(path)]
        assert module == (lessons.module(path) or "-"), f"{where(path)} in the map"
        if module != "-":
            told = set(re.findall(r"\w+", uses))
            assert told == USES[module], f"{where(path)}: the map says it uses {sorted(told)}; its module imports {sorted(USES[module])}"


def test_readme_is_made_from_the_index():
    assert (ROOT / "README.md").read_text(encoding="utf-8") == readme.readme(), "README.md is stale: run python tests/readme.py"


@each(lessons.lessons())
def test_links_of_a_notebook_lead_somewhere(path):
    assert not dead_links(path.parent, "\n".join(text for _, text in cells(path, "markdown")))


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_of_a_page_lead_somewhere(name):
    assert not dead_links(ROOT, (ROOT / name).read_text(encoding="utf-8"))


def dead_links(folder, text):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)
    targets = re.findall(r"\]\(([^)\s]+)[^)]*\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    return [t for t in targets if not re.match(r"\w+:|#", t) and not (folder / t.split("#")[0]).exists()]


def test_every_picture_has_its_credit():
    credits = (ROOT / "data" / "CREDITS.md").read_text(encoding="utf-8")
    named = {ROOT / "data" / m for m in re.findall(r"^\| `([^`]+)` \|", credits, re.M)}
    assert named == PICTURES
    assert sum(p.stat().st_size for p in PICTURES) < 15e6
    for row in re.findall(r"^\| `.*$", credits, re.M):
        assert all(cell.strip() for cell in row.strip("|").split("|")), f"an empty cell: {row}"


# A notebook

@each(lessons.lessons())
def test_notebook_is_saved_clean(path):
    nb = read(path)
    nbformat.validate(nb)
    assert "widgets" not in nb.metadata, "widget state in the metadata"
    assert not [i for i, c in enumerate(nb.cells) if c.metadata not in ({}, {"jupyter": {"source_hidden": True}})], "cell metadata beyond a fold"
    code = [c for c in nb.cells if c.cell_type == "code"]
    outputs = [o for c in code for o in c.outputs]
    assert not [o for o in outputs if o.output_type == "error"], "a saved error"
    assert not [o for o in outputs if lessons.WIDGET_VIEW in o.get("data", {})], "a saved widget view"
    assert not code or outputs, "no saved outputs: a reader without a kernel sees nothing"
    assert path.stat().st_size < 2_000_000
    saved = path.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.])/(home|root|Users|tmp)/", saved), "a path of somebody's machine"


@each(ROAD)
def test_a_lesson_opens_with_its_number_its_head_and_the_whole_gan(path):
    title = cells(path)[0][1]
    assert title.startswith(f"# {path.stem[:2]} · "), "the title: # 09 · The discriminator"
    builds = lessons.module(path)
    head = [line for line in title.splitlines() if re.match(r"\d+ min · .*difficulty [1-5] of 5$", line)]
    assert head, "the head: 45 min · after 02, 05 · builds esrdgan.blocks · difficulty 2 of 5"
    assert not builds or f"builds esrdgan.{builds} " in head[0].replace("`", "")
    assert all(int(n) < int(path.stem[:2]) for part in re.findall(r"after ([\d, ]+)", head[0]) for n in re.findall(r"\d+", part)), "it comes after a later lesson"
    shown = [i for i, text in cells(path, "code") if "whole_gan(" in text]
    assert shown and shown[0] <= 2, "the map of the whole GAN stands right below the title"


@each(ROAD + BESIDE)
def test_every_lab_is_followed_by_its_folded_answer(path):
    shown, texts = lessons.labs(path), dict(cells(path))
    assert len({name for _, name in shown}) == len(shown), "two labs of one name"
    for i, name in shown:
        after = texts.get(i + 1, "").strip().removeprefix("#| eval: false\n")      # where the answer takes minutes
        assert after == f"{name}.folded()", f"cell {i}: the next cell must be {name}.folded(), for readers without a kernel"
    for i, text in cells(path, "code"):
        if not re.search(r"^[%!]", text, re.M):
            end = ast.parse(text).body[-1:]
            call = end and isinstance(end[0], ast.Expr) and isinstance(end[0].value, ast.Call) and ast.unparse(end[0].value.func)
            assert call not in ("Lab", "Live", "Steered", "labs.Lab", "labs.Live", "labs.Steered"), f"cell {i}: a lab needs a name, so that name.folded() can follow"


def exercises(path):
    "(cell, head, what follows up to the next heading) of a notebook's exercises."
    found = []
    for i, c in enumerate(read(path).cells):
        for line in c.source.splitlines() if c.cell_type == "markdown" else ():
            if re.match(r"(#+ |\*\*)Exercise\b(?!s)", line):
                found.append([i, line, ""])
            elif re.match(r"#+ ", line) and found:
                found.append(None)
        if found and found[-1]:
            found[-1][2] += c.source + "\n"
    return [f for f in found if f]


@each(ROAD + BESIDE)
def test_every_exercise_says_how_hard_how_important_and_how_long(path):
    found = exercises(path)
    assert found or path in BESIDE, "a lesson has exercises"
    for i, head, text in found:
        assert HEAD.match(head), f"cell {i}: {head}"
        if path in ROAD:
            assert "check(" in text or "blank(" in text, f"cell {i}: nothing checks the answer"
            assert "<details>" in text, f"cell {i}: no folded hint"


@each([p for p in ROAD if lessons.module(p)])
def test_a_lesson_that_exports_has_a_function_to_write_oneself(path):
    assert f"blank('esrdgan.{lessons.module(path)}." in "".join(text for _, text in cells(path, "code")).replace('"', "'")


# Budgets

def something_to_do(cell):
    "A prediction, a lab, an exercise, a picture: what keeps a reader's hands or eyes busy."
    if cell.cell_type == "markdown":
        return bool(re.search(r"\bpredict|\bexercise|\btry it|\bguess", cell.source, re.I))
    pictures = any(kind.startswith("image/") for o in cell.outputs for kind in o.get("data", {}))
    return pictures or bool(re.search(r"\b(Lab|Live|Steered)\(|\bcheck\(|\bblank\(", cell.source))


def size(path):
    "(words of prose, code cells, longest run of cells with nothing to do, where that begins)"
    nb = read(path)
    words = sum(len(c.source.split()) for c in nb.cells if c.cell_type == "markdown")
    longest, begins, start = 0, 0, 0
    for i, cell in enumerate(nb.cells):
        if something_to_do(cell):
            start = i + 1
        elif i + 1 - start > longest:
            longest, begins = i + 1 - start, start
    return words, sum(c.cell_type == "code" for c in nb.cells), longest, begins


@each(ROAD)
def test_a_lesson_keeps_its_budget(path):
    words, code, idle, begins = size(path)
    assert words <= LONGER.get(path.stem, WORDS["lesson"])
    assert code <= CODE_CELLS["lesson"]
    assert idle <= IDLE, f"{idle} cells from cell {begins} on with nothing to predict, move, look at or try"


@each(BESIDE)
def test_a_room_keeps_its_budget(path):
    words, code, _, _ = size(path)
    assert words <= WORDS["room"]
    assert code <= CODE_CELLS["room"]


def test_the_road_keeps_its_budget():
    sizes = {where(p): size(p) for p in ROAD + BESIDE}
    for name, (words, code, idle, _) in sizes.items():
        print(f"{name:28}{words:6,} words{code:4} code cells{idle:4} cells idle at most")
    total = sum(sizes[where(p)][0] for p in ROAD)
    print(f"{'the road':28}{total:6,} words")
    assert total <= ROAD_WORDS and len(LONGER) <= 3
