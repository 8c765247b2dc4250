# make demo   photographs four times larger, beside bicubic and the truth, with figures
# make lab    the lessons in JupyterLab
# make test   every lesson in a fresh kernel without network, every lab moved in Chromium, and the tests in tests/
# make lesson N=13  one notebook (NAME=tiles: a room by its name), its labs in Chromium and its module's tests: about a minute
# make browser  the labs alone
# make train DATA=folder  train the weights in weights/ once more (RECIPE=tiny-psnr: the small ones); Ctrl-C saves, the same line goes on
# make bench  speed and memory beside peers, as ratios
# make lessons  run every lesson, save its outputs, export the package, rebuild README.md (for those who change a lesson)
# Each makes .venv and installs what it needs when that is missing or settings.ini changed.

PYTHON ?= python3
BIN := .venv/bin
RECIPE := mini-psnr
DATA ?= $(ESRDGAN_DATA:%=%/bsds400)

.PHONY: demo lab train test lesson browser bench lessons clean

demo: .venv/core
	$(BIN)/esrdgan demo --out out/demo

lab: .venv/lessons
	$(BIN)/jupyter lab --notebook-dir=. nbs/01_see.ipynb

train: .venv/core
	@test -n "$(DATA)" || { echo "give a folder of large pictures: make train DATA=folder (weights/mini-psnr.md says which ones the shipped weights learned from)"; exit 1; }
	$(BIN)/esrdgan train --recipe $(RECIPE) --data "$(DATA)" --resume

test: .venv/test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -q -n 2 --dist worksteal --durations=10 -rs

lesson: .venv/test
	@OMP_NUM_THREADS=1 $(BIN)/python tests/one.py "$(or $(NAME),$(N))"

browser: .venv/test
	$(BIN)/python -m pytest tests/test_browser.py -q -n 2 --dist worksteal

bench: .venv/test
	$(BIN)/python benchmarks/inference.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/folder.py

lessons: .venv/test
	$(BIN)/nbdev_export
	$(BIN)/python tests/lessons.py
	$(BIN)/python tests/readme.py

.venv/bin/pip:
	$(PYTHON) -m venv .venv || { echo "python3 with venv is needed (on Debian and Ubuntu: apt install python3-venv)"; rm -rf .venv; exit 1; }

.venv/core: settings.ini setup.py | .venv/bin/pip
	$(BIN)/pip install --quiet --no-compile --editable .
	@touch $@

.venv/lessons: settings.ini setup.py | .venv/bin/pip
	$(BIN)/pip install --quiet --no-compile --editable '.[lessons]'
	@touch $@ .venv/core

.venv/test: settings.ini setup.py | .venv/bin/pip
	$(BIN)/pip install --quiet --no-compile --editable '.[lessons,test]'
	@touch $@ .venv/core .venv/lessons

clean:
	rm -rf .venv out build dist *.egg-info
