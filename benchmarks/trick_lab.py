"""How fast lesson 14's live lab is in JupyterLab in Chromium, on this machine: steps and pictures a second, Pause, and what 300 healthy steps bring.

    python benchmarks/trick_lab.py

Needs what the browser tests need. Adds a row to benchmarks/trick_lab.md. Leave the machine alone meanwhile.
"""
import os
import re
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

import test_browser as tb  # noqa: E402  (the hand on a lab is the tests')

HEAD = """# Lesson 14's live lab in JupyterLab in Chromium

Measured by `python benchmarks/trick_lab.py`, which adds a row. *steps/s* and *pictures/s* over a whole healthy run of 300 steps, measuring and drawing included;
*pause*: from the click to the last step that is still made; LPIPS and PSNR of the held-out rocks at the start and at the end, seeds 1, 2, 3.

| processor | arithmetic, threads | steps/s | pictures/s | 300 steps | pause | LPIPS | PSNR |
|---|---|---|---|---|---|---|---|
"""


def main():
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())[1]
    from playwright.sync_api import sync_playwright

    tb.SHORTER.clear()          # the whole run, not the tests' short one

    class Folder:
        def mktemp(self, name):
            return Path(tempfile.mkdtemp())

    tb.THREADS = str(os.cpu_count())
    server = tb.server.__wrapped__(Folder())
    address = next(server)
    [path] = [p for p in tb.WITH_LABS if p.stem == "14_trick_lab"]
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=tb.CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        with tb.Notebook(browser, address, path).run() as notebook:
            lab = tb.LabOnPage(notebook, 0)
            lab.guess(notebook.value("lab.right"))
            lab.box.get_by_role("button", name="healthy", exact=True).click()
            pictures, begin, last = 0, None, lab.picture()
            steps = lab.box.locator(".widget-hprogress .widget-label")
            end = time.monotonic() + 400
            while not steps.text_content().startswith("step 300"):
                assert time.monotonic() < end, f"{steps.text_content()} after 400 s; the lab says {lab.status()!r}"
                notebook.page.wait_for_timeout(20)
                now = lab.picture()
                if now != last:
                    pictures, last = pictures + 1, now
                    begin = begin or time.monotonic()
            seconds = time.monotonic() - begin
            lab.box.get_by_role("button", name="healthy", exact=True).click()          # once more, for Pause
            notebook.page.wait_for_timeout(4000)
            click, seen = time.monotonic(), steps.text_content()
            lab.box.locator(".widget-play button").nth(0).click()
            stopped = click
            while time.monotonic() < click + 4:
                if steps.text_content() != seen:
                    stopped, seen = time.monotonic(), steps.text_content()
                notebook.page.wait_for_timeout(20)
            value = notebook.value("[str(precision), torch.get_num_threads(), *[[ [h['lpips'], h['psnr_y_crop4']] for h in (lambda r: (r.step(STEPS), r.held)[1])(TrickRun(**{**lab.start, **PRESETS['healthy'], 'seed': s})) ][::STEPS // EVERY] for s in (1, 2, 3)]]")
        browser.close()
    precision, threads, *held = value
    row = [model, f"{precision.removeprefix('torch.')}, {threads}", f"{300 / seconds:.1f}", f"{pictures / seconds:.1f}", f"{seconds:.0f} s", f"{stopped - click:.1f} s",
           f"{held[0][0][0]:.3f} to {', '.join(f'{h[-1][0]:.3f}' for h in held)}", f"{held[0][0][1]:.2f} to {', '.join(f'{h[-1][1]:.2f}' for h in held)} dB"]
    out = HERE / "trick_lab.md"
    text = (out.read_text() if out.exists() else HEAD) + f"| {' | '.join(row)} |\n"
    out.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
