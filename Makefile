# Needs Python >= 3.11 and make, nothing else. `make` alone lists the targets.
PYTHON ?= python3
BIN := .venv/bin
RUN := runs/demo-$(shell date +%Y%m%d-%H%M%S)
MATRIX ?= 3.11-oldest 3.11-newest 3.12-newest 3.13-newest

.DEFAULT_GOAL := help
.PHONY: help setup demo test soak matrix lint bench results gpu gpu-kit wheel docs clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-8s %s\n", $$1, $$2 }'

setup: .venv/.ready ## create .venv with the package (editable) and everything needed to work on it

.venv/.ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --editable '.[dev]'
	$(BIN)/pip install --no-deps lightning-bolts==0.7.0  # demands an older pytorch-lightning: docs/bolts.md
	@touch $@

demo: setup ## train on the small digits of scikit-learn without labels, then test; nothing is downloaded
	$(BIN)/pixelgan fit --config configs/digits_clustering.yaml --run_dir $(RUN)
	$(BIN)/pixelgan test --ckpt_path $(RUN)/checkpoints/last.ckpt

# A test has one thread: one process a core, eight at most, as each takes half a gigabyte or more. PROCESSES=0: in one.
PROCESSES ?= auto
PYTEST := -m pytest --numprocesses $(PROCESSES) --maxprocesses 8 --dist worksteal

test: setup ## run the tests; PIXELGAN_DATA=<folder> adds those that read real data
	$(BIN)/python $(PYTEST)

soak: setup ## kill runs and damage files at random, many times: docs/reliability.md; KILLS=20 MUTANTS=60 for less
	$(BIN)/python tests/soak.py --kills $(or $(KILLS),200) --mutants $(or $(MUTANTS),500)

# Each in an environment of its own in build/matrix: pythonX.Y has to be there, and 6 GB. TESTS=tests/test_cli.py: a part.
matrix: $(MATRIX:%=matrix-%) ## run the tests with the oldest allowed versions and with the newest of each Python

matrix-%:
	python$(firstword $(subst -, ,$*)) -m venv build/matrix/$*
	build/matrix/$*/bin/python .ci/floors.py >build/matrix/$*/floors.txt
	build/matrix/$*/bin/pip install --quiet --editable '.[dev]' $(if $(filter %-oldest,$*),-c build/matrix/$*/floors.txt)
	build/matrix/$*/bin/pip install --quiet --no-deps lightning-bolts==0.7.0
	build/matrix/$*/bin/python $(PYTEST) $(TESTS)

# Type checkers do not follow the folder mapping of an editable installation: mypy reads a plain one.
lint: setup ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@rm -rf build/lib build/typecheck
	@$(BIN)/pip install --quiet --no-deps --no-build-isolation --target build/typecheck .
	MYPYPATH=build/typecheck $(BIN)/mypy --package pixelgan_lightning

bench: setup ## measure speed against the machine's limits: benchmarks/results.json, docs/benchmarks.md
	$(BIN)/python benchmarks/benchmark.py

results: setup ## write the tables of RESULTS.md, README.md and docs/ from results/
	$(BIN)/python results/pages.py

# Needs nothing but the kit: its code, its data and its wheels, in this Python. OUT=<folder>, GPU='--budget 300'.
gpu: OUT ?= $(CURDIR)/results/gpu
gpu: ## measure on a GPU, in 9 minutes, from the folder that gpu-kit made (or in it): results/gpu/
	cd $(if $(wildcard wheels),.,build/gpu-kit) && $(PYTHON) benchmarks/gpu.py --out '$(OUT)' $(GPU)

gpu-kit: setup ## collect code, MNIST and wheels in build/gpu-kit, for a machine with a GPU and without a network
	$(BIN)/python benchmarks/gpu_kit.py

wheel: setup ## build the wheel into dist/
	@rm -rf build/lib dist
	$(BIN)/python -m build --quiet --wheel --no-isolation

docs: setup ## build the documentation into build/docs; a warning is an error
	@rm -rf build/lib build/docs-source
	@$(BIN)/pip install --quiet --editable '.[docs]'
	@$(BIN)/pip install --quiet --no-deps --no-build-isolation --target build/docs-source .
	$(BIN)/python docs/draw_floors.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --config-file docs/mkdocs.yml

clean: ## remove what was built and cached; .venv, runs/ and data/ stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
