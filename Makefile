# Everything runs in a virtual environment of its own; Python, pip and a C++ compiler are all it takes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

SOURCES := CMakeLists.txt pyproject.toml constraints.txt $(shell find csrc -type f)

.PHONY: demo examples test bench clean

demo: $(VENV)/demo
	$(BIN)/python examples/demo.py $(if $(IMAGE),"$(IMAGE)")

# Every program once, briefly; what they write lies in runs/examples/
examples: $(VENV)/examples
	$(BIN)/python examples/digits.py train --epochs 3 --batch-size 100 --fresh --out runs/examples/digits
	$(BIN)/python examples/any_size.py train --epochs 3 --fresh --out runs/examples/any_size
	$(BIN)/python examples/transformer.py train --epochs 5 --fresh --out runs/examples/transformer
	$(BIN)/python examples/regularised.py compare --epochs 20 --few 300 --fresh --out runs/examples/regularised
	$(BIN)/python examples/unet.py train --width 8 --epochs 3 --fresh --out runs/examples/unet

test: $(VENV)/test
	$(BIN)/python -m ruff check .
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile $(ARGS)

bench: $(VENV)/bench
	$(BIN)/python -m benchmarks.run $(ARGS)

$(VENV)/pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	touch $@

# One rule for each set of extras: the package is rebuilt when its native sources change.
$(VENV)/demo $(VENV)/examples $(VENV)/test: $(VENV)/pip $(SOURCES)
	$(PIP) --editable ".[$(@F)]"
	touch $@

$(VENV)/bench: $(VENV)/test benchmarks/requirements.txt
	$(PIP) --requirement benchmarks/requirements.txt
	touch $@

clean:
	rm -rf $(VENV) build demo
