# Two environments: .venv (the worker, without torch) and .venv-dev (everything, to export and to test).
PYTHON ?= python3
VENV := .venv
DEV := .venv-dev
STAMP := .installed-
PIP_FLAGS := --quiet --disable-pip-version-check
DEMO := build/demo

.DEFAULT_GOAL := help
.PHONY: help demo test test-cluster check fix bench soak demo-model lock image clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/$(STAMP)cpu ## Annotate drawn garage scenes with the embedded model, into build/demo/output
	@test -f $(DEMO)/input/.complete || { $(VENV)/bin/python -m export.demo_model scenes $(DEMO)/input --count 24 --seed 9000042 \
		&& touch $(DEMO)/input/.complete; }
	@$(VENV)/bin/sam3-annotate annotate --input_top_dir $(DEMO)/input --out_top_dir $(DEMO)/output --visualize
	@echo "Masks and metadata: $(DEMO)/output    Pictures of them: $(DEMO)/output/_sam3/overlays"

test: $(DEV)/$(STAMP)dev ## Run the tests (export parity against the real sam3 package included)
	$(DEV)/bin/python -m pytest -m "not slow and not cluster"

check: $(DEV)/$(STAMP)dev ## Lint, types, import directions, locks
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/mypy
	$(DEV)/bin/lint-imports
	$(DEV)/bin/python tests/house.py
	$(DEV)/bin/python charts/values_table.py --check

fix: $(DEV)/$(STAMP)dev ## Mend what the linters can mend
	$(DEV)/bin/ruff check --fix .
	$(DEV)/bin/ruff format .

bench: $(DEV)/$(STAMP)dev ## Print speed and memory figures
	$(DEV)/bin/python -m pytest tests/bench -m "" -s -q

test-cluster: $(DEV)/$(STAMP)dev ## Run the tests of a real cluster: KUBECONFIG's, or the kit of ../shared/cluster (20 minutes)
	.ci/test-cluster

soak: $(DEV)/$(STAMP)dev ## Tests that take minutes or gigabytes (full-size export, 10,000 images)
	$(DEV)/bin/python -m pytest -m "slow and not cluster"

demo-model: $(DEV)/$(STAMP)dev ## From a seed to the embedded artifact: train (90 minutes), evaluate, export
	$(DEV)/bin/python -m export.demo_model train --out build/demo-model --minutes 90
	$(DEV)/bin/python -m export.demo_model evaluate build/demo-model/last.pt
	$(DEV)/bin/sam3-annotate export --checkpoint build/demo-model/last.pt --out build/demo-model/artifact

lock: ## Write requirements/*.txt anew from pyproject.toml
	for extra in "s3 --extra metrics --extra k8s --extra cpu" "s3 --extra metrics --extra gpu" "s3 --extra export" \
			"s3 --extra metrics --extra k8s --extra export --extra dev"; do \
		$(DEV)/bin/pip-compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --strip-extras \
			--allow-unsafe --no-header --no-annotate --all-build-deps --extra $$extra --output-file requirements/$${extra##* }.txt pyproject.toml; \
	done
	$(DEV)/bin/pip-compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --strip-extras \
		--allow-unsafe --no-header --no-annotate --output-file requirements/image.txt requirements/image.in

image: ## Build images with docker, podman or buildah (TARGETS="cpu gpu export", default cpu)
	.ci/image $(TARGETS)

clean: ## Remove what was built, the environments included
	rm -rf build $(VENV) $(DEV)

$(VENV)/$(STAMP)cpu: requirements/cpu.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install $(PIP_FLAGS) --require-hashes --requirement requirements/cpu.txt
	$(VENV)/bin/pip install $(PIP_FLAGS) --no-deps --no-build-isolation --editable .
	touch $@

$(DEV)/$(STAMP)dev: requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv $(DEV)
	$(DEV)/bin/pip install $(PIP_FLAGS) --require-hashes --requirement requirements/dev.txt
	$(DEV)/bin/pip install $(PIP_FLAGS) --no-deps --no-build-isolation --editable .
	touch $@
