"Every notebook that test_browser.py does not run as a whole runs here from top to bottom, in a fresh kernel with the network blocked."
import pytest

import lessons


@pytest.mark.parametrize("path", lessons.without_browser(), ids=lambda p: str(p.relative_to(lessons.NBS).with_suffix("")))
def test_lesson_runs(path):
    lessons.run(path)


def test_the_runner_blocks_the_network_and_names_the_cell(tmp_path):
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook
    path = tmp_path / "probe.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("1"), new_code_cell("import urllib.request as u; u.urlopen('http://192.0.2.1', timeout=5)")]), path)
    with pytest.raises(AssertionError, match=r"probe.ipynb, cell 1: .*tried to reach the network"):
        lessons.run(path)
