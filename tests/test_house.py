"The rules of the house that a machine can check: CONTRIBUTING.md says why."
import ast
import json
import re

import nbformat
import pytest
from nbdev.export import nb_export

import lessons
import readme
from lessons import NBS, ROOT

PICTURES = {p for folder in ("train", "valid", "samples") for p in (ROOT / "data" / folder).iterdir()}


def source(cell):
    return "".join(cell["source"])


def modules():
    "Module name -> the lesson that exports it."
    found = {}
    for path in sorted(NBS.glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            match = re.search(r"^#\|\s*default_exp\s+(\S+)", source(cell), re.M)
            if match:
                found[match.group(1)] = path
    return found


@pytest.mark.parametrize("name, path", modules().items())
def test_package_is_what_the_lessons_export(name, path, tmp_path, monkeypatch):
    monkeypatch.chdir(NBS)
    (tmp_path / "esrdgan").mkdir()
    nb_export(path, lib_path=tmp_path / "esrdgan")
    body = lambda p: p.read_text(encoding="utf-8").split("# %% auto")[1]
    fresh, kept = body(tmp_path / "esrdgan" / f"{name}.py"), body(ROOT / "esrdgan" / f"{name}.py")
    strip = lambda text: re.sub(r"^# %% .*$", "# %%", text, flags=re.M)      # the cell's place, given relative to lib_path
    assert strip(fresh) == strip(kept), f"esrdgan/{name}.py is stale: run nbdev_export"


def test_no_module_without_a_lesson():
    orphans = {p.stem for p in (ROOT / "esrdgan").glob("[!_]*.py")} - set(modules())
    assert not orphans


def test_readme_is_made_from_the_index():
    assert (ROOT / "README.md").read_text(encoding="utf-8") == readme.readme(), "README.md is stale: run python tests/readme.py"


@pytest.mark.parametrize("path", lessons.lessons(), ids=lambda p: str(p.relative_to(NBS)))
def test_lesson_is_saved_clean(path):
    nb = nbformat.read(path, as_version=4)
    nbformat.validate(nb)
    assert "widgets" not in nb.metadata, "widget state in the metadata"
    code = [c for c in nb.cells if c.cell_type == "code"]
    outputs = [o for c in code for o in c.outputs]
    assert not [o for o in outputs if o.output_type == "error"], "a saved error"
    assert not [o for o in outputs if lessons.WIDGET_VIEW in o.get("data", {})], "a saved widget view"
    assert not code or outputs, "no saved outputs: a reader without a kernel sees nothing"
    assert path.stat().st_size < 2_000_000
    saved = path.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.])/(home|root|Users|tmp)/", saved), "a path of somebody's machine"


def imports(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("esrdgan")):
            yield (node.module or "").removeprefix("esrdgan").lstrip(".").split(".")[0]


def test_a_module_imports_only_what_was_built_before_it():
    order = list(modules())
    for name in order:
        for other in imports(ROOT / "esrdgan" / f"{name}.py"):
            assert other in order[:order.index(name)], f"{name} imports {other}, which a later lesson builds"


def test_every_picture_has_its_credit():
    credits = (ROOT / "data" / "CREDITS.md").read_text(encoding="utf-8")
    named = {ROOT / "data" / m for m in re.findall(r"^\| `([^`]+)` \|", credits, re.M)}
    assert named == PICTURES
    assert sum(p.stat().st_size for p in PICTURES) < 15e6
    for row in re.findall(r"^\| `.*$", credits, re.M):
        assert all(cell.strip() for cell in row.strip("|").split("|")), f"an empty cell: {row}"


def test_contributing_maps_every_lesson():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    missing = [p.name for p in NBS.glob("[0-9]*.ipynb") if p.stem not in text]
    assert not missing
