PYTHON ?= python3
BIN = .venv/bin

PIP = -m pip install --quiet --disable-pip-version-check

.PHONY: .venv demo dev docs gallery lint test test-bench test-browser test-compiled \
  test-faults test-package test-synthesis test-torch smoke smoke-run

.venv: .venv/installed

# The package itself is installed as a link to this folder, so that changes count at
# once. The stamp comes last: an interrupted installation is repeated.
.venv/installed: requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python $(PIP) -r requirements.txt
	$(BIN)/python $(PIP) --no-deps --editable .
	touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt
	$(BIN)/python $(PIP) -r requirements-dev.txt
	touch $@

# The tools of tests and lint.
dev: .venv/installed-dev

# Digits with synthetic ones between two classes, by labels alone, by FixMatch, by
# FixMatch without the synthetic ones, and by RSMatch that chooses among three times as
# many images; then all compared.
DIGITS = $(BIN)/python launch.py --config=configs/digits.py
demo: .venv
	$(DIGITS) --workdir=runs/demo-labels --config.method.name=supervised
	$(DIGITS) --workdir=runs/demo-fixmatch --config.method.name=fixmatch
	$(DIGITS) --workdir=runs/demo-real-only --config.method.name=fixmatch \
	  --config.data.real_only=True
	$(DIGITS) --workdir=runs/demo --config.train.candidate_ratio=12 \
	  --config.method.rsmatch.prior=statistics
	$(BIN)/rsmatch report runs/demo-labels runs/demo-fixmatch \
	  runs/demo-real-only runs/demo --out=runs/demo-report.html

# The pictures of the demo in docs, from its runs. 7 minutes on two cores.
gallery: demo .venv/installed-browser
	$(BIN)/rsmatch see --workdir=runs/demo --set=test --images=6
	$(BIN)/rsmatch tsne --workdir=runs/demo
	PYTHONPATH=tests $(BIN)/python docs/gallery.py

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pylint rsmatch_jax configs launch.py
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python

# These compare bits with Pillow's and are compiled as users' programs are; see
# tests/support/xla_flags.py.
EXACT = tests/augment/test_views.py tests/augment/test_augment_ops.py

# Folders with another target.
APART = bench browser compiled docs faults package synthesis

# Three at a time on two cores: some tests wait for other processes.
test: .venv/installed-dev
	$(BIN)/python -m pytest -n 3 --dist loadfile $(APART:%=--ignore=tests/%) \
	  $(EXACT:%=--ignore=%)
	OPTIMIZED=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(EXACT)

# Benches on small networks: their figures are checked, no speed is required.
test-bench: .venv/installed-dev
	$(BIN)/python -m pytest -n 3 --dist loadfile tests/bench

# The wheel in a fresh environment (.venv-package), then an editable install: train,
# predict, export, report and evaluate in an empty folder. 5 minutes.
test-package: .venv/installed-dev
	$(BIN)/python -m pytest tests/package

# Runs that are killed, stopped, damaged and starved, as real processes.
test-faults: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 --dist load -rP tests/faults

# The pages in headless Chromium: Debian's, or the one that CHROMIUM names.
test-browser: .venv/installed-browser
	$(BIN)/python -m pytest tests/browser

.venv/installed-browser: .venv/installed-dev requirements-browser.txt
	$(BIN)/python $(PIP) -r requirements-browser.txt
	touch $@

# The pages, strictly, into build/site, in an environment without JAX: their makers read
# the sources. Then every link, block of code and key in them.
docs: .venv/installed-dev .venv-docs/installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet
	BUILT_SITE=1 $(BIN)/python -m pytest -n 2 --dist worksteal tests/docs

.venv-docs/installed: requirements-docs.txt
	test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python $(PIP) -r requirements-docs.txt
	touch $@

# The makers of pools, in an environment with PyTorch. The tests last passed with this
# version.
test-synthesis: .venv-synthesis/installed
	.venv-synthesis/bin/python -m pytest -n 2 --dist loadfile tests/synthesis

.venv-synthesis/installed: requirements.txt requirements-dev.txt requirements-synthesis.txt
	test -x .venv-synthesis/bin/python || $(PYTHON) -m venv .venv-synthesis
	.venv-synthesis/bin/python $(PIP) \
	  torch==2.13.0 -r requirements-dev.txt -r requirements-synthesis.txt
	touch $@

# In another environment, because PyTorch is large and only one bench needs it.
test-torch: .venv-torch/installed
	.venv-torch/bin/python -m pytest tests/bench/test_bench_torch.py \
	  tests/bench/test_bench_peer.py tests/models/test_weight_file_torch.py

.venv-torch/installed: requirements.txt requirements-dev.txt requirements-torch.txt
	test -x .venv-torch/bin/python || $(PYTHON) -m venv .venv-torch
	.venv-torch/bin/python $(PIP) \
	  -r requirements-dev.txt -r requirements-torch.txt
	touch $@

# The programs of a GPU and a TPU, compiled without one, in an environment with JAX's
# compilers for them.
COMPILED = .venv-compiled/bin
test-compiled: .venv-compiled/installed
	$(COMPILED)/python -m pytest -n 2 --dist load tests/compiled

.venv-compiled/installed: requirements.txt requirements-compiled.txt
	test -x $(COMPILED)/python || $(PYTHON) -m venv .venv-compiled
	grep -v '^tensor\|^clu\|^importlib' requirements.txt > .venv-compiled/needed.txt
	$(COMPILED)/python $(PIP) \
	  -r .venv-compiled/needed.txt -r requirements-compiled.txt
	touch $@

# The newest versions of everything, on the next Python, without TensorFlow as on a GPU
# host: one step of every method, the queue, resuming, wrong requests, a few steps of the
# demo. Without Python 3.12 it passes with a message.
PYTHON312 ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.12.*/bin/python3.12) python3.12)
SMOKE = .venv-smoke/bin
smoke:
	@if $(PYTHON312) -c "" 2> /dev/null; then $(MAKE) --no-print-directory smoke-run; \
	else echo "smoke: skipped without $(PYTHON312); set PYTHON312 to a Python 3.12"; fi

smoke-run:
	test -x $(SMOKE)/python || $(PYTHON312) -m venv .venv-smoke
	grep -v '^tensor\|^clu\|^importlib' requirements.txt > .venv-smoke/newest.txt
	$(SMOKE)/python $(PIP) --upgrade --upgrade-strategy eager \
	  -r .venv-smoke/newest.txt beartype pytest pytest-xdist
	$(SMOKE)/python -m pytest -n 2 --dist worksteal tests/test_imports.py \
	  tests/methods/test_csqueue.py tests/test_optim.py tests/test_supply_chain.py \
	  tests/test_step.py::test_replicas_are_donated_and_stay_bit_equal \
	  'tests/runs/test_resume.py::test_four_steps_equal_two_restore_two[rsmatch]'
	$(SMOKE)/python launch.py --config=configs/digits.py --overwrite \
	  --workdir=runs/smoke --config.train.num_steps=20 --config.eval.every_steps=20
