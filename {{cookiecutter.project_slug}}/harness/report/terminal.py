"""Tell in the terminal what there is to say about a run, and write its page.

What a log says may come from anybody, so nothing of it reaches the terminal that a terminal would obey.
"""

import errno
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.errors import UserError
from harness.files import write_whole
from harness.report.facts import NUMBERS, duration, facts, size
from harness.report.read import read, runs_in
from harness.report.record import number
from harness.report.rules import judge
from harness.report.sweep import HEADS, Row, effects, rows_in
from harness.telemetry.plain import printable, strip_ansi

COLOURS = {"good": "green", "watch": "yellow", "bad": "red"}
UNITS = {"loss": "{:.4f}", "val_loss": "{:.4f}", "accuracy": "{:.1%}", "lr": "{:.3g}", "gradient": "{:.3g}"}


CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]+")  # bidirectional overrides, too


def report(runs: list[Path], as_json: bool, out: Path | None) -> None:
    """Analyse `runs`, and all runs in folders of them, and write the page; with `as_json` only print the analysis."""
    folders = [folder for given in runs for folder in runs_in(given)]
    records = [read(folder) for folder in folders]
    found = [facts(record) | {"findings": [asdict(symptom) for symptom in judge(record)]} for record in records]
    if as_json:
        print(json.dumps(found[0] if folders == runs and len(found) == 1 else found, indent=2))
        return
    console = Console(highlight=False)
    for one in found:
        tell(harmless(one), console)
    if len(found) > 1:
        console.print(comparison([harmless(one) for one in found]), "")
    swept = [row for given in runs for row in rows_in(given)]
    show_effects(swept, console)
    from harness.report.html import page

    out = out or (runs[0] if len(runs) == 1 else runs[0].resolve().parent) / "report.html"
    write(out, page(records, swept))
    console.print(f"The page: {harmless(out.as_posix())}", soft_wrap=True, markup=False)


def write(out: Path, text: str) -> None:
    try:
        if out.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        write_whole(out, text)
    except OSError as error:
        raise UserError(f"The page cannot be written to {out}: {error.strerror}.", cure="Try --out FILE.") from error


def harmless(value: Any) -> Any:
    """Return plain data without what a terminal obeys: escape sequences and other control characters."""
    return printable(value, lambda text: CONTROL.sub(" ", strip_ansi(text)))


def tell(facts: dict[str, Any], console: Console) -> None:
    """Print the `facts` of one run: what happened, the numbers, the findings and what to try next."""
    head(facts, console)
    console.print(curves(facts))
    if facts["epochs"]:
        console.print(epochs(facts))
    if facts["modules"]:
        console.print(modules(facts))
    for line in counts(facts):
        console.print(f"[dim]{escape(line)}[/]")
    console.print()
    for finding in facts["findings"]:
        colour = COLOURS[finding["level"]]
        console.print(
            f"[bold {colour}]{finding['level']:5}[/] [bold]{escape(finding['title'])}[/]: {escape(finding['evidence'])}"
        )
        if finding["try_next"]:
            console.print(
                f"      [dim]try[/]  {escape(finding['try_next'])} [dim](docs/troubleshooting.md#{finding['page']})[/]"
            )
    console.print()


def counts(facts: dict[str, Any]) -> Iterator[str]:
    """Yield lines on what was counted: labels, updates, events."""
    if labels := facts["labels"]:
        low, high = labels.get("label_min", "none"), labels.get("label_max", "none")
        yield f"labels: {low} to {high}, with a vocabulary of {labels.get('vocabulary', 'unknown size')}"
    if updates := facts["updates"]:
        recorded = ", ".join(f"{updates.get(kind, 0):,} moved {kind}" for kind in ("all", "some", "none"))
        yield f"updates: {recorded} of the parameters, of {sum(updates.values()):,} recorded steps"
    for what, found in facts["plan"].items():
        form = duration if what == "seconds" else size
        planned, actual = form(found["planned"]), form(found["actual"])
        name = "time" if what == "seconds" else what
        yield f"{name}: {planned} planned, {actual} taken, a ratio of {found['ratio']:.2f}"
    yield "events: " + ", ".join(f"{count:,} {name}" for name, count in facts["events"].items())


def comparison(found: list[dict[str, Any]]) -> Table:
    """Return one line for each run, the best validation loss first."""
    table = Table("run", "steps", "last loss", "best validation loss", box=None, pad_edge=False, header_style="dim")

    def best(facts: dict[str, Any], name: str, which: str) -> float:
        return float(facts["curves"].get(name, {}).get(which, math.inf))

    for one in sorted(found, key=lambda one: best(one, "val_loss", "lowest")):
        numbers = (best(one, "loss", "last"), best(one, "val_loss", "lowest"))
        shown = (f"{value:.4f}" if math.isfinite(value) else "" for value in numbers)
        table.add_row(escape(one["name"]), f"{one['step']:,}", *shown)
    return table


def show_effects(rows: Sequence[Row], console: Console) -> None:
    """Print what each swept key does, where anything can be said."""
    if found := effects(rows):
        table = Table(*HEADS, box=None, pad_edge=False, header_style="dim")
        for effect in found:
            table.add_row(*(escape(harmless(cell)) for cell in effect.cells()))
        console.print(table, "")


def head(facts: dict[str, Any], console: Console) -> None:
    size = number(facts["parameters"], "total")
    words = [
        facts["status"],
        f"{size:,.0f} parameters" if size else "",
        f"{facts['step']:,} steps",
        f"{facts['attempts']} attempts" if facts["attempts"] > 1 else "",
        duration(facts["seconds"]),
    ]
    console.print(f"\n[bold]{escape(facts['name'])}[/]  {escape(' · '.join(word for word in words if word))}\n")


def curves(facts: dict[str, Any]) -> Table:
    table = Table("", *NUMBERS, box=None, pad_edge=False, header_style="dim")
    for name, curve in facts["curves"].items():
        form = UNITS.get(name, "{:,.0f}")
        table.add_row(name.replace("_", " "), *(form.format(curve[key]) for key in NUMBERS))
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def epochs(facts: dict[str, Any]) -> Table:
    titles = ("epoch", "steps", "mean loss", "loss", "mean accuracy", "learning rate")
    table = Table(*titles, box=None, pad_edge=False, header_style="dim")
    for epoch, found in facts["epochs"].items():
        cells = (
            cell(found, "loss", "mean"),
            cell(found, "loss", "first", "last"),
            cell(found, "accuracy", "mean"),
            cell(found, "lr", "first", "last"),
        )
        table.add_row(str(epoch), f"{found['steps']:,}", *cells)
    return table


def cell(found: dict[str, Any], name: str, *which: str) -> str:
    return " -> ".join(UNITS[name].format(found[name][key]) for key in which) if name in found else ""


def modules(facts: dict[str, Any]) -> Table:
    table = Table("largest gradients", "mean norm", box=None, pad_edge=False, header_style="dim")
    for name, norm in facts["modules"].items():
        table.add_row(escape(name), f"{norm:.3g}")
    return table
