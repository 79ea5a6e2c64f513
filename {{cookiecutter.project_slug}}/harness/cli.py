"""The frame of every command: go to the project, read .env, call the target, print failures as sentences.

Nothing heavy is imported before the arguments are right, so that help, completion and a typo answer at once: Hydra only
for a command that composes a config (hydra_main.py), torch only by the target.
"""

# ruff: noqa: E402
import os
import sys


def _say_interrupt(kind: "type[BaseException]", error: BaseException, trace: "TracebackType | None") -> None:
    if issubclass(kind, KeyboardInterrupt) and os.environ.get("HYDRA_FULL_ERROR") != "1":
        print("Stopped by Ctrl-C.", file=sys.stderr)
        sys.exit(130)
    sys.__excepthook__(kind, error, trace)


sys.excepthook = _say_interrupt  # before anything takes time, until `secrets_hidden` brings its own

import gc
import importlib
import math
import signal
from argparse import ArgumentParser as ArgumentParser  # the scripts take it from here, and so import nothing sooner
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from harness import later
from harness.errors import UserError


def run(target: str, *, debug: bool = False) -> None:
    """Run `module:function` on the config that the command line composes: the frame of train.py and debug.py.

    `debug` clears the debug folder before, and takes the preset `default` where no other is named.
    """
    interrupt_ends_at_once()
    with report_user_errors():
        if {"-h", "--help"} & set(sys.argv[1:]):
            from harness.config.help import help_page

            print(help_page())
            return
        from harness.config import secrets

        secrets.learn(sys.argv[1:])
        to_project_folder()
        gc.disable()  # until `call`; Hydra, too, makes no garbage: an eighth of the wait for a wrong value's answer
        try:
            load("harness.hydra_main:run")(target, debug=debug)
        finally:
            gc.enable()


def to_project_folder() -> None:
    """Go to the project's own folder from one below it, such as devtools/: paths are relative to the project."""
    from harness.config.names import CONF

    project = CONF.parent
    if project in Path.cwd().resolve().parents:
        print(f"Paths are relative to the project, {project}.", file=sys.stderr)
        os.chdir(project)


def tool(target: str, parser: ArgumentParser, *, words: Sequence[str] | None = None, **given: Any) -> None:
    """Run `module:function` on parsed arguments: the frame of the commands that take a run instead of a config.

    words: what was typed, where that is not all of the command line.
    """
    interrupt_ends_at_once()
    with report_user_errors():
        # First, so that what is missing is said before torch is imported; options may stand between the words.
        arguments = vars(parser.parse_intermixed_args(words))
        from harness.config.compose import hydra_errors_as_user_errors

        with hydra_errors_as_user_errors():
            call(target, **arguments, **given)


def add_trust(parser: ArgumentParser) -> None:
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
            raise ArgumentTypeError(f"{text} is not a finite number")
        if value < least:
            raise ArgumentTypeError(f"{text} is too small: the least is {least}")
        if value > most:
            raise ArgumentTypeError(f"{text} is too large: the most is {most}")
        return value

    parse.__name__ = "whole number" if kind is int else "number"  # argparse names it in "invalid … value"
    return parse


def load(target: str) -> Callable[..., Any]:
    """Return the function that `module:function` names."""
    later.spare_scipy()
    module, _, function = target.partition(":")
    return getattr(importlib.import_module(module), function)  # type: ignore[no-any-return]


def call(target: str, *args: Any, **kwargs: Any) -> Any:
    """Import the function that `module:function` names, and call it. From here on Ctrl-C is an exception again."""
    gc.disable()  # imports make many objects and no garbage: a tenth of the time to the first step
    function = load(target)
    gc.freeze()  # nor are they looked at again
    gc.enable()
    if signal.getsignal(signal.SIGINT) is _end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return function(*args, **kwargs)


def interrupt_ends_at_once() -> None:
    """Let Ctrl-C end the process until a target is called: nothing has been made, and an exception in the middle of an
    import is a long traceback, or lost where a library catches all. HYDRA_FULL_ERROR=1 leaves it that traceback."""
    if os.environ.get("HYDRA_FULL_ERROR") != "1":
        signal.signal(signal.SIGINT, _end_at_once)


def _end_at_once(signum: int, frame: FrameType | None) -> None:
    os.write(2, b"Stopped by Ctrl-C.\n")
    os._exit(128 + signum)


@contextmanager
def report_user_errors() -> Iterator[None]:
    """Print a UserError as its sentence and exit with its code; HYDRA_FULL_ERROR=1 shows the traceback."""
    from harness.console import secrets_hidden

    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    # Hydra would print its own shortened traceback and exit with 1; so set, it hands exceptions to us as they were.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    with secrets_hidden():
        try:
            yield
        except UserError as error:
            if wants_traceback:
                _print_traceback()
            print(error, file=sys.stderr)
            sys.exit(error.code)
        except KeyboardInterrupt:  # before training listens to it, or in a tool
            if wants_traceback:
                _print_traceback()
            print("Stopped by Ctrl-C.", file=sys.stderr)
            sys.exit(128 + signal.SIGINT)


def _print_traceback() -> None:
    import traceback

    traceback.print_exc()
