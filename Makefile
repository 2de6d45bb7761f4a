# On a fresh machine only Python >= 3.11 and make are needed: every target sets up .venv first.
#
#   make walkthrough   the main job: all chapters run. In build/walkthrough/: what they found on one page, summary.md,
#                      certificate.html, each chapter as a page, figures/; with AT_ONCE=2 two chapters at a
#                      time, once all is kept
#   make notebooks     run all notebooks in order, and keep what is committed: their outputs, figures/ and the
#                      summary in it
#   make lab           JupyterLab on the notebooks
#   make test          lint, types and the quick tests, two at a time
#   make test-late     what the replica has been tried with on the pocket model too, and the cluster
#   make test-all      everything, the notebooks on the pocket model too
#   make test-browser  panels, report and site in a headless Chromium; skipped where there is none
#   make docs          the site, in build/site: chapters as committed, how-to pages, the library; checked
#   make recordings    what the site's panels show, computed anew from the pocket model into docs/recordings/
#   make wheel         the project as a wheel, in dist/
#   make bench         what sharing work buys, capture and steering beside peers, how fast panels answer (benchmarks/results/)
#   make clean         remove .venv and the tools' caches
#
# PYTHON=... picks the interpreter; TORCH_INDEX=... takes torch from another package index (see README.md).

PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH_INDEX ?=
AT_ONCE ?= 1
VENV := .venv
BIN := $(VENV)/bin
MAKEFLAGS += --no-print-directory

.PHONY: help venv walkthrough notebooks lab lint test test-late test-all test-browser docs recordings wheel bench clean
help:
	@sed -n 's/^#   //p' Makefile

venv: $(VENV)/.stamp

# torch comes first and by its exact version: a looser range may replace a CPU build by a CUDA build of several GB.
# What students run needs the lab alone. The tests add their own in the same installation.
$(VENV)/.stamp: extras := lab
$(VENV)/.test-stamp: extras := lab,test
$(VENV)/.stamp $(VENV)/.test-stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) \
		"$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[$(extras)]"
	touch $(VENV)/.stamp $@

walkthrough: venv
	$(BIN)/sarsteer-lab walkthrough --at-once $(AT_ONCE)

notebooks: venv
	$(BIN)/python -m sarsteer_lab.course.run_notebooks notebooks notebooks/appendix notebooks/solutions notebooks/exercises

lab: venv
	$(BIN)/jupyter lab notebooks

lint: $(VENV)/.test-stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports --no-logo --no-cache

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not late" -n 2 --dist loadfile

test-late: $(VENV)/.test-stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "late and not slow" -n 2 --dist load

test-all: lint
	$(BIN)/python -m pytest

test-browser: $(VENV)/.test-stamp
	$(BIN)/python -m pytest -m browser

$(VENV)/.docs-stamp: $(VENV)/.test-stamp
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	touch $@

docs: $(VENV)/.docs-stamp
	rm -rf build/site build/site-source
	$(BIN)/python docs/sources.py build/site-source
	$(BIN)/python -m sphinx --quiet --fail-on-warning -c docs -d build/site-source/.doctrees build/site-source build/site
	$(BIN)/python -m pytest -q tests/test_site.py tests/test_site_panels.py

recordings: venv
	$(BIN)/python -m sarsteer_lab.course.recordings docs/recordings

wheel: $(VENV)/.test-stamp
	$(BIN)/python -m hatchling build -t wheel

bench: $(VENV)/.test-stamp
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.gpu
	$(BIN)/python -m benchmarks.panels

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist
