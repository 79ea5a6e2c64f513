"""How large is a made project? python tests/count_lines.py prints it, and fails where a limit is passed (`make lint`).

The experiment, lm/, is to be read in an evening; what a user has to look after stays small.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "{{cookiecutter.project_slug}}"


@dataclass(frozen=True)
class Limit:
    """The most lines of a folder and of each of its modules; None for no limit."""

    folder: int | None = None
    module: int | None = None


LIMITS = {
    "lm": Limit(folder=2500, module=250),
    "media": Limit(module=250),
    "harness": Limit(module=250),
    "tests": Limit(folder=1500),
}


@dataclass(frozen=True)
class Size:
    """Lines of something that has a name."""

    lines: int
    name: str

    def __str__(self) -> str:
        return f"{self.name} ({self.lines})"


def modules(folder: Path) -> list[Size]:
    """Return the size of every Python file below a folder, the longest first."""
    sizes = [
        Size(len(file.read_text(encoding="utf-8").splitlines()), file.relative_to(folder.parent).as_posix())
        for file in folder.rglob("*.py")
    ]
    return sorted(sizes, key=lambda size: (-size.lines, size.name))


def functions(file: Path) -> Iterator[Size]:
    """Yield the size of every function and method of a file, without its decorators."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield Size((node.end_lineno or node.lineno) - node.lineno + 1, f"{file.stem}.{node.name}")


def longest_function(folder: Path) -> Size:
    sizes = [size for file in sorted(folder.rglob("*.py")) for size in functions(file)]
    return max(sizes, key=lambda size: size.lines, default=Size(0, "none"))


def complaints(name: str, sizes: list[Size], limit: Limit) -> Iterator[str]:
    """Yield a sentence for each limit that is passed."""
    total = sum(size.lines for size in sizes)
    if limit.folder and total > limit.folder:
        yield f"{name}/ has {total:,} lines: the limit is {limit.folder:,}."
    for size in sizes:
        if limit.module and size.lines > limit.module:
            yield f"{size.name} has {size.lines} lines: the limit is {limit.module}."


def main(project: Path = PROJECT) -> int:
    """Print the table; return 1 where a limit is passed."""
    wrong: list[str] = []
    print(f"{'':8} {'lines':>6} {'limit':>6} {'files':>5}  longest module, longest function")
    for name, limit in LIMITS.items():
        sizes = modules(project / name)
        allowed = f"{limit.folder:,}" if limit.folder else ""
        most = f"{sizes[0] if sizes else 'none'}, {longest_function(project / name)}"
        print(f"{name + '/':8} {sum(size.lines for size in sizes):>6,} {allowed:>6} {len(sizes):>5}  {most}")
        wrong += complaints(name, sizes, limit)
    print(*wrong, sep="\n", end="\n" if wrong else "", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
