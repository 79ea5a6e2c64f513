# Every target does its own set-up: virtual environments, pinned dependencies, a freshly made project.
#   make demo        make a project in ./demo and train it on text that is already on this machine
#   make test        the tests of the template, of the machinery (fast ones) and of a project made from it: a quarter of an hour
#   make test-all    the slow and the fault suites as well, the debugger's sessions among them: hours
#   make bench       what it costs, compared with what is on file for this kind of machine: five minutes
#   make test-template   make test-harness   make test-project   make lint   make typecheck   make clean

VENV := .venv
BUILD := build
DEMO := demo
# A process for each core, up to four; each with one thread of its own. `make PARALLEL= test-harness` runs one by one.
PARALLEL := --numprocesses auto --maxprocesses 4 --dist worksteal
# What `make demo` adds to `python train.py`.
TRAIN :=

# The first Python that is new enough and can make virtual environments.
ifndef PYTHON
PYTHON := $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,$(shell \
	$(name) -c 'import ensurepip, sys, venv; print(sys.executable if sys.version_info >= (3, 11) else "")' 2>/dev/null)))
endif

TEMPLATE := {{cookiecutter.project_slug}}
BAKED := $(abspath $(BUILD))/my-lm
BAKED_VENV := $(abspath $(BUILD))/venv
DEMO_VENV := $(abspath $(DEMO))/.venv

PIP := -m pip --disable-pip-version-check install --no-input -qq
# Cookiecutter copies all that lies in a template folder, caches and runs too: hence from a clean copy.
COPY := rm -rf '$(BUILD)/template' && '$(VENV)/bin/python' tests/copy_template.py '$(BUILD)/template'
# Bytecode stays out of the template folder, and a file that is opened without its encoding is an error.
PYTHON_IN_PLACE := PYTHONDONTWRITEBYTECODE=1 PYTHONWARNDEFAULTENCODING=1 '$(BAKED_VENV)/bin/python'
BAKE := $(COPY) && '$(VENV)/bin/python' -m cookiecutter '$(BUILD)/template' --no-input --accept-hooks=no

.PHONY: demo test test-all test-template test-harness test-harness-all test-project lint typecheck bench bake clean python

demo: $(DEMO)/train.py $(DEMO_VENV)/installed
	cd '$(DEMO)' && '$(DEMO_VENV)/bin/python' train.py $(TRAIN)
	@echo 'The project is in ./$(DEMO). Go on with: cd $(DEMO) && . .venv/bin/activate    and read its README.md'

$(DEMO)/train.py: | $(VENV)/installed
	@echo 'Making a project in ./$(DEMO)'
	@$(BAKE) --output-dir '$(dir $(abspath $(DEMO)))' project_name=Demo project_slug='$(notdir $(DEMO))'

$(DEMO_VENV)/installed: | $(DEMO)/train.py
	@echo 'Installing it with torch, lightning and transformers into $(DEMO_VENV): a minute or two'
	@'$(PYTHON)' -m venv '$(DEMO_VENV)'
	@'$(DEMO_VENV)/bin/python' $(PIP) -e '$(DEMO)' -c '$(DEMO)/constraints.txt'
	@touch $@

test: test-template test-harness test-project

test-all: test-template test-harness-all test-project

# Needs no torch.
test-template: $(VENV)/installed
	'$(VENV)/bin/python' -m pytest $(PARALLEL) -m 'not project'

# Against the template folder in place: the environment is that of a made project, the code is not.
test-harness: $(BAKED_VENV)/installed
	cd tests/harness && OMP_NUM_THREADS=1 $(PYTHON_IN_PLACE) -m pytest $(PARALLEL)

test-harness-all: $(BAKED_VENV)/installed
	cd tests/harness && $(PYTHON_IN_PLACE) -m pytest -m 'slow or fault or not slow'

test-project: $(BAKED_VENV)/installed
	cd '$(BAKED)' && PYTHONWARNDEFAULTENCODING=1 '$(BAKED_VENV)/bin/python' -m pytest
	PROJECT_VENV='$(BAKED_VENV)' TEMPLATE_VENV='$(abspath $(VENV))' '$(VENV)/bin/python' -m pytest $(PARALLEL) -m project

lint: $(VENV)/installed
	'$(VENV)/bin/python' -m ruff check .
	@'$(VENV)/bin/python' tests/count_lines.py

typecheck: $(BAKED_VENV)/installed
	cd '$(BAKED)' && '$(BAKED_VENV)/bin/python' -m mypy

# Not part of `make test`: a busy machine is no mistake of the code's.
bench: $(BAKED_VENV)/installed
	'$(BAKED_VENV)/bin/python' benchmarks/run.py short --short --compare

# A new project each time; its environment is made again only when its requirements change.
bake: $(VENV)/installed
	@rm -rf '$(BAKED)'
	@$(BAKE) --output-dir '$(BUILD)'

$(BAKED_VENV)/installed: $(TEMPLATE)/pyproject.toml $(TEMPLATE)/constraints.txt tests/harness/requirements.txt | bake
	@echo 'Installing the project and its tools into $(BAKED_VENV): a minute or two'
	@'$(PYTHON)' -m venv --clear '$(BAKED_VENV)'
	@'$(BAKED_VENV)/bin/python' $(PIP) -e '$(BAKED)[dev]' -r tests/harness/requirements.txt -c '$(BAKED)/constraints.txt'
	@touch $@

$(VENV)/installed: requirements-dev.txt | python
	@echo "Installing the template's tools into $(VENV)"
	@'$(PYTHON)' -m venv --clear '$(VENV)'
	@'$(VENV)/bin/python' $(PIP) -r requirements-dev.txt
	@touch $@

python:
	@test -n '$(PYTHON)' || { echo 'No Python 3.11 or newer that can make virtual environments was found.' \
		'On Debian: apt install python3-venv. Or name one: make PYTHON=/path/to/python3' >&2; exit 2; }

clean:
	rm -rf '$(VENV)' '$(BUILD)' '$(DEMO)'
