# make setup | demo | lint | check | test | thorough | elsewhere | gpu | bench | load | fuzz | golden | clean
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# A file's tests share what they compile; files in their order, since what compilers take longest for must not come last.
TWO    := -n 2 --dist loadfile --no-loadscope-reorder
TESTS  := tests/ptx tests/sass tests/nvcc tests/sim tests/e2e tests/null

.PHONY: setup demo lint check test thorough elsewhere gpu bench load fuzz golden clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: setup
	mkdir -p build
	$(BIN)/imp compile models/demo.gguf -o build/demo.impc
	$(BIN)/imp run build/demo.impc "def walk(path):" --max-tokens 64 --temperature 0.7 --repetition-penalty 1.1 --seed 3

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

check: lint
	$(BIN)/pytest tests/null $(TWO)

test: setup
	$(BIN)/pytest $(TESTS) -m 'not thorough' $(TWO)

thorough: setup
	$(BIN)/pytest $(TESTS) -m thorough $(TWO)

elsewhere: setup
	tests/elsewhere

gpu: setup
	$(BIN)/pytest tests/gpu

bench: setup
	$(BIN)/python tools/bench_table.py $(if $(PEER),--peer llama-bench=$(PEER)) $(BENCH)

load: setup
	[ -n "$(LOAD)" ] || [ -e build/demo.impc ] || { mkdir -p build && $(BIN)/imp compile models/demo.gguf -o build/demo.impc; }
	$(BIN)/python tools/load.py $(or $(LOAD),build/demo.impc --kill)

fuzz: setup
	$(BIN)/python tests/fuzz/fuzz_gguf.py --cases 20000
	$(BIN)/python tests/fuzz/fuzz_folder.py --cases 20000
	$(BIN)/python tests/fuzz/fuzz_artifact.py --cases 20000

golden: setup
	$(BIN)/python tools/golden.py

clean:
	rm -rf build $(VENV)
