# make demo, make test and make bench each set everything up by themselves, in .venv.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# Pinned: a plain "torch" may bring gigabytes of CUDA where the CPU build is wanted. Override with TORCH=torch.
TORCH ?= torch==2.13.0
# Processes that share the tests.
WORKERS ?= 2
SOURCES := setup.py $(shell find csrc -type f) nvrm_fast/_version.py

.PHONY: demo test bench bench-step bench-compare lint clean cuda-check

demo: $(VENV)/installed
	$(RUN) -m nvrm_fast.experiments label-noise $(DEMO_ARGS)

test: $(VENV)/installed
	$(RUN) -m pytest -n $(WORKERS) --dist loadfile $(TEST_ARGS)

# BENCH_ARGS, for instance: BENCH_ARGS="--parts steps,layers --threads 1" (python -m bench.report --help).
bench: $(VENV)/bench
	$(RUN) -m bench.report $(BENCH_ARGS)

# pytest-benchmark's view of the step, for its --benchmark-compare over time.
bench-step: $(VENV)/bench
	$(RUN) -m pytest bench --benchmark-only --benchmark-disable-gc --benchmark-columns=median,iqr,min,rounds -q

# Two reports against each other: make bench-compare A=bench/results/cpu.json B=elsewhere.json
bench-compare: $(VENV)/installed
	$(RUN) -m bench.compare $(A) $(B)

# What the bench compares with; --no-deps, so that none of it moves torch. Whatever does not install is left out of the
# tables.
$(VENV)/bench: $(VENV)/installed
	-$(RUN) -m pip install --quiet matplotlib
	-for package in ivon-opt bayesian-torch torch-uncertainty; do $(RUN) -m pip install --quiet --no-deps $$package; done
	touch $@

# The CUDA kernels without a GPU: registers and spills on each, and the launch emulated on the CPU.
cuda-check: $(VENV)/installed
	$(RUN) -m pytest -s tests/csrc/test_cuda_compiles.py tests/csrc/test_launch_emulation.py

lint: $(VENV)/installed
	$(RUN) -m pip install --quiet ruff
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

$(VENV)/torch:
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip setuptools wheel
	$(RUN) -m pip install --quiet "$(TORCH)" numpy ninja pybind11
	touch $@

# Editable: the Python files are used where they lie; only a change in csrc or setup.py builds again.
$(VENV)/installed: $(VENV)/torch $(SOURCES)
	$(RUN) -m pip install --quiet --no-build-isolation --editable ".[test,demo,integrations,baselines]"
	$(RUN) -m nvrm_fast.info
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info nvrm_fast/*.so nvrm_fast/_build_facts.json
