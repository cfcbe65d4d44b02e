# make demo | make test | make lint | make device-check
# (each installs what it needs into .venv first; WHEELS=folder keeps device-check off the network,
# ARGS="--bundle …" passes options on to it)

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test test-slow lint wheel emulated device-check clean

demo: $(INSTALLED)
	$(BIN)/resnet-edge demo

test: $(INSTALLED)
	$(BIN)/python -m pytest -n auto -m "not slow and not gpu"

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -n auto -m slow

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

emulated: $(INSTALLED)
	$(BIN)/python -m tests.emulation.build

ifdef WHEELS
device-check:
	$(PYTHON) benchmarks/device_check.py --wheels $(WHEELS) $(ARGS)
else
device-check: $(INSTALLED)
	$(BIN)/python benchmarks/device_check.py $(ARGS)
endif

wheel: $(INSTALLED)
	$(BIN)/python -m build --no-isolation

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python 3.10 or newer is needed: make PYTHON=/path/to/python3"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || \
	  { rm -rf .venv; echo "install the venv module first: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all]' --group dev
	@touch $@

clean:
	rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
