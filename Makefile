# What this project can be asked to do. Every target installs what it needs first.
#
#   make demo      build the lab, pause real guests for a real update, show the result
#   make test      linters, types, layers and all tests but the slow campaigns
#   make test-all  the same with the campaigns
#   make bench     pause times beside `virsh` and QMP, clocks beside `virsh domtime`

VENV := .venv
PY := $(VENV)/bin/python
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: demo test test-all lint bench venv packages clean

demo: venv
	$(PY) -m lab.demo

test: venv lint
	$(PY) -m pytest

test-all: venv lint
	$(PY) -m pytest --campaign

lint: venv
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports

bench: venv
	$(PY) -m bench.pause
	$(PY) -m bench.clock
	$(PY) -m bench.drain

venv: $(VENV)/.installed

# Debian's own interpreter: the first python3 in PATH may be another one, without our headers.
$(VENV)/.installed: pyproject.toml packaging/install-packages
	packaging/install-packages
	/usr/bin/python3 -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
