# make render: the first pictures.  make quick, affected, test: what must hold, in a minute, as far as changed, all of it.
PYTHON ?= python3
BIN := .venv/bin
# An unpinned torch takes gigabytes; the constraints name exactly what was tested.
# Threads that spin while they wait make torch thirty times slower beside anything else.
export OMP_WAIT_POLICY ?= PASSIVE
# Else each of the many processes that tests start would compile the whole farm again.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: affected bench chaos clean coverage durations format hostile lint load quick quick-tests render shapes test tests

render: .venv/render
	$(BIN)/farm render --prompts examples/prompts.jsonl --out out --sheet sheet.png
	@echo "the pictures are in out/; next: source .venv/bin/activate, and farm render \"a large red star\" --out pictures"

# Files of tests go whole to one process, the longest first (tests/durations.json). More at once than two cores: they wait
# for servers, leases and one another half of the time.
SPLIT := -p tests.split --split 4 -p no:xdist
PYTEST := $(BIN)/python -m pytest $(SPLIT)

# For before each commit: what needs no PostgreSQL, no S3, no torch and no process of a farm, and is not slow. Types are
# checked meanwhile, by one process.
quick: .venv/test
	$(MAKE) --no-print-directory --jobs 2 lint quick-tests

quick-tests: .venv/test
	$(PYTEST) -p no:hypothesispytest --quiet --few-examples \
		--databases sqlite --stores folder --backends simulated -m "not slow" tests/unit tests/contract

# The tests that reach what was changed since this branch left BASE, by the import graph; says which, and why.
affected: .venv/test lint
	$(BIN)/python -m tests.tools.affected --base $(or $(BASE),main) $(SPLIT)

# Some folders or files of tests: make tests TESTS=tests/acceptance
tests: .venv/test
	$(PYTEST) $(TESTS)

test: .venv/test lint
	$(PYTEST) --durations-to=$(or $(DURATIONS),.pytest_cache/durations.json)

# The same, and the figures kept for the next runs.
durations:
	$(MAKE) test DURATIONS=tests/durations.json

# Which lines the tests run, those that farm processes run included; figures on the screen, pages in htmlcov/.
coverage: .venv/test
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest --dist loadfile --no-loadscope-reorder --numprocesses 4
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage html --quiet
	$(BIN)/coverage report --skip-covered --sort cover

lint: .venv/test
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# The load test with its figures: jobs a second, tickets, peak memory of each process.
load: .venv/test
	$(BIN)/python -m pytest tests/integration/test_load.py -s --jobs $(or $(JOBS),10000)

# Every figure beside its peer's, in ten minutes; kept in benchmarks/results/, and told in benchmarks/README.md.
# BENCH="--only submit claims" measures some of it.
bench: .venv/bench
	env -u OMP_WAIT_POLICY $(BIN)/python -m benchmarks $(BENCH)

# The farm under kills, outages and lies for ten minutes, and what must be true of it afterwards (tests/chaos/).
chaos: .venv/test
	$(BIN)/python -m tests.chaos $(or $(SEED),1) $(or $(MINUTES),10) --database $(or $(DATABASE),postgresql) --jobs $(or $(JOBS),0)

# What strangers send, for an hour, beside two honest users, and what those notice of it (tests/hostile/).
hostile: .venv/test
	$(BIN)/python -m tests.hostile $(or $(MINUTES),60) --seed $(or $(SEED),1)

# The model that comes with the farm, trained again from nothing and measured: four hours on two cores. What was stopped
# goes on where it was (checkpoints and logs in .shapes/).
shapes: .venv/shapes
	$(BIN)/python -m examples.shapes.train vae --steps 2000
	$(BIN)/python -m examples.shapes.train text --steps 800
	$(BIN)/python -m examples.shapes.train unet --steps 9000
	$(BIN)/python -m examples.shapes.train unet --steps 15000
	$(BIN)/python -m examples.shapes.train controlnet --steps 1500
	$(BIN)/python -m examples.shapes.train controlnet --steps 2500
	$(BIN)/python -m examples.shapes.train decoder --steps 2400
	$(BIN)/python -m examples.shapes.train export
	$(BIN)/python -m examples.shapes.measure worker/models/shapes --controlnet worker/models/shapes-silhouette \
		--plot worker/models/shapes/guidance.svg

format: .venv/test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/render: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing the farm into .venv: 370 MB to download (torch for CPUs, diffusers), 1.7 GB on the disk, a few minutes"
	$(INSTALL) --editable ".[worker,embedded,api,datasets]"
	touch $@

.venv/shapes: .venv/test
	$(INSTALL) --editable ".[shapes]"
	touch $@

.venv/bench: .venv/test
	$(INSTALL) --editable ".[bench]"
	touch $@

.venv/test: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) --editable ".[test]"
	touch $@

clean:
	rm -rf .venv .farm out sheet.png build dist *.egg-info
