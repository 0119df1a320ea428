# mixer-ir: everything runs in .venv, which these targets make and keep fresh.
#   make demo | test | test-slow | test-kernels | lint | format | clean

PYTHON ?=
TORCH  ?= torch==2.13.0
TRITON ?= triton==3.7.1
VENV   := .venv
JOBS   ?= 2

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test test-slow test-kernels lint format clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1	\2/' | expand -t 20

demo: $(VENV)/.ready-$(if $(wildcard $(VENV)/.ready-dev),dev,demo) ## define, prove, train, decode and draw, in a few minutes
	$(VENV)/bin/python -m examples.define_a_mixer
	$(VENV)/bin/mixer-ir demo

test: lint ## lint, format check, types and tests
	$(VENV)/bin/python -m pytest -n $(JOBS)

test-slow: $(VENV)/.ready-dev ## the long tests alone
	$(VENV)/bin/python -m pytest -n $(JOBS) -m slow

test-kernels: $(VENV)/.ready-dev ## the generated kernels of every mixer, in Triton's interpreter and compiled
	$(VENV)/bin/python -m pytest -n $(JOBS) -m "slow or not slow" tests/test_triton*.py

lint: $(VENV)/.ready-dev ## lint, format check and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/.ready-dev ## format the code and mend what the linter can
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean: ## remove the environment, caches and builds
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment with the extra `demo`, or `dev`, which contains it. While something is being installed there is
# `.unfinished` instead of a stamp; one found at the start was left by an interrupted install, and all is made anew.
# Torch goes first, in the version above, with the Triton that its builds for GPUs come with, so that the project's own
# requirements find them and leave them alone.
$(VENV)/.ready-%: pyproject.toml
	@if [ -e $(VENV)/.unfinished ] || ! $(VENV)/bin/python -c '$(fit)' 2>/dev/null; then \
		$(find_python) && rm -rf $(VENV) && mkdir $(VENV) && touch $(VENV)/.unfinished && \
		echo "making $(VENV) with $$("$$python" --version)" && "$$python" -m venv $(VENV); \
	fi
	@touch $(VENV)/.unfinished && rm -f $(VENV)/.ready-*
	$(pip) "$(TORCH)" "$(TRITON); sys_platform == 'linux'" && $(pip) --editable ".[$*]" || { rm $(VENV)/.unfinished; exit 1; }
	@mv $(VENV)/.unfinished $@

pip := $(VENV)/bin/python -m pip install --disable-pip-version-check
fit := import sys, pip._internal.cli.main; sys.exit(sys.version_info < (3, 11))

# The first Python on the path that is new enough and can make environments.
define find_python
for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.14 python) none; do \
	"$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
done; \
[ "$$python" != none ] || { \
	echo "mixer-ir needs Python 3.11 or newer with the venv module: install one, or name it with make PYTHON=..." >&2; \
	exit 1; }
endef
