# `make demo` and `make test` do everything on a fresh machine; each target sets up what it needs.
.PHONY: setup check test test-all fix docs bench demo clean

BIN := .venv/bin

setup: .venv/.ready

.venv/.ready: pyproject.toml setup.py constraints.txt scripts/setup $(wildcard src/conjure/lm/native/*.[ch])
	scripts/setup

check: setup  ## linters, types, layers, dependencies, generated docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-cache
	$(BIN)/deptry .
	$(BIN)/python scripts/docs.py --check

test: setup  ## the whole suite at small sizes, minutes on 2 cores
	$(BIN)/pytest -n 2 --dist loadgroup

test-all: setup  ## also the large sizes
	$(BIN)/python -m pip install --quiet -c constraints.txt --group large
	$(BIN)/pytest -m "large or not large" --timeout 3600

fix: setup  ## what tools can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup  ## the parts of docs/ that follow from the code
	$(BIN)/python scripts/docs.py

demo: setup  ## the story, start to end, with the embedded model
	$(BIN)/conjure demo

bench: setup  ## figures, side by side with peers
	benchmarks/run

clean:
	rm -rf .venv build dist
