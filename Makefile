# Two commands on a fresh machine (Debian or Ubuntu, x86-64, Python 3.10-3.12): "make demo" and "make test".
# Each does its own set-up. PYTHON=python3.12 chooses the interpreter.
.DEFAULT_GOAL := help
.PHONY: help demo test lint setup clean

help: ## Show this text
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 14

demo: ## Ground a query on a simulated camera with real ROS 2 nodes, and write demo.png
	@scripts/setup.sh demo
	@scripts/env.sh molmo-ros demo --ros --out demo.png

test: ## Run the linters and all tests
	@scripts/setup.sh dev
	@scripts/env.sh scripts/test.sh

lint: ## Run the linters only
	@scripts/setup.sh dev
	@scripts/env.sh scripts/test.sh lint

setup: ## Set up the environment for development, and run nothing
	@scripts/setup.sh dev

clean: ## Remove the environment and everything that was built
	rm -rf .venv .cache build install log dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
