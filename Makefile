# make repro: the environment, then the whole pipeline. make test: the same environment, then the tests.
# make test ARGS="-m 'slow or not slow'": all of the tests; other arguments of pytest likewise.
# make gpu: on a machine with an NVIDIA GPU, the tables of what it does there, in docs/results.md.
# make verify [ROW=custom]: everything, or one row, made again in a clean clone and compared with what is committed.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
READY := $(VENV)/ready
BIN := $(VENV)/bin
UV := uv==0.13.9
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: repro test verify pull lint published gpu clean

repro: $(READY) published
	@dvc repro

# A process more than cores, since some tests wait, and no more than four, since each loads torch; files in their
# order, since those with the fewest tests, which would else come last, hold the longest.
test: $(READY)
	@pytest -n $$(($$(nproc) < 4 ? $$(nproc) + 1 : 4)) --dist loadfile --no-loadscope-reorder $(ARGS)

# What somebody has pushed to the project's DVC remote, but for videos and frames; then what must run, if anything.
pull: $(READY) published
	@dvc pull --allow-missing && dvc repro --allow-missing

verify: $(READY)
	@python -m r2plus1d verify $(ROW)

gpu: $(READY)
	@status=0; for script in gpu_inference gpu_training gpu_full_size; do \
	  python benchmarks/speed/$$script.py || status=1; \
	done; python benchmarks/speed/data_path.py --report; exit $$status

lint: $(READY)
	@ruff check . && ruff format --check . && mypy

# The local tag `published`, so that `dvc metrics diff published` compares with the published figures.
published: $(READY)
	@python -m r2plus1d published

# uv takes less time than pip. It looks where pip is set to look; where it fails, as where a setting of pip has no like
# in uv, pip itself installs the same.
$(READY): pyproject.toml constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "error: Python 3.11 or newer is needed, and there is no python3 on the PATH"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) -V 2>&1). Use: make PYTHON=/path/to/python3.11"; exit 1; }
	@"$(PYTHON)" -m venv $(VENV) >$(VENV).log 2>&1 || { \
	  echo "error: cannot create $(VENV) (on Debian: apt install python3-venv): $$(tail -n 1 $(VENV).log)"; exit 1; }
	@echo "Installing the pinned packages into $(VENV): about 6 GB with torch, one to a few minutes."
	@if [ -t 1 ] && [ -t 2 ]; then quiet=; shown=/dev/stderr; else quiet=-q; shown=$(VENV).log; fi; \
	what="-c constraints.txt -e .[dev]"; \
	pip() { $(BIN)/pip --disable-pip-version-check "$$@"; }; \
	setting() { printf '%s\n' "$$settings" | sed -n "s/^[^=]*[.]$$1='\(.*\)'$$/\1/p" | sed 's/\\n/ /g' | head -n 1; }; \
	with_uv() { \
	  settings=$$(pip config list); \
	  export UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$$(setting index-url)}" UV_INDEX="$${UV_INDEX:-$$(setting extra-index-url)}"; \
	  export UV_FIND_LINKS="$${UV_FIND_LINKS:-$$(setting find-links)}" UV_NO_INDEX="$${UV_NO_INDEX:-$$(setting no-index)}"; \
	  export SSL_CERT_FILE="$${SSL_CERT_FILE:-$$(setting cert)}" ALL_PROXY="$${ALL_PROXY:-$$(setting proxy)}"; \
	  $(BIN)/uv pip install $$quiet --index-strategy unsafe-best-match --python $(BIN)/python $$what; \
	}; \
	{ pip install -q --retries 2 $(UV) 2>$(VENV).log && (with_uv 2>$$shown); } || \
	{ echo "uv could not install them; pip tries."; pip install $$quiet --no-compile --retries 2 $$what 2>$(VENV).log; } || { \
	  echo "error: the packages could not be installed; is there a network? Details: $(VENV).log"; exit 1; }
	@rm -f $(VENV).log
	@$(BIN)/python -m compileall -qq -j 0 -x 'site-packages/.*/tests?/' $(VENV)/lib || true # as pip does, on all cores; a template is no Python
	@touch $@

clean:
	rm -rf $(VENV) $(VENV).log
