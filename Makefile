# Two commands on a fresh clone: `make demo` and `make test`. Each makes its own virtual environment first.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test test-slow install lint clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . --requirement requirements-dev.txt
	touch $@

install: $(VENV)/.installed

demo: install
	$(BIN)/apmae demo

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

# What the default suite leaves out: all but one family of each mechanism, and flex attention, which compiles for a
# minute and needs a C++ compiler.
test-slow: install
	$(BIN)/python -m pytest -m slow --numprocesses auto --maxprocesses 4 --dist worksteal

clean:
	rm -rf $(VENV) demo-study
