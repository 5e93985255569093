# SPDX-License-Identifier: GPL-2.0
# Each target sets up what it needs in .venv, once; pyproject.toml names the packages.
#
# As tools/testing/selftests/ksm of a kernel tree, run_tests, install and so on are kselftest's.

# Where this directory is a link, kselftest's own lies where make was told to build or called from.
LIB_MK := $(firstword $(wildcard $(addsuffix /lib.mk,.. $(OUTPUT)/.. $(SRC_PATH) $(PWD))))

ifneq ($(LIB_MK),)
TEST_PROGS := ksm.sh
TEST_FILES := conftest.py pyproject.toml \
	arch guests kconfig ksmtests lease mm plugins reports uapi
EXTRA_CLEAN := $(wildcard __pycache__ */__pycache__ */*/__pycache__)
ifneq ($(LIB_MK),../lib.mk)
# The runner finds the settings by the directory a shell says it is in.
export PWD := $(abspath $(dir $(LIB_MK)))/$(notdir $(OUTPUT))
endif
include $(LIB_MK)
else
.PHONY: run_tests
run_tests: .venv/.run-ready
	.venv/bin/python -m pytest -n auto --kernel auto ksmtests
endif

PYTHON ?= python3
VENV := .venv
RUN_READY := $(VENV)/.run-ready
DEV_READY := $(VENV)/.dev-ready
QA_READY := $(VENV)/.qa-ready
SITE := $(VENV)/site
PERF_READY := $(VENV)/.perf-ready
FUZZ_READY := $(VENV)/.fuzz-ready
IN_VENV := $(VENV)/bin/python -m
ROOMS := uapi mm lease kconfig arch plugins guests reports mutants bench ksmtests tests

# What guests are made with and run in: Debian's names of commands and of packages.
EMULATION := mmdebstrap lz4 qemu-system-x86_64 qemu-system-arm qemu-system-aarch64
EMULATION_PACKAGES := mmdebstrap lz4 qemu-system-x86 qemu-system-arm

# One injected bug of each class.
SMOKE := mergeable-does-not-mark sharer-not-counted fork-not-counted comparison-without-last-byte \
	set-0-clears-without-having-set smart-scan-never run-2-keeps-the-passes limit-one-too-high \
	merge-not-traced copy-not-counted

# What systems that gate kernels are run with, and reports looked at: Debian's packages. Tests skip
# what cannot be had.
SYSTEMS := autopkgtest chromium chromium-driver lava-common mmdebstrap python3-cffi \
	python3-pyroute2 python3-pytest python3-pytest-xdist

.PHONY: matrix mutants check check-kernels check-guests check-qa check-red check-mutants bench \
	bench-guests perf emulation systems docs

matrix: $(RUN_READY) emulation
	$(IN_VENV) bench.matrix

check: $(DEV_READY)
	$(IN_VENV) ruff format --check $(ROOMS) conftest.py
	$(IN_VENV) ruff check $(ROOMS) conftest.py
	$(IN_VENV) mypy
	PYTHONPATH=. $(VENV)/bin/lint-imports
	$(IN_VENV) pytest -m 'not guest and not sabotage and not qa' tests
	$(IN_VENV) pytest -n auto ksmtests

# The pages of docs/ as a site, in $(SITE); fails on a link that leads nowhere.
docs: $(DEV_READY)
	NO_MKDOCS_2_WARNING=1 $(IN_VENV) mkdocs build --strict --site-dir $(SITE)

# The tests of zero pages on an emulated kernel of each architecture.
check-kernels: $(DEV_READY) emulation
	$(IN_VENV) pytest -n auto --kernel 7.2-amd64 --kernel 7.2-arm64 --kernel 7.2-armhf \
		-m zero_pages ksmtests

check-guests: $(DEV_READY) emulation
	$(IN_VENV) pytest -m guest tests

# Runs the suite in the systems that gate kernels, as they do, and looks at reports in a browser.
check-qa: $(QA_READY) systems
	$(IN_VENV) pytest -n 2 -m qa tests

# Runs the suite on a kernel that seems to have one bug after another; takes its time.
check-red: $(DEV_READY)
	$(IN_VENV) pytest -m sabotage tests

# The suite on a kernel with one injected bug after another (docs/mutants.md); ten of them at first.
mutants: $(RUN_READY) emulation
	$(IN_VENV) mutants run

check-mutants: $(RUN_READY) emulation
	$(IN_VENV) mutants run --again --trust $(SMOKE:%=--bug=%)

# Hours of it: runs that are killed, repeated, loaded, and in guests (docs/reliability.md).
KILLS ?= 200
REPEATS ?= 100
LOADED ?= 50
GUESTS ?= 20
.PHONY: soak
soak: $(DEV_READY) emulation
	$(IN_VENV) tests.soak --kills $(KILLS) --repeats $(REPEATS) --loaded $(LOADED) --guests $(GUESTS)

# Half a minute of what libFuzzer thinks of, for each of the parsers of what is not trusted.
.PHONY: fuzz
fuzz: $(FUZZ_READY)
	$(IN_VENV) tests.fuzz messages
	$(IN_VENV) tests.fuzz configurations

bench: $(RUN_READY)
	$(IN_VENV) bench

# How long KSM takes on this kernel. The figures are kept in .benchmarks; compare two runs by
# `.venv/bin/pytest-benchmark compare`, or records of them (ARGS=--record=FILE) by
# `python -m reports html`.
perf: $(PERF_READY)
	$(IN_VENV) pytest -p no:xdist --benchmark-autosave $(ARGS) ksmtests/perf/measure_*.py

# How long guests take, from an empty cache and from full ones, beside vng.
bench-guests: $(RUN_READY) emulation
	$(IN_VENV) bench.guests

emulation:
	@for command in $(EMULATION); do command -v $$command >/dev/null || missing=$$command; done; \
	[ -z "$$missing" ] || apt-get install -y --no-install-recommends $(EMULATION_PACKAGES) || \
		{ echo "$$missing is missing: install $(EMULATION_PACKAGES)" >&2; exit 1; }

systems:
	@dpkg-query -s $(SYSTEMS) >/dev/null 2>&1 || apt-get -q update || true
	@for package in $(SYSTEMS); do \
		dpkg-query -s $$package >/dev/null 2>&1 || \
		apt-get install -y --no-install-recommends $$package || \
		echo "$$package cannot be installed" >&2; \
	done

$(VENV)/bin/python:
	$(PYTHON) -c 'import ensurepip' 2>/dev/null || apt-get install -y python3-venv || \
		{ echo "$(PYTHON) lacks venv: install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(IN_VENV) pip install --quiet --upgrade 'pip>=25.1'

$(RUN_READY): pyproject.toml | $(VENV)/bin/python
	$(IN_VENV) pip install --quiet --group run
	touch $@

$(FUZZ_READY): pyproject.toml | $(VENV)/bin/python
	$(IN_VENV) pip install --quiet --group fuzz
	touch $@

$(PERF_READY): pyproject.toml | $(VENV)/bin/python
	$(IN_VENV) pip install --quiet --group perf
	touch $@

$(QA_READY): pyproject.toml | $(VENV)/bin/python
	$(IN_VENV) pip install --quiet --group qa
	touch $@ $(DEV_READY) $(RUN_READY)

$(DEV_READY): pyproject.toml | $(VENV)/bin/python
	$(IN_VENV) pip install --quiet --group dev
	touch $@ $(RUN_READY)
