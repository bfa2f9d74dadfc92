# All set-up is in two commands: sudo make run, sudo make test. They install what is missing and may be run again.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help run serve clean clean-cache setup test test-house test-unit test-host test-e2e test-slow test-isolation test-faults test-fuzz lint bench lock

help: ## show this
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

run: ## set up, start the agent, make the demo VMs, stay in the foreground (root)
	@.ci/up run

serve: ## the same without the demo VMs (root)
	@.ci/up serve

clean: ## remove all VMs of the agent, its hook, its files and the daemons that run started; caches stay (root)
	@.ci/clean

clean-cache: ## remove what was built and cached (root)
	@.ci/clean cache

setup: ## only install what is missing (root)
	@.ci/setup run
	@.ci/setup test

test: ## set up and run all tests but the slow ones (root)
	@.ci/setup test
	@.ci/tests all

test-house: ## only linters, types, layers, sizes (root)
	@.ci/setup test
	@.ci/tests house

test-unit: ## only the pure tests (root)
	@.ci/setup test
	@.ci/tests unit

test-host: ## only the tests with namespaces of their own (root)
	@.ci/setup test
	@.ci/tests host

test-e2e: ## only the tests with guests (root)
	@.ci/setup test
	@.ci/tests e2e

test-slow: ## only the slow tests: minutes (root)
	@.ci/setup test
	@.ci/tests slow

test-isolation: ## what hostile guests try, with floods of 20 s and a thousand rule changes under a live stream (root)
	@.ci/setup test
	@.ci/tests isolation -s

test-faults: ## kill, fail and hang the agent at every step, and compare the whole host after each: three quarters of an hour (root)
	@.ci/setup test
	@.ci/tests faults

test-fuzz: ## thousands of made-up requests and documents: an hour; FUZZ="--fuzz-seed 7 --fuzz-cases 500" (root)
	@.ci/setup test
	@.ci/tests fuzz $(FUZZ)

lint: test-house ## the same as test-house

bench: ## measure what lvagent adds to libvirt's own work; BENCH=arguments (root)
	@.ci/setup test
	@.ci/python -m tests.bench.bench $(BENCH)

lock: ## resolve the versions of pyproject.toml anew into .ci/*.lock
	@.ci/lock
