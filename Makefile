# Everything runs from `.venv`, made on first use. `make demo` and `make test` need nothing but Python 3.11+.
PYTHON ?= python3
BIN := .venv/bin
DEMO_TOKENS ?= 400000
# uv does not read pip's own list of local wheel folders; hand it on when there is one.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)

.PHONY: setup demo test test-slow test-gpu lint format types check clean

setup: .venv/.ready

.venv/.ready: pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"windtunnel needs Python 3.11 or newer, this is {v.major}.{v.minor}; try: make PYTHON=python3.12 setup")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[dev]'
	touch $@

# Four architectures, three seeds each, the same tokens: a verdict in the terminal and out/demo/report.html.
demo: setup
	$(BIN)/windtunnel compare examples/compare/gpt2.yaml examples/compare/llama.yaml \
	  examples/compare/gru.yaml examples/compare/lstm.yaml \
	  --seeds 3 --match tokens --budget $(DEMO_TOKENS) --out out/demo

test: setup lint types
	$(BIN)/python -m pytest -q -m 'not slow' -n 2 --dist worksteal

test-slow: setup
	$(BIN)/python -m pytest -q -m slow

# On a machine with a CUDA GPU; WINDTUNNEL_GPU_FIGURES=FILE keeps what it measures.
test-gpu: setup
	$(BIN)/python -m pytest -q -m gpu -rs --durations=10

lint: setup
	$(BIN)/ruff check src tests
	$(BIN)/ruff format --check src tests

format: setup
	$(BIN)/ruff check --fix src tests
	$(BIN)/ruff format src tests

types: setup
	$(BIN)/mypy

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
