# Everything a developer types. Each target works on a fresh clone: it makes .venv itself.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check format bench proof campaign clean

demo: .venv/installed
	$(BIN)/looktwice demo

test: .venv/developing check
	$(BIN)/pytest

check: .venv/developing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/developing
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The figures of docs/measured.md; each prints its table. Run them on an idle machine.
bench: .venv/developing
	$(BIN)/python benchmarks/augment.py
	$(BIN)/python benchmarks/feed.py
	$(BIN)/python benchmarks/losses.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/train.py
	$(BIN)/python benchmarks/equal_time.py
	$(BIN)/python benchmarks/evaluate.py
	$(BIN)/python benchmarks/analysis.py

proof: .venv/installed
	$(BIN)/python benchmarks/quality.py

# Whether every layout gives the gradients of one process: all cases, about four minutes. Then
# whether broken runs are named and healthy ones are not: forty runs, some minutes more. Then
# whether a study that is killed twenty times ends with the table of one that is not, and whether
# exported encoders give the features of their runs on 1,000 pictures.
campaign: .venv/developing
	$(BIN)/looktwice doctor --whole
	$(BIN)/python benchmarks/health.py
	LOOKTWICE_STUDY_KILLS=20 $(BIN)/pytest tests/study/test_runner.py -k killed
	LOOKTWICE_EXPORT_PICTURES=1000 $(BIN)/pytest tests/core/test_export.py -s -k fresh

.venv/installed: pyproject.toml
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/developing: pyproject.toml
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch .venv/installed $@

clean:
	rm -rf .venv
