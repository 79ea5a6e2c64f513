"""Compose report.html: one file with the drawing library inside, so that it opens anywhere, today and in ten years."""

import re
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import plotly.graph_objects as go
import plotly.io
from omegaconf import OmegaConf, open_dict
from plotly.offline import get_plotlyjs

from harness.config.compose import compose
from harness.report import charts
from harness.report.facts import duration
from harness.report.record import Data, RunRecord, mapping, number
from harness.report.rules import judge

TEMPLATE = Path(__file__).with_name("page.html")
PLOT_CONFIG = {"displaylogo": False, "responsive": True, "modeBarButtons": [["toImage", "resetScale2d"]]}
NOT_SHOWN = ("run.", "hydra.")  # where it lies, not what it is


def page(records: list[RunRecord]) -> str:
    """Return the page of one run, or of several side by side."""
    title = records[0].name if len(records) == 1 else f"{len(records)} runs"
    top = header(records[0]) if len(records) == 1 else comparison(records)
    parts = [f"<h1>{escape(title)}</h1>", top, *findings(records), *curves(records), *samples(records)]
    parts += [*config(records), *attempts(records)]
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(title),
        plotly=get_plotlyjs(),
        body="\n".join(parts),
        command=escape(" ".join(["python -m lm report", *(quoted(record.folder.as_posix()) for record in records)])),
    )


def quoted(word: str) -> str:
    """Return a word as any shell takes it."""
    return word if re.fullmatch(r"[\w./:-]+", word) else f'"{word}"'


def header(record: RunRecord) -> str:
    size, training = number(mapping(record.start, "parameters"), "total"), mapping(record.start, "training")
    words = (
        str(record.diary.get("status") or ""),
        f"{size:,.0f} parameters" if size else "",
        str(training.get("device") or ""),
        str(training.get("precision") or ""),
    )
    found = "".join(
        f'<div class="card tile"><span>{name}</span><b>{value}</b> <i>{more}</i></div>'
        for name, value, more in tiles(record)
    )
    return f'<p class="subtitle">{escape(" · ".join(filter(None, words)))}</p><div class="tiles">{found}</div>'


def comparison(records: list[RunRecord]) -> str:
    """Show the large numbers of several runs as a table; its dots are the legend of all charts."""
    names = list(dict.fromkeys(name for record in records for name, _, _ in tiles(record)))
    rows = []
    for record, colour in charts.coloured(records):
        values = {name: f"{value}<br><small>{more}</small>" for name, value, more in tiles(record)}
        dot = f'<span class="dot" style="background:{colour}"></span>{escape(record.name)}'
        rows.append([dot, *(values.get(name, "") for name in names)])
    return card(table(["run", *names], rows), "comparison")


def tiles(record: RunRecord) -> Iterator[tuple[str, str, str]]:
    """Yield (name, value, remark) for the large numbers at the top."""
    found = record.curves
    yield "optimizer steps", f"{record.step:,}", f"in {duration(record.seconds)}"
    if loss := found.get("loss"):
        yield "training loss", f"{loss.last:.3f}", f"first {loss.first:.3f}"
    if loss := found.get("val_loss"):
        yield "best validation loss", f"{loss.lowest:.3f}", f"last {loss.last:.3f}"
    if accuracy := found.get("accuracy"):
        yield "next token right", f"{accuracy.last:.1%}", f"first {accuracy.first:.1%}"
    if rate := found.get("tokens_per_second"):
        yield "tokens per second", f"{rate.mean:,.0f}", "on average"
    attempts = len(record.times)
    yield "skipped steps", f"{len(record.steps_of('nan_skip')):,}", f"in {attempts} attempt{'s' * (attempts > 1)}"


def findings(records: list[RunRecord]) -> Iterator[str]:
    for record in records:
        yield f"<h2>Findings{name_in(records, record)}</h2>"
        rows = []
        for found in judge(record):
            level = f'<span class="level {found.level}">{found.level}</span>'
            text = f"<p><b>{escape(found.title)}</b>: {escape(found.evidence)}</p>"
            cure = f'<p class="next">{escape(found.try_next)}</p>' if found.try_next else ""
            rows.append(f'<div class="finding">{level}{text}{cure}</div>')
        yield card("".join(rows))


def curves(records: list[RunRecord]) -> Iterator[str]:
    accuracy, rate = (
        charts.single(records, "accuracy", "", ".0%"),
        charts.single(records, "tokens_per_second", "per second"),
    )
    yield '<h2>Curves</h2><div class="charts">'
    yield chart("Loss", "training, and validation on text held out", charts.loss(records), wide=True)
    yield chart("Gradient norm", "before clipping; healthy between 0.001 and 100", charts.gradient(records))
    yield chart("Learning rate", "", charts.single(records, "lr", "", "~g"))
    yield chart("Accuracy", "how often the likeliest token was the next one", accuracy)
    yield chart("Tokens per second", "without validation", rate)
    for record in records:
        remark = "how far one step moved each module, relative to its norm; 0.001 is usual"
        yield chart(f"Updates{name_in(records, record)}", remark, charts.heat(record), wide=True)
    yield "</div>"


def chart(title: str, remark: str, figure: go.Figure, *, wide: bool = False) -> str:
    if not figure.data:
        return ""
    drawing = plotly.io.to_html(figure, full_html=False, include_plotlyjs=False, config=PLOT_CONFIG)
    return card(f"<h3>{escape(title)} <small>{escape(remark)}</small></h3>{drawing}", "chart wide" if wide else "chart")


def samples(records: list[RunRecord]) -> Iterator[str]:
    """Show what each run said at each step, side by side."""
    prompts = list(dict.fromkeys(prompt for record in records for prompt in record.samples))
    if prompts:
        yield "<h2>Samples</h2>"
    for prompt in prompts:
        said = [dict(record.samples.get(prompt, ())) for record in records]
        steps = sorted({step for texts in said for step in texts})
        rows = [[f"step {step:,}", *(f"<pre>{escape(texts.get(step, ''))}</pre>" for texts in said)] for step in steps]
        head = ["", *(escape(record.name) for record in records)] if len(records) > 1 else []
        title = f"Text after <code>{escape(prompt)}</code>" if prompt else "Text from the beginning of a document"
        yield card(f"<h3>{title}</h3>{table(head, rows)}", "samples")


def config(records: list[RunRecord]) -> Iterator[str]:
    """Show where the runs differ from the defaults of the project, and so from each other."""
    chosen = [flat(record.config) for record in records]
    defaults = [flat(default_config(record)) for record in records]
    pairs = [*zip(chosen, defaults, strict=True)]
    keys = dict.fromkeys(key for values in (*chosen, *defaults) for key in values if not key.startswith(NOT_SHOWN))
    rows = [
        [f"<code>{escape(key)}</code>", code(defaults[0], key), *(code(values, key) for values in chosen)]
        for key in keys
        if any(values.get(key) != default.get(key) for values, default in pairs)
    ]
    yield "<h2>Config, where it differs from the defaults</h2>"
    whole = "".join(
        f"<details><summary>the whole config of {escape(record.name)}</summary>"
        f"<pre>{escape(OmegaConf.to_yaml(record.config))}</pre></details>"
        for record in records
    )
    yield card(table(["key", "default", *(escape(record.name) for record in records)], rows) + whole)


def default_config(record: RunRecord) -> Any:
    """Return the defaults, were they in this run's folder: what only repeats the folder is not a difference."""
    where = mapping(record.config, "run")
    defaults = compose()
    with open_dict(defaults):  # not as overrides, in which a name like it's would have to be quoted
        defaults.run.update({key: str(where[key]) for key in ("root", "name", "dir") if key in where})
    return OmegaConf.to_container(defaults, resolve=True)


def attempts(records: list[RunRecord]) -> Iterator[str]:
    rows = []
    for record in records:
        known = record.diary.get("attempts")
        for attempt in (entry for entry in (known if isinstance(known, list) else ()) if isinstance(entry, dict)):
            git = mapping(attempt, "git")
            commit = f"{str(git.get('commit', ''))[:10]}{' and changes' if git.get('dirty') else ''}"
            times = (str(attempt.get(key) or "")[:19].replace("T", " ") for key in ("started", "ended"))
            torch = mapping(attempt, "versions").get("torch", "")
            cells = (
                record.name,
                attempt.get("attempt", ""),
                *times,
                attempt.get("status", ""),
                attempt.get("host", ""),
            )
            rows.append([escape(str(cell)) for cell in (*cells, torch, commit)])
    if rows:
        yield "<h2>Attempts</h2>"
        yield card(table(["run", "attempt", "started", "ended", "status", "host", "torch", "git"], rows))


def flat(node: Any, prefix: str = "") -> Data:
    """Return nested dicts as {dotted key: value}."""
    if isinstance(node, dict) and node:
        return {k: v for key, inner in node.items() for k, v in flat(inner, f"{prefix}{key}.").items()}
    return {prefix[:-1]: node}


def code(values: Data, key: str) -> str:
    return f"<code>{escape(str(values[key]))}</code>" if key in values else '<span class="absent">absent</span>'


def name_in(records: list[RunRecord], record: RunRecord) -> str:
    return f" in {escape(record.name)}" if len(records) > 1 else ""


def card(content: str, kind: str = "") -> str:
    return f'<div class="card {kind}">{content}</div>'


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table; what comes in is HTML already."""
    names = "".join(f"<th>{name}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{f'<thead><tr>{names}</tr></thead>' if names else ''}<tbody>{body}</tbody></table>"
