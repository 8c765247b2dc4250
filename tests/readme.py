"""Build README.md from nbs/index.ipynb: python tests/readme.py"""
import posixpath
import re

import nbformat

from lessons import NBS, ROOT


def readme():
    "The text of README.md: the cells of the index, its links turned from the notebooks' folder to the top."
    cells = nbformat.read(NBS / "index.ipynb", as_version=4).cells
    text = "\n\n".join(c.source for c in cells if c.cell_type == "markdown") + "\n"

    def link(match):
        target = match.group(1)
        return match.group(0) if re.match(r"\w+:|#", target) else f"]({posixpath.normpath(posixpath.join('nbs', target))})"
    note = "<!-- made from nbs/index.ipynb by `make lessons`: change it there -->\n\n"
    return note + re.sub(r"\]\(([^)\s]+)\)", link, text)


if __name__ == "__main__":
    (ROOT / "README.md").write_text(readme(), encoding="utf-8")
