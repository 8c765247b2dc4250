"""Run notebooks in a fresh kernel with the network blocked: the lessons of the road, the rooms beside it, and the solutions.

    python tests/lessons.py [NAME ...]     run these notebooks (all when none is named) and save their outputs, cleaned; a name is a
                                           file's stem (13_loop, tiles), a lesson's number (13) or a path; a lesson's solutions run with it
    python tests/lessons.py --online NAME  the same with the network, cells marked `eval: false` included

Without `--online` a cell marked `eval: false` is passed over and keeps the output it was saved with.
The test suite uses `run` from here, so that what a maintainer saves is what the tests execute.
"""
import json
import os
import re
import shutil
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"

# Put first on the kernel's path as `sitecustomize`: any connection that leaves this machine is an error.
NO_NETWORK = '''
import socket
_connect = socket.socket.connect
def connect(self, address):
    if self.family != getattr(socket, "AF_UNIX", None) and str(address[0]) not in ("127.0.0.1", "::1", "localhost"):
        raise OSError(f"a lesson tried to reach the network: {address}")
    return _connect(self, address)
socket.socket.connect = socket.socket.connect_ex = connect
'''


class Client(NotebookClient):
    "Passes over the cells marked `eval: false`."
    async def async_execute_cell(self, cell, cell_index, **kwargs):
        if re.search(r"^#\|\s*eval:\s*false", cell.source, re.M):
            return cell
        return await super().async_execute_cell(cell, cell_index, **kwargs)


ROOMS = ("pictures", "networks", "training", "tool")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SHORTER = {"14_trick_lab": ("STEPS = 300 ", "STEPS = 40 ")}    # a live run that is long in the lesson is cut short in the browser; tests/test_trick_lab.py trains it


def road():
    "The numbered lessons, in reading order."
    return sorted(NBS.glob("[0-9]*.ipynb"))


def rooms():
    "The notebooks beside the road, folder by folder."
    return [path for folder in ROOMS for path in sorted((NBS / folder).glob("*.ipynb"))]


def solutions():
    return sorted((NBS / "solutions").glob("*.ipynb"))


def lessons():
    "Every notebook, in reading order."
    return [*road(), NBS / "index.ipynb", *rooms(), *solutions()]


def named(name):
    "The notebooks that a stem, a lesson's number or a path means."
    name = name.removesuffix(".ipynb").removeprefix("nbs/")
    number = f"{int(name):02d}_" if name.isdecimal() else None
    return [p for p in lessons() if name and name in (p.stem, p.stem.partition("_")[2], str(p.relative_to(NBS).with_suffix(""))) or number and p.stem.startswith(number)]


def code(path):
    "(number, text) of a notebook's code cells; nbformat 4 may hold a text in pieces."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [(i, "".join(c["source"])) for i, c in enumerate(cells) if c["cell_type"] == "code"]


def module(path):
    "The module of esrdgan that a notebook exports; None when it exports none."
    for _, text in code(path):
        match = re.search(r"^#\|\s*default_exp\s+(\S+)", text, re.M)
        if match:
            return match.group(1)


def labs(path):
    "(cell, name) of every lab that a notebook shows: a variable bound to Lab(...) or Live(...), alone on the last line of a cell."
    names = set(re.findall(r"^(\w+) = (?:\w+\.)?(?:Lab|Live|Steered)\(", "\n".join(text for _, text in code(path)), re.M))
    last = [(i, text.rstrip().splitlines()[-1].strip()) for i, text in code(path) if text.strip()]
    return [(i, line) for i, line in last if line in names]


def with_labs():
    "The notebooks that show a lab: tests/test_browser.py opens each, runs all of its cells and moves its labs."
    return [p for p in road() + rooms() if labs(p)]


def without_browser():
    "The notebooks that nothing runs but `run`: those without a lab, one that the browser sees cut short, all of them where there is no Chromium."
    seen = {p for p in with_labs() if p.stem not in SHORTER} if CHROMIUM else set()
    return [p for p in lessons() if p not in seen]


def block_network(folder):
    "Write what keeps a Python off the network that has `folder` on its path."
    Path(folder, "sitecustomize.py").write_text(NO_NETWORK)


@contextmanager
def names_of(path, marks):
    "What a notebook's code cells define: of each text in `marks` the one cell that holds it, executed in the notebook's folder on one thread."
    import torch        # only tests of trainings need it
    texts, names, here, threads = [text for _, text in code(path)], {}, os.getcwd(), torch.get_num_threads()
    os.chdir(path.parent)
    torch.set_num_threads(1)
    try:
        for mark in marks:
            [text] = [t for t in texts if mark in t]
            exec(text, names)
        yield names
    finally:
        os.chdir(here)
        torch.set_num_threads(threads)


def run(path, online=False):
    "Execute one notebook in its own folder and return it; a failing cell raises an error that names the notebook and the cell."
    nb = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        if not online:
            block_network(folder)
        env = dict(os.environ, PYTHONPATH=os.pathsep.join([folder, str(ROOT)]), MPLBACKEND="module://matplotlib_inline.backend_inline")
        kind = NotebookClient if online else Client
        client = kind(nb, timeout=3600 if online else 180, kernel_name="python3", store_widget_state=False, resources={"metadata": {"path": str(path.parent)}})
        client.on_cell_start = lambda cell, cell_index: reached.append(cell_index)
        reached = []
        try:
            client.execute(env=env)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            what = f"{error.ename}: {error.evalue}" if isinstance(error, CellExecutionError) else type(error).__name__
            raise AssertionError(f"{path.parent.name}/{path.name}, cell {reached[-1]}: {what}\n{error}") from None
    return clean(nb)


def clean(nb):
    "Strip what a reader does not need: widget state and views, counts, timings; and text that changes with every run. A folded cell stays folded."
    nb.metadata = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    for i, cell in enumerate(nb.cells):
        folded = cell.metadata.get("jupyter", {}).get("source_hidden")
        cell.id, cell.metadata = f"cell-{i}", {"jupyter": {"source_hidden": True}} if folded else {}
        if cell.cell_type != "code":
            continue
        cell.execution_count = None
        for out in cell.outputs:
            if out.output_type == "execute_result":
                out.execution_count = None
            data = out.get("data", {})
            data.pop(WIDGET_VIEW, None)
            if "image/png" in data:
                data["image/png"] = data["image/png"].strip()
            if "text/plain" in data:
                data["text/plain"] = re.sub(r" at 0x[0-9a-f]+", "", data["text/plain"])
            if "metadata" in out:
                out["metadata"] = {}
    return nb


def main(names):
    online = "--online" in names
    names = [n for n in names if n != "--online"]
    unknown = [n for n in names if not named(n)]
    if unknown:
        sys.exit(f"no notebook is called {', '.join(unknown)}")
    wanted = {p for n in names for p in named(n)}
    for path in [p for p in lessons() if p in wanted or not names]:
        start = time.time()
        nb = run(path, online)
        nbformat.write(nb, path)
        print(f"{path.relative_to(ROOT)}: {time.time() - start:.1f} s, {path.stat().st_size / 1e3:.0f} kB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
