# make train   sets everything up and trains the first world model: humanoid-walk, 100 steps, its video collected first
# make test    sets everything up and runs the tests
# make check   what CI runs: lint, types, tests
#
# PYTHON=python3.12 make train   picks another interpreter. `make clean` removes .venv and caches, never data or runs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TEST_WORKERS ?= 2
PYTEST_FLAGS ?=

.PHONY: train test lint format typecheck check setup clean

train: $(READY)
	$(BIN)/aime train --env humanoid-walk --batch-size 4 --sequence-length 16 --max-steps 100

# One thread for each worker: two workers that share two cores only get in each other's way with more.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) $(PYTEST_FLAGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: $(READY)
	$(BIN)/mypy

check: lint typecheck test

setup: $(READY)

# The stamp is written last, so an interrupted set-up is taken up again, and a finished one is not repeated.
$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "AIME needs Python 3.11 or newer, and '$(PYTHON)' is not ('$(PYTHON) --version' tells). Name one that is: make PYTHON=python3.12 …" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "'$(PYTHON) -m venv' failed: on Debian and Ubuntu 'apt-get install python3-venv' mends it." >&2; exit 1; }
	@echo "Installing AIME into $(VENV) (once; a few minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

clean:
	rm -rf $(VENV) build src/*.egg-info .mypy_cache .ruff_cache .pytest_cache
