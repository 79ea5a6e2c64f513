"""Where the project is: these suites run against the template folder in place, which holds no Jinja in Python or
YAML."""

from pathlib import Path

HARNESS_TESTS = Path(__file__).resolve().parent
PROJECT = HARNESS_TESTS.parents[1] / "{{cookiecutter.project_slug}}"

# Seconds after which something hangs: at least ten times what an idle, slow machine needs for the longest of them.
PATIENCE = 1200.0
# Variables of those who run the tests: others' packages would warn in between of what a user sees.
NO_USER_HAS = ("HYDRA_FULL_ERROR", "PYTHONWARNDEFAULTENCODING")
