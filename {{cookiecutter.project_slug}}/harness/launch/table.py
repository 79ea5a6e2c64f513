"""What a sweep came to: a table on the console, `sweep.csv`, `sweep.json`, and a page with all curves."""

import csv
import io
import json
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.errors import UserError
from harness.files import write_whole
from harness.launch.status import Status
from harness.report.sweep import rows_in, rows_of
from harness.report.terminal import show_effects

COLOURS = {
    "finished": "green",
    "pruned": "cyan",
    "failed": "bold red",
    "stopped": "yellow",
    "running": "yellow",
    "waiting": "dim",
}


def write(folder: Path, jobs: list[Status]) -> None:
    """Write `sweep.csv` and `sweep.json`, a row for each job."""
    keys = list(dict.fromkeys(key for job in jobs for key in job.overrides))
    rows = [asdict(job) | job.overrides for job in jobs]
    columns = ["name", *keys, "state", "step", "val_loss", "seconds", "reason", "log"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(folder / "sweep.csv", text.getvalue())
    write_whole(folder / "sweep.json", json.dumps([asdict(job) for job in jobs], indent=2) + "\n")


def show(jobs: list[Status]) -> None:
    """Print a row for each job, and what each key does."""
    keys = list(dict.fromkeys(key for job in jobs for key in job.overrides))
    table = Table(*keys, "state", "validation loss", "time", "", box=None, pad_edge=False, header_style="dim")
    for job in jobs:
        values = [escape(job.overrides.get(key, "")) for key in keys]
        loss = "" if job.val_loss is None else f"{job.val_loss:.4f}"
        time = f"{job.seconds:,.0f} s" if job.seconds else ""
        where = f"{job.reason} Log: {job.log}" if job.state == "failed" else job.reason
        table.add_row(*values, f"[{COLOURS[job.state]}]{job.state}[/]", loss, time, escape(where.strip()))
    console = Console(file=sys.stdout, highlight=False)
    console.print(table)
    show_effects(rows_of([asdict(job) for job in jobs]), console)


def page(folder: Path) -> Path | None:
    """Write `report.html` of all jobs with an event log; None where no job has one."""
    from harness.report.html import page as html
    from harness.report.read import read, runs_in
    from harness.report.terminal import write as write_page

    try:
        records = [read(run) for run in runs_in(folder)]
    except UserError:
        return None
    write_page(folder / "report.html", html(records, rows_in(folder)))
    return folder / "report.html"
