# Everything a developer or a newcomer types. `make help` lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Every target that installs writes to the one environment.
.NOTPARALLEL:

# uv does not read pip's configuration. Where the environment variables PIP_FIND_LINKS and PIP_INDEX_URL tell pip where
# wheels are, so is uv told; pip's configuration files are not read. Elsewhere uv finds PyTorch's CPU build itself.
ifneq ($(PIP_FIND_LINKS),)
# pip separates several places by blanks, uv by commas.
comma := ,
blank := $(subst ,, )
export UV_FIND_LINKS ?= $(subst $(blank),$(comma),$(strip $(PIP_FIND_LINKS)))
else
TORCH := --torch-backend cpu
endif
ifneq ($(PIP_INDEX_URL),)
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
UV := $(BIN)/uv
INSTALL := $(UV) pip install --python $(BIN)/python --override docker/overrides-cpu.txt --compile-bytecode $(TORCH)

.PHONY: help
help:  ## List the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(UV):
	@command -v $(PYTHON) > /dev/null || { echo "$(PYTHON) is not found. Try: make PYTHON=python3.11 ..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "dft-sweeps needs Python 3.11 to 3.13; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.11 ..."; exit 1; }
	@echo "==> making $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { echo "venv is missing: on Debian, apt-get install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.8'

$(VENV)/installed: $(UV) docker/requirements-cpu.txt pyproject.toml
	@echo "==> installing dft-sweeps for CPUs into $(VENV) (about 230 packages, 1.3 GB)"
	$(INSTALL) -r docker/requirements-cpu.txt
	@$(INSTALL) --quiet --no-deps --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed docker/requirements-dev.txt
	@echo "==> installing what the tests need"
	@$(INSTALL) --quiet -r docker/requirements-dev.txt
	@touch $@

.PHONY: install
install: $(VENV)/installed  ## Install into .venv.

.PHONY: quickstart
quickstart: $(VENV)/installed  ## Install, then run sweep_specs/quickstart.yaml to its table and picture.
	@$(BIN)/dft-sweeps run sweep_specs/quickstart.yaml

.PHONY: check
check: $(VENV)/installed-dev  ## Lint, types and the import contract.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

.PHONY: test
test: check  ## Every test that is not slow.
	$(BIN)/python -m pytest -m "not slow"

.PHONY: system-packages
system-packages:
	@{ ls /usr/lib/postgresql/*/bin/initdb && command -v chromium; } > /dev/null 2>&1 || \
	if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	  echo "==> installing Debian's postgresql and chromium for the tests"; \
	  apt-get update -qq -o Acquire::Retries=5 && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y -o Acquire::Retries=5 --no-install-recommends \
	    postgresql chromium fonts-dejavu-core > /dev/null || echo "they could not be installed"; \
	else echo "postgresql or chromium is not installed: the tests that need it are skipped"; fi

.PHONY: test-slow
test-slow: $(VENV)/installed-dev system-packages  ## The slow tests: whole specs, the service, every fault once in a storm. About 40 minutes on 2 cores.
	$(BIN)/python -m pytest -m "slow and not faults"

.PHONY: test-faults
test-faults: $(VENV)/installed-dev  ## Further faults, each in a sweep of its own; DFT_SWEEPS_FAULT_DRAWS=5 for five draws of each, here as in test-slow.
	$(BIN)/python -m pytest -m faults

.PHONY: bench
bench: $(VENV)/installed-dev  ## Measure against the peers into build/bench.md; about 90 minutes on 2 cores.
	$(BIN)/python -m tests.bench

.PHONY: base-model
base-model: $(VENV)/installed  ## Train the embedded base policy anew.
	$(BIN)/python -m dft_sweeps.training.base_model --out dft_sweeps/data/base_model

.PHONY: requirements
requirements: $(UV)  ## Pin the newest versions that fit pyproject.toml.
	$(UV) pip compile --quiet --upgrade --override docker/overrides-cpu.txt --no-emit-find-links --no-emit-index-url \
	  $(TORCH) --no-header --extra cpu pyproject.toml -o docker/requirements-cpu.txt
	$(UV) pip compile --quiet --upgrade --override docker/overrides-cpu.txt --no-emit-find-links --no-emit-index-url \
	  $(TORCH) --no-header --extra dev --constraint docker/requirements-cpu.txt pyproject.toml -o docker/requirements-dev.txt
