# `make` lists what can be made. Needs Python 3.11 or newer with venv, and make; everything else goes into .venv,
# pinned by requirements/*.lock. PYTHON=/path/to/python names another interpreter.

PYTHON ?=
export PYTHON

# The folder's own name is on no path of ours, and a .venv that is active elsewhere must not leak in.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV

.DEFAULT_GOAL := help
.PHONY: help demo test check format bench wheel lock clean venv-demo venv-dev

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

venv-demo:
	@requirements/install.sh demo

venv-dev:
	@requirements/install.sh dev

demo: venv-demo ## a tour of ten seconds over real TLS (ARGS=--keep leaves the server running)
	@.venv/bin/secmiddleware demo $(ARGS)

test: venv-dev ## the whole test-suite (ARGS="-k keyring" picks some)
	.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: venv-dev ## lint, formatting and types
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m mypy

format: venv-dev ## put the formatting right
	.venv/bin/python -m ruff check --fix .
	.venv/bin/python -m ruff format .

bench: venv-dev ## what it costs, against peers measured in the same run
	.venv/bin/python -m bench $(ARGS)

wheel: venv-dev ## build the wheel into dist/ and test it in a clean environment, with the source out of reach
	.venv/bin/python tests/installed_wheel.py $(ARGS)

lock: ## make requirements/*.lock anew from pyproject.toml (needs uv)
	@requirements/lock.sh $(ARGS)

clean: ## remove .venv and what was built
	rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
