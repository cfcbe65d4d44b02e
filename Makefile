# make demo | make test | make lint | make device-check
# (each installs what it needs into .venv first; WHEELS=folder keeps device-check off the network,
# ARGS="--bundle …" passes options on to it; HASHED=1 installs the very files of requirements-ci.txt)

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' resnet_edge/_version.py)

.PHONY: demo test test-slow lint docs wheel sbom lock emulated device-check clean

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

docs: $(INSTALLED)
	$(BIN)/python docs/make_architecture.py
	$(BIN)/python docs/make_pages.py

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

# What the wheel brings along, in CycloneDX: installed without extras, at the versions of constraints.txt.
sbom: wheel $(BIN)/cyclonedx-py
	rm -rf build/sbom
	$(BIN)/python -m venv --without-pip build/sbom
	$(BIN)/python -m pip --python build/sbom install --quiet --constraint constraints.txt \
	  --no-index --find-links dist --no-deps resnet-edge==$(VERSION)
	$(BIN)/python -m pip --python build/sbom install --quiet --constraint constraints.txt resnet-edge==$(VERSION)
	sed 's/^dynamic = .*/version = "$(VERSION)"/' pyproject.toml > build/sbom/pyproject.toml
	$(BIN)/cyclonedx-py environment build/sbom --pyproject build/sbom/pyproject.toml --output-reproducible \
	  --output-file dist/resnet-edge-$(VERSION).cdx.json

# requirements-ci.txt, for Python 3.11 on Linux x86-64. PyTorch is not in it: PyPI has its CUDA build only, and
# the CPU build comes from wherever pip is told to look. So what only the CUDA build needs is left out, too.
ONLY_FOR_CUDA := cuda-toolkit triton $(addprefix nvidia-,cudnn-cu13 cusparselt-cu13 nccl-cu13 nvshmem-cu13)
lock: $(BIN)/uv
	printf '%s\n' $(ONLY_FOR_CUDA) | $(BIN)/uv pip compile --quiet --extra all --group dev \
	  --constraint constraints.txt --excludes /dev/stdin --no-emit-package torch --generate-hashes \
	  --python-version 3.11 --python-platform x86_64-unknown-linux-gnu --no-annotate \
	  --custom-compile-command 'make lock   (without PyTorch: the Makefile says why)' \
	  --output-file requirements-ci.txt pyproject.toml

$(BIN)/cyclonedx-py $(BIN)/uv: | $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group release

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python 3.10 or newer is needed: make PYTHON=/path/to/python3"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || \
	  { rm -rf .venv; echo "install the venv module first: apt-get install python3-venv"; exit 1; }
ifdef HASHED  # setuptools first: it builds the one package that comes as source
	sed -n '/^setuptools==/,/[^\\]$$/p' requirements-ci.txt > .venv/setuptools.txt
	$(BIN)/python -m pip install --quiet --require-hashes --requirement .venv/setuptools.txt
	$(BIN)/python -m pip install --quiet --require-hashes --no-build-isolation --requirement requirements-ci.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
else
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all]' --group dev
endif
	@touch $@

clean:
	rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
