"""Run lessons in a fresh kernel with the network blocked.

    python tests/lessons.py [NAME ...]     run these lessons (all when none is named) and save their outputs, cleaned
    python tests/lessons.py --online NAME  the same with the network, cells marked `eval: false` included

Without `--online` a cell marked `eval: false` is passed over and keeps the output it was saved with.
The test suite uses `run` from here, so that what a maintainer saves is what the tests execute.
"""
import os
import re
import sys
import tempfile
import time
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


def lessons():
    "Every lesson and solution, in reading order."
    return sorted(NBS.glob("*.ipynb")) + sorted((NBS / "solutions").glob("*.ipynb"))


def run(path, online=False):
    "Execute one lesson and return it; a failing cell raises an error that names the lesson and the cell."
    nb = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "sitecustomize.py").write_text("" if online else NO_NETWORK)
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
    "Strip what a reader does not need: widget state and views, counts, timings; and text that changes with every run."
    nb.metadata = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    for i, cell in enumerate(nb.cells):
        cell.id, cell.metadata = f"cell-{i}", {}
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
    wanted = [p for p in lessons() if not names or p.stem in names or p.name in names]
    for path in wanted:
        start = time.time()
        nb = run(path, online)
        nbformat.write(nb, path)
        print(f"{path.relative_to(ROOT)}: {time.time() - start:.1f} s, {path.stat().st_size / 1e3:.0f} kB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
