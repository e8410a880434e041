# Everything from a fresh clone with Python 3.11 to 3.13 and make:
#   make demo    the main job on data it makes itself
#   make test    every check
#   make docs    the site in site/
#   make wheel   the wheel in dist/
#   make sbom    the list of what is installed; make audit looks each up (needs the network)
#   make docker-check    the Dockerfile's install steps, without an engine
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
SELECT ?=
BIN := $(VENV)/bin

.PHONY: help demo test check format docs wheel sbom audit docker-check clean

help:
	@sed -n 's/^#   //p' Makefile

demo: $(VENV)/.demo
	$(BIN)/medhybrid demo

# Two processes with a core each are quicker than one with two.
test: $(VENV)/.dev check
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder $(SELECT)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict

wheel: $(VENV)/.dev
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

sbom: $(VENV)/.dev
	mkdir -p build
	$(BIN)/cyclonedx-py environment $(BIN)/python --output-format JSON --output-file build/sbom.json

audit: $(VENV)/.dev
	$(BIN)/pip-audit --path "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

docker-check:
	bash docker/try_install.sh

clean:
	rm -rf $(VENV) site demo .pytest_cache .mypy_cache .ruff_cache .hypothesis

# A virtual environment with the tested versions; made anew when they change.
$(VENV)/.demo $(VENV)/.dev: $(VENV)/.%: pyproject.toml $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[$*]'
	touch $@
