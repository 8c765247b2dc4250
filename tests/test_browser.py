"""Labs in a real browser: JupyterLab, Chromium, and a hand on the slider.

Every notebook that shows a lab is opened and run from top to bottom, with the network blocked. Each lab has to keep its answer until there is a guess and a move, to say then whether the guess held, and to fit
into a window of 1300 x 900. A cell that fails ends its test at once, with the notebook, the cell and the error.
"""
import ast
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest

from lessons import CHROMIUM, NBS, ROOT, SHORTER, block_network, labs, with_labs

if not CHROMIUM:
    pytest.skip("no Chromium on this machine (on Debian: apt install chromium)", allow_module_level=True)

THREADS = "1"                              # of a kernel
NOTEBOOK, PICTURE, RUN = 180, 15, 120      # seconds: to run a notebook, to answer a moved control, for a live lab to come to its end
FEW = 12                                   # pictures of a live lab's run, where its end alone is looked at
WINDOW = dict(width=1300, height=900)
WITH_LABS = with_labs()


def name_of(path):
    return path.relative_to(NBS).as_posix()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    "JupyterLab over a copy of the notebooks and what they read; gives its address."
    home = tmp_path_factory.mktemp("lab")
    shutil.copytree(NBS, home / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    for name in ("data", "weights", "benchmarks"):
        shutil.copytree(ROOT / name, home / name)
    for path in WITH_LABS:                       # cells marked `eval: false` need a download or minutes
        nb = nbformat.read(path, as_version=4)
        for cell in nb.cells:
            if re.search(r"^#\|\s*eval:\s*false", cell.source, re.M):
                cell.source = ""
            if path.stem in SHORTER:
                cell.source = cell.source.replace(*SHORTER[path.stem])
        assert path.stem not in SHORTER or any(SHORTER[path.stem][1] in cell.source for cell in nb.cells)
        nbformat.write(nb, home / "nbs" / name_of(path))
    (home / "path").mkdir()
    block_network(home / "path")
    settings = home / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    (settings / "tracker.jupyterlab-settings").write_text(json.dumps({"windowingMode": "none"}))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    # one thread a kernel: with two, beside a busy browser, each waits for the other at every convolution, and a lesson takes many times as long
    process = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--IdentityProvider.token=", f"--notebook-dir={home}",
         f"--LabApp.user_settings_dir={home / 'settings'}", "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"],
        env=dict(os.environ, OMP_NUM_THREADS=THREADS, PYTHONPATH=os.pathsep.join([str(home / "path"), str(ROOT)]), JUPYTER_CONFIG_DIR=str(home / "config"), HOME=str(home)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(120):
        try:
            urllib.request.urlopen(address + "/api", timeout=2)
            break
        except OSError:
            time.sleep(.5)
    else:
        pytest.fail("JupyterLab did not start")
    yield address
    process.terminate()
    process.wait(20)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"])
        yield browser
        browser.close()


# The notebook of that name is in front, and its kernel has answered.
READY = """name => {
    const panel = window.jupyterapp?.shell.currentWidget
    return Boolean(panel?.sessionContext?.path.endsWith(name) && panel.sessionContext.isReady && panel.sessionContext.session?.kernel?.connectionStatus === 'connected')
}"""

START = """async () => {
    await jupyterapp.shell.currentWidget.sessionContext.session.kernel.info
    window.finished = null
    jupyterapp.commands.execute('notebook:run-all-cells').then(() => { window.finished = true })
}"""

# The first cell with an error, in the notebook as it is now; or a kernel that died.
FAILED = """() => {
    const panel = window.jupyterapp?.shell.currentWidget
    const cells = panel?.content?.model?.cells
    for (let i = 0; i < (cells?.length ?? 0); i++) {
        const outputs = cells.get(i).outputs
        for (let j = 0; j < (outputs?.length ?? 0); j++) {
            const out = outputs.get(j).toJSON()
            if (out.output_type === 'error') return `cell ${i}: ${out.ename}: ${out.evalue}\\n${out.traceback.join('\\n')}`
        }
    }
    const status = panel?.sessionContext?.session?.kernel?.status
    return status === 'dead' || status === 'autorestarting' ? 'the kernel died' : null
}"""

EVALUATE = """async code => {
    const kernel = jupyterapp.shell.currentWidget.sessionContext.session.kernel
    const reply = await kernel.requestExecute({code: '', silent: true, store_history: false, user_expressions: {value: code}}).done
    return reply.content.user_expressions.value
}"""

# What a learner must see at once, as [left, top, right, bottom], and the part of the window that shows the notebook.
BOXES = """lab => {
    const box = e => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom] }
    const scroller = lab.closest('.jp-WindowedPanel-outer') ?? lab.closest('.jp-Notebook')
    const first = lab.getBoundingClientRect()
    scroller.scrollBy({top: first.top + first.height / 2 - (scroller.getBoundingClientRect().top + scroller.clientHeight / 2), behavior: 'instant'})
    const all = [...lab.querySelectorAll('.widget-inline-hbox, .widget-play, .jupyter-button, .jupyter-widget-Collapse-header, img.widget-image')]
    return [box(scroller), all.filter(e => e.checkVisibility() && e.getBoundingClientRect().height > 0).map(e => [e.textContent.trim() || e.className, box(e)])]
}"""


class Notebook:
    "One notebook in one page: opened, run, and asked."
    def __init__(self, browser, address, path):
        self.path, self.name, self.opened = path, name_of(path), time.monotonic()
        self.page = page = browser.new_page(viewport=WINDOW)
        page.add_locator_handler(page.locator(".jp-Dialog"), lambda dialog: dialog.locator(".jp-mod-accept").first.click())    # on a slow machine: 'Select Kernel'
        page.goto(f"{address}/lab/tree/nbs/{self.name}?reset", wait_until="domcontentloaded", timeout=1000 * NOTEBOOK)
        self.wait(READY, self.name, NOTEBOOK, "JupyterLab opened it")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        try:
            self.page.evaluate("() => window.jupyterapp?.shell.currentWidget?.sessionContext?.shutdown()")
        finally:
            self.page.close()

    def seconds(self):
        return time.monotonic() - self.opened

    def wait(self, script, arg, seconds, what):
        "Until `script` says yes in the page. A failed cell ends the waiting at once."
        end = time.monotonic() + seconds
        while True:
            failed = self.page.evaluate(FAILED)
            if failed:
                pytest.fail(f"{self.name}, {re.sub(chr(27) + r'.[0-9;]*m', '', failed)}", pytrace=False)
            if self.page.evaluate(script, arg):
                return
            if time.monotonic() > end:
                pytest.fail(f"{self.name}: after {seconds:g} s still not: {what}", pytrace=False)
            self.page.wait_for_timeout(100)

    def run(self):
        self.page.evaluate(START)
        self.wait("() => window.finished", None, NOTEBOOK - self.seconds(), "all cells have run")
        count = len(labs(self.path))
        self.wait("n => document.querySelectorAll('.jp-OutputArea img.widget-image').length === n", count, PICTURE, f"{count} labs are shown")
        return self

    def rest(self):
        "What was moved has reached the kernel, and the kernel has answered."
        self.page.wait_for_timeout(150)
        self.wait("() => Boolean(document.querySelector(\".jp-Notebook-ExecutionIndicator[data-status='idle']\"))", None, PICTURE, "the kernel rests")
        self.page.wait_for_timeout(50)

    def pictures_of_a_run(self, count):
        "A live lab draws so many pictures on its way: the same steps, in fewer ticks or more."
        self.value(f"setattr(__import__('esrdgan.labs').labs, 'PICTURES', {count})")

    def value(self, code):
        "The value of an expression in the notebook's kernel."
        reply = self.page.evaluate(EVALUATE, f"__import__('json').dumps({code})")
        assert reply["status"] == "ok", f"{self.name}: {code}: {reply}"
        return json.loads(ast.literal_eval(reply["data"]["text/plain"]))


class LabOnPage:
    "The hand on one lab."
    def __init__(self, notebook, number):
        self.notebook, self.name = notebook, labs(notebook.path)[number][1]
        self.image = notebook.page.locator(".jp-OutputArea img.widget-image").nth(number)
        self.box = self.image.locator("xpath=ancestor::div[contains(@class,'jp-OutputArea-output')][1]")
        self.box.scroll_into_view_if_needed()
        self.live = notebook.value(f"hasattr({self.name}, 'play')")

    def fail(self, what):
        pytest.fail(f"{self.notebook.name}, {self.name}: {what}; the lab says: {self.status()!r}", pytrace=False)

    def status(self):
        return self.box.locator(".esrdgan-lab-status").text_content().strip()

    def picture(self):
        return self.image.get_attribute("src")

    def reset(self):
        self.box.get_by_role("button", name="Reset", exact=True).click()
        self.notebook.rest()

    def guess(self, text):
        self.box.locator(".widget-toggle-buttons").first.get_by_role("button", name=text, exact=True).click()
        self.notebook.rest()

    def move(self):
        "Move the first control that is not the guess, by keyboard where it is a slider."
        handle, menu = self.box.locator(".noUi-handle:visible").first, self.box.locator("select:visible").first
        tick, toggles = self.box.locator("input[type=checkbox]:visible").first, self.box.locator(".widget-toggle-buttons:visible")
        if handle.count():
            handle.focus()
            at, top = (float(handle.get_attribute(f"aria-value{which}")) for which in ("now", "max"))
            for _ in range(2):
                handle.press("ArrowLeft" if at == top else "ArrowRight")
        elif menu.count():
            menu.select_option(index=1 if menu.evaluate("e => e.selectedIndex") == 0 else 0)
        elif tick.count():
            tick.click()
        else:
            toggles.nth(1).locator("button:not(.mod-active)").first.click()

    def changed(self, before, seconds=PICTURE):
        self.notebook.wait("([image, before]) => image.src !== before", [self.image.element_handle(), before], seconds, f"the picture of {self.name} changed; it says {self.status()!r}")

    def says(self, pattern, seconds=PICTURE):
        status = self.box.locator(".esrdgan-lab-status").element_handle()
        self.notebook.wait("([e, p]) => RegExp(p).test(e.textContent)", [status, pattern], seconds, f"{self.name} says {pattern!r} instead of {self.status()!r}")

    def fits_the_window(self):
        (left, top, right, bottom), boxes = self.box.evaluate(BOXES)
        outside = [what for what, (a, b, c, d) in boxes if a < left - 1 or b < top - 1 or c > right + 1 or d > bottom + 1]
        if len(boxes) < 2 or outside:
            height = max(b[3] for _, b in boxes) - min(b[1] for _, b in boxes)
            self.fail(f"{height:.0f} px of controls and picture do not fit into the {bottom - top:.0f} px that a window of 900 px shows; outside: {outside}")

    def keeps_its_answer(self):
        "Nothing before there is a guess and a move; then the picture changes, and the lab says whether the guess held."
        answer, right, options, hidden = self.notebook.value(
            f"[{self.name}.answer, {self.name}.right, list({self.name}.prediction.options) if {self.name}.prediction else [], {self.name}.start != {{**{self.name}.start, **{self.name}.show}}]")
        if right not in options or not answer:
            self.fail("a lab needs predict=, right= and answer=")
        if not hidden and not self.live:
            self.fail("it starts at the answer: `show` says nothing else than the start")
        words = self.box.evaluate("(box, html) => { const e = document.createElement('div'); e.innerHTML = html; return e.textContent.trim() }", answer)

        def silent(when):
            told = self.box.text_content()
            if words in told or re.search(r"[Yy]our prediction (held|did not hold)", told):
                self.fail(f"it tells the answer {when}")

        silent("at the start")
        start = self.picture()
        self.move()
        self.notebook.rest()
        silent("without a guess")
        if self.picture() != start:
            self.fail("its picture follows a control without a guess")
        self.reset()
        guess = options[0]
        start = self.picture()
        self.guess(guess)
        silent("before a control was moved")
        if self.picture() != start:
            self.fail("a guess alone changed its picture")
        self.move()
        self.changed(start)
        self.says("Your prediction held" if guess == right else "Your prediction did not hold", RUN if self.live else PICTURE)
        if words not in self.box.text_content():
            self.fail("it does not say why")


def plays_pauses_and_starts_anew(lab):
    "Nothing plays without a guess; then a move of a control plays, Pause stops after the tick that is under way, Stop rewinds, Reset forgets the guess."
    notebook = lab.notebook
    lab.reset()
    steps, first = notebook.value(f"[{lab.name}.steps, {lab.name}.first]")
    step = lab.box.locator(".widget-hprogress .widget-label")
    play, stop = lab.box.locator(".widget-play button").nth(0), lab.box.locator(".widget-play button").nth(1)

    def done():
        return int(re.match(rf"step (\d+) of {steps}$", step.text_content()).group(1))

    def passes(n):
        notebook.wait("([e, n]) => Number(e.textContent.split(' ')[1]) > n", [step.element_handle(), n], PICTURE, f"past step {n}")

    assert done() == first
    play.click()
    notebook.page.wait_for_timeout(1000)
    assert done() == first, "it plays without a guess"
    lab.guess(notebook.value(f"{lab.name}.right"))
    lab.move()
    passes(0)
    play.click()                                             # Pause
    notebook.page.wait_for_timeout(1000)
    notebook.rest()                                          # the tick that was under way
    paused, picture = done(), lab.picture()
    notebook.page.wait_for_timeout(1500)
    assert (done(), lab.picture()) == (paused, picture) and paused < steps
    play.click()                                             # goes on from there
    passes(paused)
    stop.click()
    notebook.page.wait_for_timeout(1000)
    notebook.rest()
    assert done() == 0
    notebook.pictures_of_a_run(FEW)
    lab.move()                                               # a new run that plays by itself
    passes(0)
    lab.says("Your prediction held", RUN)
    assert done() == steps
    lab.reset()
    assert done() == first and lab.status().startswith("Choose a prediction")


@pytest.mark.parametrize("path", WITH_LABS, ids=lambda p: str(p.relative_to(NBS).with_suffix("")))
def test_every_lab_keeps_its_answer_until_guess_and_move(path, server, browser):
    "And in lesson 08 the first live lab is played, paused, stopped and begun anew."
    with Notebook(browser, server, path).run() as notebook:
        assert notebook.value("__import__('socket').socket.connect.__module__") == "sitecustomize", "the network is not blocked"
        played, as_shipped = path.stem != "08_two_players", notebook.value("__import__('esrdgan.labs').labs.PICTURES")
        for number in range(len(labs(path))):
            lab = LabOnPage(notebook, number)
            lab.fits_the_window()
            if path.stem != "01_see":
                notebook.pictures_of_a_run(FEW)
            lab.keeps_its_answer()
            if path.stem == "01_see" and lab.live:
                assert notebook.seconds() < 180, "from opening lesson 01 to one's own GAN at the end of its training"
            if lab.live and not played:
                notebook.pictures_of_a_run(as_shipped)
                plays_pauses_and_starts_anew(lab)
                played = True
        assert played
