PYTHON ?= python3
BIN = .venv/bin

.PHONY: .venv demo lint test test-bench test-browser test-faults test-synthesis \
  test-torch smoke smoke-run

.venv: .venv/installed

# The stamp comes last, so that an interrupted installation is taken up again.
.venv/installed: requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

# RSMatch on scans mixed with drawn ones, then the same labels alone, then both compared.
demo: .venv
	$(BIN)/python launch.py --config=configs/digits.py --workdir=runs/demo
	$(BIN)/python launch.py --config=configs/digits.py --workdir=runs/demo-supervised \
	  --config.method.name=supervised
	$(BIN)/python -m rsmatch_jax.report runs/demo runs/demo-supervised \
	  --out=runs/demo-report.html

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# What compares bits with Pillow's is compiled as users' programs are, see xla_flags.py.
EXACT = tests/augment/test_augment.py tests/augment/test_augment_ops.py

# What has a target of its own.
APART = bench browser faults synthesis

# Three at a time on two cores: some tests wait for processes of their own.
test: .venv/installed-dev
	$(BIN)/python -m pytest -n 3 --dist loadfile $(APART:%=--ignore=tests/%) \
	  $(EXACT:%=--ignore=%)
	OPTIMIZED=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(EXACT)

# That benches measure what they say, on small networks; no speed is asked for.
test-bench: .venv/installed-dev
	$(BIN)/python -m pytest -n 3 --dist loadfile tests/bench

# Runs that are killed, stopped, damaged and starved, as real processes.
test-faults: .venv/installed-dev
	$(BIN)/python -m pytest -n 2 --dist load -rP tests/faults

# The report page in headless Chromium: Debian's, or the one that CHROMIUM names.
test-browser: .venv/installed-browser
	$(BIN)/python -m pytest tests/browser

.venv/installed-browser: .venv/installed-dev requirements-browser.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  -r requirements-browser.txt
	touch $@

# What makes pools, in an environment of its own with PyTorch. The version is the one that
# these tests were last seen to pass with.
test-synthesis: .venv-synthesis/installed
	.venv-synthesis/bin/python -m pytest -n 2 --dist loadfile tests/synthesis

.venv-synthesis/installed: requirements.txt requirements-dev.txt requirements-synthesis.txt
	test -x .venv-synthesis/bin/python || $(PYTHON) -m venv .venv-synthesis
	.venv-synthesis/bin/python -m pip install --quiet --disable-pip-version-check \
	  torch==2.13.0 -r requirements-dev.txt -r requirements-synthesis.txt
	touch $@

# In an environment of its own: PyTorch is large, and needed by one bench alone.
test-torch: .venv-torch/installed
	.venv-torch/bin/python -m pytest tests/bench/test_bench_torch.py \
	  tests/bench/test_bench_peer.py

.venv-torch/installed: requirements.txt requirements-dev.txt requirements-torch.txt
	test -x .venv-torch/bin/python || $(PYTHON) -m venv .venv-torch
	.venv-torch/bin/python -m pip install --quiet --disable-pip-version-check \
	  -r requirements-dev.txt -r requirements-torch.txt
	touch $@

# The newest versions of everything, on the next Python, without TensorFlow as on a GPU
# host: one step of every method, the queue, resuming, wrong requests, a few steps of the
# demo. Without Python 3.12 it says so and passes.
PYTHON312 ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.12.*/bin/python3.12) python3.12)
SMOKE = .venv-smoke/bin
smoke:
	@if $(PYTHON312) -c "" 2> /dev/null; then $(MAKE) --no-print-directory smoke-run; \
	else echo "smoke: left out, there is no $(PYTHON312); PYTHON312=... names one"; fi

smoke-run:
	test -x $(SMOKE)/python || $(PYTHON312) -m venv .venv-smoke
	grep -v '^tensor\|^clu\|^importlib' requirements.txt > .venv-smoke/newest.txt
	$(SMOKE)/python -m pip install --quiet --disable-pip-version-check --upgrade \
	  --upgrade-strategy eager -r .venv-smoke/newest.txt pytest pytest-xdist
	$(SMOKE)/python -m pytest -n 2 --dist worksteal tests/test_imports.py \
	  tests/methods/test_csqueue.py tests/test_optim.py tests/test_supply_chain.py \
	  tests/test_step.py::test_replicas_are_donated_and_stay_bit_equal \
	  'tests/runs/test_resume.py::test_four_steps_equal_two_restore_two[rsmatch]'
	$(SMOKE)/python launch.py --config=configs/digits.py --overwrite \
	  --workdir=runs/smoke --config.train.num_steps=20 --config.eval.every_steps=20
