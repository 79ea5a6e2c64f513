"""The frame of every command: go to the project, read .env, call the target, print failures as sentences.

Nothing heavy is imported before the arguments are right, so that help, completion and a typo answer at once: Hydra only
for a command that composes a config (hydra_main.py), torch only by the target.
"""

import argparse
import gc
import importlib
import math
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.config import secrets
from harness.config.names import CONF
from harness.console import secrets_hidden
from harness.errors import UserError


def run(target: str, *, debug: bool = False) -> None:
    """Run `module:function` on the config that the command line composes: the frame of train.py and debug.py.

    `debug` clears the debug folder before, and takes the preset `default` where no other is named.
    """
    with report_user_errors():
        if {"-h", "--help"} & set(sys.argv[1:]):
            from harness.config.help import help_page

            print(help_page())
            return
        secrets.learn(sys.argv[1:])
        to_project_folder()
        gc.disable()  # Hydra makes many objects and no garbage: an eighth of the wait for a wrong value's answer
        try:
            load("harness.hydra_main:run")(target, debug=debug)
        finally:
            gc.enable()


def to_project_folder() -> None:
    """Go to the project's own folder from one below it, such as devtools/: paths are relative to the project."""
    project = CONF.parent
    if project in Path.cwd().resolve().parents:
        print(f"Paths are relative to the project, {project}.", file=sys.stderr)
        os.chdir(project)


def tool(target: str, parser: argparse.ArgumentParser, *, words: Sequence[str] | None = None, **given: Any) -> None:
    """Run `module:function` on parsed arguments: the frame of the commands that take a run instead of a config.

    words: what was typed, where that is not all of the command line.
    """
    with report_user_errors():
        # First, so that what is missing is said before torch is imported; options may stand between the words.
        arguments = vars(parser.parse_intermixed_args(words))
        function = load(target)
        from harness.config.compose import hydra_errors_as_user_errors

        with hydra_errors_as_user_errors():
            function(**arguments, **given)


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add --trust to a command that builds what a run's config names."""
    parser.add_argument(
        "--trust", metavar="NAME", action="append", default=[],
        help="build this of the run's config too: a class, a package of yours or a key; see SECURITY.md",
    )  # fmt: skip


def number(kind: type[int] | type[float], least: float, most: float = math.inf) -> Callable[[str], float]:
    """Return an argparse type: a finite number that is at least, and at most, so much."""

    def parse(text: str) -> float:
        value = kind(text)
        if isinstance(value, float) and not math.isfinite(value):
            raise argparse.ArgumentTypeError(f"{text} is not a finite number")
        if value < least:
            raise argparse.ArgumentTypeError(f"{text} is too small: the least is {least}")
        if value > most:
            raise argparse.ArgumentTypeError(f"{text} is too large: the most is {most}")
        return value

    parse.__name__ = "whole number" if kind is int else "number"  # argparse names it in "invalid … value"
    return parse


def load(target: str) -> Callable[..., Any]:
    """Return the function that `module:function` names."""
    module, _, function = target.partition(":")
    return getattr(importlib.import_module(module), function)  # type: ignore[no-any-return]


@contextmanager
def report_user_errors() -> Iterator[None]:
    """Print a UserError as its sentence and exit with its code; HYDRA_FULL_ERROR=1 shows the traceback."""
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    # Hydra would print its own shortened traceback and exit with 1; so set, it hands exceptions to us as they were.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    with secrets_hidden():
        try:
            yield
        except UserError as error:
            if wants_traceback:
                traceback.print_exc()
            print(error, file=sys.stderr)
            sys.exit(error.code)
        except KeyboardInterrupt:  # before training listens to it, or in a tool
            if wants_traceback:
                traceback.print_exc()
            print("Stopped by Ctrl-C.", file=sys.stderr)
            sys.exit(128 + signal.SIGINT)
