"""Labs in a real browser: JupyterLab, Chromium, and a hand on the slider.

Every lesson that shows a lab is opened, run, and the first control of each lab is moved by keyboard: the picture must change.
"""
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

from lessons import NBS, ROOT

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SLOW = 300_000      # milliseconds
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine (on Debian: apt install chromium)")


def lab_count(path):
    "How many cells of a lesson end in a lab: a variable bound to Lab(...), alone on the last line."
    code = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    names = set(re.findall(r"^(\w+) = (?:\w+\.)?(?:Lab|Live)\(", "\n".join(code), re.M))
    return sum(c.rstrip().splitlines()[-1].strip() in names for c in code if c.strip())


WITH_LABS = [p for p in sorted(NBS.glob("*.ipynb")) if lab_count(p)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    "JupyterLab over a copy of the lessons and what they read; gives its address."
    home = tmp_path_factory.mktemp("lab")
    shutil.copytree(NBS, home / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    for name in ("data", "weights", "benchmarks"): shutil.copytree(ROOT / name, home / name)
    for path in WITH_LABS:                       # cells marked `eval: false` need a download or minutes
        nb = nbformat.read(path, as_version=4)
        nb.cells = [c for c in nb.cells if not re.search(r"^#\|\s*eval:\s*false", c.source, re.M)]
        nbformat.write(nb, home / "nbs" / path.name)
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
        env=dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT), JUPYTER_CONFIG_DIR=str(home / "config"), HOME=str(home)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
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


def open_and_run(page, address, name):
    "Run all cells of a notebook; comes back as soon as they are on their way."
    page.add_locator_handler(page.locator(".jp-Dialog"), lambda dialog: dialog.locator(".jp-mod-accept").first.click())    # on a slow machine: 'Select Kernel'
    page.goto(f"{address}/lab/tree/nbs/{name}?reset", wait_until="domcontentloaded", timeout=SLOW)
    page.locator(".jp-Notebook").wait_for(timeout=SLOW)
    page.wait_for_function(READY, arg=name, timeout=SLOW)
    page.evaluate("async () => { await jupyterapp.shell.currentWidget.sessionContext.session.kernel.info; jupyterapp.commands.execute('notebook:run-all-cells') }")


@pytest.mark.parametrize("path", WITH_LABS, ids=lambda p: p.stem)
def test_every_lab_moves(path, server, browser):
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    try:
        open_and_run(page, server, path.name)
        images = page.locator("img.widget-image")
        count = lab_count(path)
        images.nth(count - 1).wait_for(timeout=SLOW)
        page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']", timeout=SLOW)
        assert images.count() == count
        for i in range(count):
            lab = images.nth(i).locator("xpath=ancestor::div[contains(@class,'widget-vbox')][1]")
            lab.scroll_into_view_if_needed()
            before = images.nth(i).get_attribute("src")
            handle = lab.locator(".noUi-handle").first
            if handle.count():
                handle.focus()
                handle.press("ArrowRight")
                handle.press("ArrowRight")
            else:
                menu = lab.locator("select").first
                menu.select_option(index=1 if menu.evaluate("e => e.selectedIndex") == 0 else 0)
            page.wait_for_function("([image, before]) => image.src !== before", arg=[images.nth(i).element_handle(), before], timeout=30_000)
    finally:
        page.close()


def test_a_live_lab_plays_pauses_and_starts_anew(server, browser):
    "lesson 08's ring: a move of a control plays, Pause stops after the tick that is under way, Stop rewinds, Play after the end begins again."
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    try:
        open_and_run(page, server, "08_two_players.ipynb")
        lab = page.locator(".widget-play").nth(1).locator("xpath=ancestor::div[contains(@class,'widget-vbox')][1]")
        lab.wait_for(timeout=SLOW)
        page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']", timeout=SLOW)
        lab.scroll_into_view_if_needed()
        step, image = lab.locator(".widget-hprogress .widget-label"), lab.locator("img.widget-image")
        play, stop = lab.locator(".widget-play button").nth(0), lab.locator(".widget-play button").nth(1)

        def reaches(pattern):
            page.wait_for_function("([e, p]) => RegExp(p).test(e.textContent)", arg=[step.element_handle(), pattern], timeout=60_000)

        assert step.text_content() == "step 600 of 600"
        play.click()                                             # after the end: from the start
        reaches("^step [1-9][0-9]? of 600")
        play.click()                                             # Pause
        page.wait_for_timeout(1000)
        page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']", timeout=5000)     # the tick that was under way
        page.wait_for_timeout(500)
        paused, picture = step.text_content(), image.get_attribute("src")
        page.wait_for_timeout(1500)
        assert (step.text_content(), image.get_attribute("src")) == (paused, picture) and paused != "step 600 of 600"
        play.click()                                             # goes on from there
        reaches("^step [1-5][0-9][0-9] of 600")
        stop.click()
        reaches("^step 0 of 600")
        page.wait_for_timeout(1000)
        assert step.text_content() == "step 0 of 600"
        lab.locator("select").nth(1).select_option(index=0)      # another rate for G: a new run that plays by itself
        reaches("^step [1-5][0-9][0-9] of 600")
        lab.get_by_role("button", name="Reset").click()
        reaches("^step 600 of 600")
        assert lab.locator(".widget-html-content").last.text_content().startswith("Choose a prediction")
    finally:
        page.close()
