# Everything a newcomer and CI run. `make help` lists it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
# Which contracts `make contracts` runs.
CONTRACTS ?= tests/contracts

.DEFAULT_GOAL := help
.PHONY: help demo test servers unit contracts grades acceptance faults plugin check lint types format bench bench-peers
.PHONY: simulate simulation bench-pythons docs clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## Run the main job: thousands of real tasks, a worker killed on the way, nothing lost
	@$(BIN)/dray demo

test: $(VENV)/.dev servers ## Run every test (installs what they need: packages into $(VENV), servers with apt-get)
	@# Most of it waits for servers, so the parts go side by side; each prints when it has ended.
	$(MAKE) --no-print-directory -j5 --output-sync=target contracts-slow acceptance contracts-others unit simulation
	@# Its criteria are seconds: beside the others it would measure them.
	$(MAKE) --no-print-directory faults-quick
	$(MAKE) --no-print-directory plugin

servers: ## Install the servers that tests start, where they are missing: Redis, RabbitMQ, PostgreSQL ...
	@tests/servers/install.sh

unit: $(VENV)/.dev ## Run the unit tests: no server, seconds
	$(PYTEST) tests/unit

contracts: $(VENV)/.dev servers ## Run the conformance kit against every adapter
	$(PYTEST) $(CONTRACTS)

.PHONY: contracts-slow contracts-others
# Leases of whole seconds, and servers that look for messages instead of being told.
SLOW := $(wildcard $(addprefix tests/contracts/test_,sqs*.py kombu*.py small_backends.py))
contracts-slow: $(VENV)/.dev servers
	$(PYTEST) $(SLOW)

contracts-others: $(VENV)/.dev servers
	$(PYTEST) tests/contracts $(addprefix --ignore=,$(SLOW))

grades: $(VENV)/.dev servers ## Run the conformance kits and write what they say into docs/grades.json and docs/brokers.md
	$(PYTEST) tests/contracts --dray-grades docs/grades.json
	$(BIN)/python docs/generate.py

acceptance: $(VENV)/.dev servers ## Run real workers, kill them, and count
	$(PYTEST) tests/acceptance

FAULT_SEEDS ?= 3
FAULT_BROKERS := sqlite redis rabbitmq postgresql sqs
faults: $(VENV)/.dev servers ## Try every fault on every broker, and write what came of it into docs/reliability.md
	rm -f docs/faults.json
	@# Three brokers at a time: most of it waits for leases, but clocks are watched. All are tried, whichever fails.
	$(MAKE) --no-print-directory -k -j3 --output-sync=target $(addprefix faults-on-,$(FAULT_BROKERS)); \
		failed=$$?; $(BIN)/python docs/generate.py && exit $$failed

.PHONY: faults-quick $(addprefix faults-on-,$(FAULT_BROKERS))
$(addprefix faults-on-,$(FAULT_BROKERS)): faults-on-%: $(VENV)/.dev
	$(PYTEST) tests/faults --all-faults --fault-seeds $(FAULT_SEEDS) --fault-brokers $* --faults-report docs/faults.json

faults-quick: $(VENV)/.dev servers
	$(PYTEST) tests/faults

SEEDS ?= 2000
JOBS ?= 2
# Instead for example: make simulate SEED=17 (with its trace), make simulate ONLY=plain,callbacks
simulate: $(VENV)/.dev ## Play the engine in simulated worlds where everything goes wrong, one for each seed (SEEDS=2000)
	$(BIN)/python -m tests.simulation --jobs $(JOBS) --only '$(ONLY)' $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))

simulation: $(VENV)/.dev
	$(PYTEST) tests/simulation

plugin: $(VENV)/.dev ## Build the example plugin as a wheel and run the kit on it in an environment of its own
	$(BIN)/python tests/acceptance/plugin_in_its_own_environment.py examples/plugins/dray-folder

check: lint types docs-test ## Everything but the slow tests: style, types, layers, documentation

.PHONY: docs-test
docs-test: $(VENV)/.dev
	$(PYTEST) -q tests/unit/test_layers.py tests/unit/test_docs.py tests/unit/test_cost_of_a_task.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

format: $(VENV)/.dev ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Instead for example: make bench BENCH='--rounds 1 --only redis --backlog 1000000 --delayed 1000000'
BENCH ?= --markdown docs/performance.md
bench: $(VENV)/.dev servers ## Measure beside raw-driver loops and judge the goals, into docs/performance.md; 12 minutes
	$(BIN)/python benchmarks/run.py $(BENCH)

PYTHONS ?= python3.11 python3.12 python3.13 python3.13t python3.14 python3.14t
bench-pythons: $(VENV)/.dev servers ## Measure workers on several Pythons (PYTHONS=...), each in an environment of its own
	$(BIN)/python benchmarks/run_pythons.py $(PYTHONS) --markdown docs/performance-pythons.md

bench-peers: $(VENV)/.dev servers ## Measure beside Celery, RQ and others, each in an environment of its own; an hour
	$(BIN)/python benchmarks/run_peers.py --markdown docs/performance-peers.md

docs: $(VENV)/.dev ## Generate the pages that are made from the code
	$(BIN)/python docs/generate.py

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache benchmarks/.peers

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dray needs Python 3.11 or newer; say make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[cli]'
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.demo
