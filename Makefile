# `make check` before pushing; `.ci/run` runs the same and more on a bare machine.
UV ?= uv
RUN = $(UV) run --no-sync

.PHONY: check sync format lint types imports lock size test wheels sanitize new-family

check: format lint types imports lock size test

sync:
	$(UV) sync

format:
	$(RUN) ruff format --check .

lint:
	$(RUN) ruff check .

types:
	$(RUN) mypy packages/*/src apps/*/src benchmarks/src

imports:
	$(RUN) lint-imports

lock:
	$(UV) lock --check
	$(UV) pip check

size:
	$(RUN) python tests/packaging/size_report.py

test:
	$(RUN) pytest -n auto

wheels:
	$(RUN) python tests/packaging/check_wheels.py

sanitize:
	$(MAKE) -C packages/vlm-kernels/native sanitize

new-family:
	$(RUN) python tests/packaging/new_family.py $(NAME)
