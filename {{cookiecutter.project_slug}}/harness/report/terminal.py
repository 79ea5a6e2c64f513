"""Tell in the terminal what there is to say about a run, and write its page."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.report.facts import duration, facts
from harness.report.read import read
from harness.report.rules import judge

COLOURS = {"good": "green", "watch": "yellow", "bad": "red"}
UNITS = {"loss": "{:.4f}", "val_loss": "{:.4f}", "accuracy": "{:.1%}", "lr": "{:.3g}", "gradient": "{:.3g}"}


def report(runs: list[Path], as_json: bool, out: Path | None) -> None:
    """Analyse `runs` and write the page, or with `as_json` only print the analysis."""
    records = [read(folder) for folder in runs]
    found = [facts(record) | {"findings": [asdict(finding) for finding in judge(record)]} for record in records]
    if as_json:
        print(json.dumps(found[0] if len(found) == 1 else found, indent=2))
        return
    console = Console(highlight=False)
    for one in found:
        tell(one, console)
    from harness.report.html import page

    out = out or (runs[0] if len(runs) == 1 else runs[0].resolve().parent) / "report.html"
    out.write_text(page(records), encoding="utf-8")
    console.print(f"The page: {out.as_posix()}", soft_wrap=True)


def tell(facts: dict[str, Any], console: Console) -> None:
    """Print the `facts` of one run: what happened, the numbers, the findings and what to try next."""
    head(facts, console)
    console.print(curves(facts))
    if len(facts["epochs"]) > 1:
        console.print(epochs(facts))
    if facts["modules"]:
        console.print(modules(facts))
    console.print(f"[dim]events: {', '.join(f'{count:,} {name}' for name, count in facts['events'].items())}[/]\n")
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


def head(facts: dict[str, Any], console: Console) -> None:
    size = facts["parameters"].get("total")
    words = [
        facts["status"],
        f"{size:,} parameters" if size else "",
        f"{facts['step']:,} steps",
        f"{facts['attempts']} attempts" if facts["attempts"] > 1 else "",
        duration(facts["seconds"]),
    ]
    console.print(f"\n[bold]{escape(facts['name'])}[/]  {' · '.join(word for word in words if word)}\n")


def curves(facts: dict[str, Any]) -> Table:
    table = Table("", "first", "last", "lowest", "highest", "mean", box=None, pad_edge=False, header_style="dim")
    for name, curve in facts["curves"].items():
        form = UNITS.get(name, "{:,.0f}")
        numbers = (curve[column] for column in ("first", "last", "lowest", "highest", "mean"))
        table.add_row(name.replace("_", " "), *map(form.format, numbers))
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def epochs(facts: dict[str, Any]) -> Table:
    table = Table("epoch", "loss", "accuracy", "learning rate", box=None, pad_edge=False, header_style="dim")
    for epoch, ends in facts["epochs"].items():
        columns = [(ends.get(name), UNITS[name]) for name in ("loss", "accuracy", "lr")]
        table.add_row(str(epoch), *[" -> ".join(map(form.format, pair)) if pair else "" for pair, form in columns])
    return table


def modules(facts: dict[str, Any]) -> Table:
    table = Table("largest gradients", "mean norm", box=None, pad_edge=False, header_style="dim")
    for name, norm in facts["modules"].items():
        table.add_row(escape(name), f"{norm:.3g}")
    return table
