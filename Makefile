# Everything a developer types. Each target works on a fresh clone: it makes .venv itself.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check format docs docs-check bench proof campaign release-check clean

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

# docs/_build/index.html, of docs/*.md and the docstrings; warnings are errors.
docs: .venv/developing
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs docs/_build

# The commands of the documentation, those too that take a minute.
docs-check: .venv/developing
	WHOLE_DOCS=1 $(BIN)/pytest tests/docs

# The figures of docs/measured.md; each prints its table. Run them on an idle machine.
bench: .venv/developing
	$(BIN)/python -m pip install --quiet --editable '.[dev,peers]'
	$(BIN)/python benchmarks/augment.py
	$(BIN)/python benchmarks/feed.py
	$(BIN)/python benchmarks/losses.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/train.py
	$(BIN)/python benchmarks/equal_time.py
	$(BIN)/python benchmarks/evaluate.py
	$(BIN)/python benchmarks/analysis.py
	$(BIN)/python benchmarks/embed.py
	$(BIN)/python benchmarks/search.py

proof: .venv/installed
	$(BIN)/python benchmarks/quality.py

# Whether every layout gives the gradients of one process: all cases, about four minutes. Then
# whether broken runs are named and healthy ones are not: forty runs, some minutes more. Then whether
# a study that is killed twenty times ends with the table of one that is not, and whether runs
# survive: kills, signals, failing disks, damaged checkpoints (docs/survival.md), an hour. Last,
# whether damaged and hostile files can crash, hang or fill anything, how fast a million are scanned,
# and whether exported encoders give the features of their runs on 1,000 pictures.
campaign: .venv/developing
	$(BIN)/looktwice doctor --whole
	$(BIN)/python benchmarks/health.py
	LOOKTWICE_STUDY_KILLS=20 $(BIN)/pytest tests/study/test_runner.py -k killed
	$(BIN)/python benchmarks/survival.py
	WHOLE_SURVIVAL=1 $(BIN)/pytest tests/survival --deselect tests/survival/test_campaign.py
	$(BIN)/python benchmarks/mutants.py
	$(BIN)/python benchmarks/scan.py
	LOOKTWICE_EXPORT_PICTURES=1000 $(BIN)/pytest tests/core/test_export.py -s -k fresh

# What would be published: built, looked through, installed anew, run, audited. Some minutes and
# gigabytes. TORCH=2.9.1 installs that one; PYTHONS="python3.12 python3.13" tries these too.
release-check: .venv/developing docs-check
	$(BIN)/python -m pip install --quiet build hatchling pip-audit
	$(BIN)/python scripts/release_check.py $(if $(TORCH),--torch $(TORCH)) $(if $(PYTHONS),--pythons $(PYTHONS))

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
