# Every target installs what it needs first (.ci/setup): as root also Debian packages, else only .venv.
#   make test PYTHON=python3.12     another interpreter
#   make test ARGS="-k reload"      what follows goes to pytest, the demo or the bench

BIN := .venv/bin
ARGS ?=
WORKERS ?= 3
ROOT := $(filter 0,$(shell id -u))
export PYTHON BASE

# After sudo, caches are given back to the owner of the checkout; the exit status is that of what ran before.
OWN := status=$$?; .ci/setup own; exit $$status

# A test that hangs is ended with the stacks of its threads, and counts as failed. The longest takes half a minute.
NO_HANGS := -o faulthandler_timeout=180 -o faulthandler_exit_on_timeout=true

# Side by side. Each worker would compile every test file anew where bytecode is not kept: 3 s of a processor each.
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/pytest -n $(WORKERS) --dist worksteal $(NO_HANGS)

.DEFAULT_GOAL := help
.PHONY: help demo demo-nva test unit lint format ruff types imports check conformance image bench fuzz clean

help: ## show this
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

demo: ## the main job, live: clients, members, a failure, a reload, a verified summary; then its status page
	@.ci/setup demo
ifdef ROOT
	@$(BIN)/asynclb demo $(ARGS) && { [ ! -t 0 ] || [ ! -t 1 ] || $(BIN)/asynclb demo --serve; }; $(OWN)
else
	@$(BIN)/python examples/unprivileged/run.py
	@echo
	@echo "skipped: the demo itself, which makes network namespaces to show clients' own addresses at the members;"
	@echo "         that takes root: sudo make demo"
endif

demo-nva: ## two spokes, three stateful firewalls between them, every protocol; one firewall dies (root)
	@.ci/setup demo
	@$(BIN)/python examples/nva/run.py $(ARGS); $(OWN)

test: ## the whole test suite
	@.ci/setup test
	@$(PYTEST) $(ARGS); $(OWN)
ifndef ROOT
	@echo
	@echo "skipped: tests that make network namespaces or set up transparent sockets, which takes root: sudo make test"
endif

unit: ## the unit tests alone, in some 15 to 20 seconds
	@.ci/setup test
	@$(PYTEST) tests/unit $(ARGS); $(OWN)

lint: format ruff types imports ## formatting, ruff, mypy --strict, import contracts

format:
	@.ci/setup venv
	@$(BIN)/ruff format --check .; $(OWN)

ruff:
	@.ci/setup venv
	@$(BIN)/ruff check .; $(OWN)

types:
	@.ci/setup venv
	@$(BIN)/mypy; $(OWN)

imports:
	@.ci/setup venv
	@$(BIN)/lint-imports; $(OWN)

check: lint test ## lint and test

conformance: ## each behaviour on each datapath, by real packets; prints and writes tests/conformance/TABLE.md (root)
	@.ci/setup test
	@$(BIN)/python -m tests.conformance.run $(ARGS); $(OWN)

image: ## the container image, by buildah and by Docker, run on each datapath (root; minutes; BASE=... to build over an image)
ifdef ROOT
	@.ci/setup image
	@$(BIN)/pytest tests/deploy/image/check.py tests/deploy/engine/check.py --durations=1 $(ARGS); $(OWN)
else
	@echo "skipped: building the container image and running it, which takes root: sudo make image"
endif

bench: ## the benchmark against HAProxy and nginx (root; some minutes on an idle machine)
	@.ci/setup bench
	@$(BIN)/python tests/bench/run.py $(ARGS); $(OWN)

fuzz: ## the packet core under libFuzzer with ASan and UBSan (two minutes; ARGS=600 for ten)
	@.ci/setup fuzz
	@$(BIN)/python tests/fuzz/run.py $(ARGS)

clean: ## remove what the other targets made in this checkout
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	rm -f asynclb/native/_native.so asynclb/native/_kernel.bpf.o
	find asynclb tests examples -name __pycache__ -type d -prune -exec rm -rf {} +
