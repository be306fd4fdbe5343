# Everything that a person or CI runs. `make` lists it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
ON_TOOLS := PYTHONPATH=tools

# In CI, or with ALL_BROKERS=1, a broker that is not to be had fails the tests.
MISSING_BROKERS := $(if $(ALL_BROKERS)$(CI),fail,leave-out)
# Further arguments for pytest, as in: make test ARGS="-k kafka"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test check docs format tables brokers clean

help: ## list what can be made
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

setup: $(INSTALLED) ## create the virtual environment, make brokers and a browser available
	@echo "==> making the brokers available"
	@$(ON_TOOLS) $(BIN)/python -m brokers.install
	@echo "==> making the browser available"
	@$(ON_TOOLS) $(BIN)/python -m browser.install

demo: setup ## see one trace cross HTTP, Kafka, RabbitMQ and Celery
	@echo "==> running the demo"
	@$(ON_TOOLS) $(BIN)/python -m examples.demo

test: setup ## run all tests on real brokers; ALL_BROKERS=1 allows none to be missing
	@echo "==> running the tests"
	@$(BIN)/python -m pytest --missing-brokers=$(MISSING_BROKERS) $(ARGS)

check: setup ## check style, types, layers, the documentation, the README's code and the wheel
	@echo "==> ruff check"
	@$(BIN)/ruff check
	@echo "==> ruff format"
	@$(BIN)/ruff format --check
	@echo "==> mypy"
	@$(BIN)/mypy src tests examples tools
	@echo "==> pyright"
	@$(BIN)/pyright
	@echo "==> import-linter"
	@$(BIN)/lint-imports
	@echo "==> the tables in docs"
	@PYTHONPATH=tools:tests $(BIN)/python -m tables --check
	@echo "==> the documentation site"
	@$(ON_TOOLS) $(BIN)/python -m documentation
	@echo "==> the README's code and the wheel"
	@$(BIN)/python -m pytest --missing-brokers=$(MISSING_BROKERS) -q tests/docs/test_readme.py tests/test_wheel.py

docs: $(INSTALLED) ## build the documentation site into .site
	@$(ON_TOOLS) $(BIN)/python -m documentation

format: $(INSTALLED) ## put the code into its format
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

tables: $(INSTALLED) ## write the tables in docs of what the tests show
	@PYTHONPATH=tools:tests $(BIN)/python -m tables

brokers: setup ## start all brokers for running examples by hand, until Ctrl-C
	@$(ON_TOOLS) $(BIN)/python -m brokers

clean: ## remove what was installed, fetched and cached here
	@rm -rf $(VENV) .brokers .site dist build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	@test -x $(BIN)/python || { echo "==> creating $(VENV)" && $(ON_TOOLS) $(PYTHON) tools/create_venv.py $(VENV); }
	@echo "==> installing packages into $(VENV)"
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all]" --group dev
	@touch $@
