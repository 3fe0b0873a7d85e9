# Three environments: .venv (the worker, without torch), .venv-test (worker, cluster side, linters and tests, without
# torch) and .venv-dev (everything: exports, and every test).
PYTHON ?= python3
VENV := .venv
TEST := .venv-test
DEV := .venv-dev
STAMP := .installed-
PIP_FLAGS := --quiet --disable-pip-version-check
DEMO := build/demo
# Test processes at once. --dist loadfile keeps the tests of a file, which share fixtures, in one process.
WORKERS ?= 2
# A test process that dies ends the run: with a new process xdist can wait for ever.
# The chart is rendered by a library in Go. In a test process whose OpenVINO has used AMX, Go's preemption by signals ends
# it with a segmentation fault, each time: pytest -n0 tests/job/model/test_openvino_session.py tests/chart/test_others.py
export GODEBUG := asyncpreemptoff=1
PYTEST = -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart=0 --durations=15
FAST_TESTS := tests/job tests/fuzz tests/hostile tests/k8s tests/chart tests/protocol tests/test_docs.py tests/test_public_surface.py

.DEFAULT_GOAL := help
FUZZ := .venv-fuzz
FUZZ_SECONDS ?= 1800
FUZZ_TARGETS ?= json_merge image manifest instance_rows instance_part rle mask_npz key_list classes run_files

.PHONY: fuzz help demo test test-fast test-cluster soak-cluster check fix bench bench-gpu bench-cost soak long-run demo-model lock image clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/$(STAMP)cpu ## Annotate drawn garage scenes with the embedded model, into build/demo/output
	@test -f $(DEMO)/input/.complete || { $(VENV)/bin/python -m export.demo_model scenes $(DEMO)/input --count 24 --seed 9000042 \
		&& touch $(DEMO)/input/.complete; }
	@$(VENV)/bin/sam3-annotate annotate --input_top_dir $(DEMO)/input --out_top_dir $(DEMO)/output --visualize
	@echo "Masks and metadata: $(DEMO)/output    Pictures of them: $(DEMO)/output/_sam3/overlays"

test: $(DEV)/$(STAMP)dev ## Run the tests, export parity against the real sam3 package included
	$(DEV)/bin/mypy -p export
	$(DEV)/bin/python $(PYTEST) -m "not slow and not cluster" $(FAST_TESTS)
	$(DEV)/bin/python $(PYTEST) -m "not slow and not cluster" $(FAST_TESTS:%=--ignore=%)

test-fast: $(TEST)/$(STAMP)test ## Run the unit, chart, cluster-side and protocol tests, without torch
	$(TEST)/bin/python $(PYTEST) -m "not slow and not cluster and not torch" $(FAST_TESTS)

check: $(TEST)/$(STAMP)test ## Lint, types of job and k8s, import directions, locks, generated tables
	$(TEST)/bin/ruff check .
	$(TEST)/bin/ruff format --check .
	$(TEST)/bin/mypy -p job -p k8s -p sam3_annotate
	$(TEST)/bin/lint-imports
	$(TEST)/bin/python tests/house.py
	$(TEST)/bin/python charts/values_table.py --check
	$(TEST)/bin/python docs/reference/generate.py --check
	$(TEST)/bin/python docs/measurements/generate.py --check

fix: $(TEST)/$(STAMP)test ## Apply what the linters can fix
	$(TEST)/bin/ruff check --fix .
	$(TEST)/bin/ruff format .

bench: $(DEV)/$(STAMP)dev ## Measure demo model and full size beside eager sam3 on this CPU, then print other figures
	$(DEV)/bin/python -m export.bench --device cpu --out build/bench
	$(DEV)/bin/python -m pytest tests/bench -m "" -s -q

bench-cost: $(DEV)/$(STAMP)dev ## Count FLOP, traffic and launches on a GPU, and predict its speed, without one
	$(DEV)/bin/python -m tests.gpu

# On a machine with an NVIDIA GPU, in an environment with requirements/export.txt and, instead of its onnxruntime, the
# onnxruntime-gpu of requirements/gpu.txt: that of the export image. It installs nothing and needs no network.
GPU_PYTHON ?= python3
bench-gpu: ## Measure the full-size model, random weights in fp16, on this machine's GPU: speed, memory, parity
	$(GPU_PYTHON) -m export.bench --device cuda --out build/bench-gpu

test-cluster: $(TEST)/$(STAMP)test ## Run the tests of a real cluster: KUBECONFIG's, or the kit's of .ci/test-cluster
	.ci/test-cluster

fuzz: $(TEST)/$(STAMP)test ## Fuzz every parser of untrusted bytes for FUZZ_SECONDS (1800) each; installs atheris
	test -d $(FUZZ) || { $(PYTHON) -m venv $(FUZZ) && $(FUZZ)/bin/pip install $(PIP_FLAGS) "atheris>=3,<4"; }
	@set -e; for target in $(FUZZ_TARGETS); do \
		PYTHONPATH="$$PWD:$$($(TEST)/bin/python -c 'import site; print(site.getsitepackages()[0])')" \
		$(FUZZ)/bin/python -m tests.fuzz $$target --seconds $(FUZZ_SECONDS); done

soak-cluster: $(TEST)/$(STAMP)test ## Run these and those that take minutes more (a thousand indexes)
	SOAK=1 .ci/test-cluster

LONG_RUN ?= build/long-run
long-run: $(TEST)/$(STAMP)test ## Annotate 100,000 small images; print whether memory, handles and time an image stay flat
	mkdir -p $(LONG_RUN)
	$(TEST)/bin/python -m tests.bench.long_run $(LONG_RUN) --json $(LONG_RUN)/figures.json

soak: $(DEV)/$(STAMP)dev ## Tests that take minutes or gigabytes (full-size export, a billion inputs), with their figures
	$(DEV)/bin/python -m pytest tests/bench/test_scale.py -m "not slow" -k idle -s
	$(DEV)/bin/python -m pytest -m "slow and not cluster" -s

demo-model: $(DEV)/$(STAMP)dev ## From a seed to the embedded artifact: train (90 minutes), evaluate, export
	$(DEV)/bin/python -m export.demo_model train --out build/demo-model --minutes 90
	$(DEV)/bin/python -m export.demo_model evaluate build/demo-model/last.pt
	$(DEV)/bin/sam3-annotate export --checkpoint build/demo-model/last.pt --out build/demo-model/artifact

COMPILE = $(TEST)/bin/pip-compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --strip-extras \
	--allow-unsafe --no-header --no-annotate

lock: $(TEST)/$(STAMP)test ## Write requirements/*.txt from pyproject.toml
	$(COMPILE) --all-build-deps --extra s3,metrics,k8s,cpu,openvino --output-file requirements/cpu.txt pyproject.toml
	$(COMPILE) --all-build-deps --extra s3,metrics,gpu --output-file requirements/gpu.txt pyproject.toml
	$(COMPILE) --all-build-deps --extra s3,openvino,export --output-file requirements/export.txt pyproject.toml
	$(COMPILE) --all-build-deps --extra s3,metrics,k8s,tables,export,dev --output-file requirements/dev.txt pyproject.toml
	$(COMPILE) --all-build-deps --extra s3,metrics,k8s,tables,cpu,dev --constraint requirements/dev.txt \
		--output-file requirements/test.txt pyproject.toml
	$(COMPILE) --output-file requirements/image.txt requirements/image.in

image: ## Build images with docker, podman or buildah (TARGETS="cpu gpu export", default cpu)
	.ci/image $(TARGETS)

clean: ## Remove what was built, the environments included
	rm -rf build $(VENV) $(TEST) $(DEV)

define install
$(PYTHON) -m venv $(1)
$(1)/bin/pip install $(PIP_FLAGS) --require-hashes --requirement $(2)
$(1)/bin/pip install $(PIP_FLAGS) --no-deps --no-build-isolation --editable .
touch $@
endef

$(VENV)/$(STAMP)cpu: requirements/cpu.txt pyproject.toml
	$(call install,$(VENV),requirements/cpu.txt)

$(TEST)/$(STAMP)test: requirements/test.txt pyproject.toml
	$(call install,$(TEST),requirements/test.txt)

$(DEV)/$(STAMP)dev: requirements/dev.txt pyproject.toml
	$(call install,$(DEV),requirements/dev.txt)
