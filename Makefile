# The README's two commands are `make demo` and `make test`; both build the venv they need.
SHELL := /bin/bash
VENV  ?= .venv
PY    := $(VENV)/bin/python
TASKS := demo test bench check wheel environment clean help

# The first interpreter that runs and that Numba has wheels for.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
  && echo $$p && break; done)

# $(call need,EXTRAS) installs the checkout with these extras once per pyproject.toml.
STAMP = $(VENV)/.installed-$(1)
PIP   = $(PY) -m pip --disable-pip-version-check --quiet install

.PHONY: $(TASKS)

help:            ## what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 10

demo: $(call STAMP,examples)    ## train two networks on real digits, then show the plan
	$(PY) examples/digits.py

test: $(call STAMP,test)        ## the tests (add ARGS='-k name -x' to choose)
	$(PY) -m pytest $(ARGS)

bench: $(call STAMP,bench)      ## every row of the speed table against its peers (ROWS='mlp matmul')
	$(PY) -m benchmarks $(ROWS)

check: $(call STAMP,dev) $(call STAMP,test)  ## lint, then the tests
	$(PY) -m ruff check .
	$(PY) -m pytest $(ARGS)

wheel: $(PY)                    ## dist/*.whl
	rm -rf build dist
	$(PY) -m pip --disable-pip-version-check --quiet wheel --no-deps --wheel-dir dist .

environment: $(PY)              ## only the virtual environment

clean:                          ## what the build left behind; the venv stays
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# Some distributions ship pip but not ensurepip: then the outer pip fills the environment.
$(PY):
	@test -n "$(PYTHON)" || { echo "no Python 3.11, 3.12 or 3.13 found; set PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { $(PYTHON) -m venv --clear --without-pip $(VENV) \
	  && $(PYTHON) -m pip --python $(PY) install --quiet pip; }

$(VENV)/.installed-%: pyproject.toml | $(PY)
	$(PIP) --editable '.[$*]'
	@touch $@
