# make render: the first pictures.  make test: everything that must hold.
PYTHON ?= python3
BIN := .venv/bin
# An unpinned torch takes gigabytes; the constraints name exactly what was tested.
# Threads that spin while they wait make torch thirty times slower beside anything else.
export OMP_WAIT_POLICY ?= PASSIVE
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: chaos render test lint load shapes format clean

render: .venv/render
	$(BIN)/farm render --prompts examples/prompts.jsonl --out out --sheet sheet.png

# More at once than two cores: they wait for servers, leases and one another half of the time. Short files come last.
test: .venv/test lint
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

lint: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The load test with its figures: jobs a second, tickets, peak memory of each process.
load: .venv/test
	$(BIN)/python -m pytest tests/integration/test_load.py -s --jobs $(or $(JOBS),10000)

# The farm under kills, outages and lies for ten minutes, and what must be true of it afterwards (tests/chaos/).
chaos: .venv/test
	$(BIN)/python -m tests.chaos $(or $(SEED),1) $(or $(MINUTES),10) --database $(or $(DATABASE),postgresql) --jobs $(or $(JOBS),0)

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
	$(INSTALL) --editable ".[worker,embedded]"
	touch $@

.venv/shapes: .venv/test
	$(INSTALL) --editable ".[shapes]"
	touch $@

.venv/test: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) --editable ".[test]"
	touch $@

clean:
	rm -rf .venv .farm out sheet.png build dist *.egg-info
