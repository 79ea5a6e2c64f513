"""The table of `python -m lm`: a line for each command, whose module is imported once it is asked for."""

# ruff: noqa: I001
from harness.cli import interrupt_ends_at_once, tool  # first: it brings the answer to Ctrl-C

import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from harness.errors import BAD_INPUT


class Command(NamedTuple):
    """A line in the table of `python -m lm`. `module` has `arguments()`, a parser, and `TARGET`: `module:function`."""

    name: str
    module: str
    what: str
    given: Mapping[str, Any] = {}  # further arguments of the function


def run_command(program: str, table: Sequence[Command]) -> None:
    """Run the command that the first word names, or print the table."""
    interrupt_ends_at_once()
    name, *rest = sys.argv[1:] or ["--help"]
    command = next((entry for entry in table if entry.name == name), None)
    if command is None:
        print(f"{program} NAME …, where NAME is one of", *(f"  {c.name:<16}{c.what}" for c in table), sep="\n")
        if name in ("-h", "--help"):
            return
        from harness.config.names import nearest

        print(f"\nThere is no command {name!r}.{nearest(name, [c.name for c in table])}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    module: Any = importlib.import_module(command.module)
    parser = module.arguments()
    parser.prog = f"{program} {name}"
    # Not by changing sys.argv: Lightning starts the other ranks of a replay with it.
    tool(module.TARGET, parser, words=rest, **command.given)
