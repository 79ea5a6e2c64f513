"""Compose report.html: one file with the drawing library inside, so that it opens anywhere, today and in ten years."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import plotly.io
from jinja2 import Environment, StrictUndefined
from omegaconf import OmegaConf, open_dict
from plotly.offline import get_plotlyjs

from harness.config.compose import compose
from harness.config.identity import flat
from harness.report import charts
from harness.report.facts import duration
from harness.report.record import Data, RunRecord, mapping, number
from harness.report.rules import judge
from harness.report.sweep import HEADS, Row, effects, name_by_values

TEMPLATE = Path(__file__).with_name("page.html")
PLOT_CONFIG = {"displaylogo": False, "responsive": True, "modeBarButtons": [["toImage", "resetScale2d"]]}
NOT_SHOWN = ("run.", "hydra.")  # where it lies, not what it is


def page(records: list[RunRecord], swept: Sequence[Row] = ()) -> str:
    """Return the page of one run, or of several side by side; of a sweep, whose jobs are `swept`, with its effects."""
    name_by_values(records, swept)
    numbers = [{name: texts for name, *texts in tiles(record)} for record in records]
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        records=records,
        title=records[0].name if len(records) == 1 else f"{len(records)} runs",
        subtitle=" · ".join(filter(None, summary(records[0]))),
        names=list(dict.fromkeys(name for found in numbers for name in found)),
        tiles=numbers,
        colours=[colour for _, colour in charts.coloured(records)],
        findings=[judge(record) for record in records],
        charts=drawings(records),
        heads=HEADS,
        effects=[effect.cells() for effect in effects(swept)],
        samples=samples(records),
        defaults=flat(default_config(records[0])),
        chosen=[flat(record.config) for record in records],
        different=different(records),
        configs=[OmegaConf.to_yaml(record.config) for record in records],
        attempts=[cells for record in records for cells in attempts(record)],
        plotly=get_plotlyjs(),
        command=" ".join(["python -m lm report", *(quoted(record.folder.as_posix()) for record in records)]),
    )


def quoted(word: str) -> str:
    """Return a word as any shell takes it."""
    return word if re.fullmatch(r"[\w./:-]+", word) else f'"{word}"'


def summary(record: RunRecord) -> Iterator[str]:
    size, training = number(mapping(record.start, "parameters"), "total"), mapping(record.start, "training")
    yield str(record.diary.get("status") or "")
    yield f"{size:,.0f} parameters" if size else ""
    yield from (str(training.get(name) or "") for name in ("device", "precision"))


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


def drawings(records: list[RunRecord]) -> list[tuple[str, str, str, str]]:
    """Return (title, remark, class, drawing) of each chart that has something in it."""
    moved = "how far one step moved each module, relative to its norm; 0.001 is usual"
    name_in = {id(record): f" in {record.name}" if len(records) > 1 else "" for record in records}
    accuracy = charts.single(records, "accuracy", "", ".0%")
    found: list[tuple[str, str, str, go.Figure]] = [
        ("Loss", "training, and validation on text held out", "wide", charts.loss(records)),
        ("Gradient norm", "before clipping; healthy between 0.001 and 100", "", charts.gradient(records)),
        ("Learning rate", "", "", charts.single(records, "lr", "", "~g")),
        ("Accuracy", "how often the likeliest token was the next one", "", accuracy),
        ("Tokens per second", "without validation", "", charts.single(records, "tokens_per_second", "per second")),
        *((f"Updates{name_in[id(record)]}", moved, "wide", charts.heat(record)) for record in records),
    ]
    return [
        (*words, plotly.io.to_html(figure, full_html=False, include_plotlyjs=False, config=PLOT_CONFIG))
        for *words, figure in found
        if figure.data
    ]


def samples(records: list[RunRecord]) -> dict[str, dict[int, list[str]]]:
    """Return by prompt and step what each run said."""
    found = {}
    for prompt in dict.fromkeys(prompt for record in records for prompt in record.samples):
        said = [dict(record.samples.get(prompt, ())) for record in records]
        steps = sorted({step for texts in said for step in texts})
        found[prompt] = {step: [texts.get(step, "") for texts in said] for step in steps}
    return found


def different(records: list[RunRecord]) -> list[str]:
    """Return the keys in which a run differs from the defaults of the project, and so from another."""
    pairs = [(flat(record.config), flat(default_config(record))) for record in records]
    keys = dict.fromkeys(key for pair in zip(*pairs, strict=True) for values in pair for key in values)
    return [
        key
        for key in keys
        if not key.startswith(NOT_SHOWN) and any(chosen.get(key) != default.get(key) for chosen, default in pairs)
    ]


def default_config(record: RunRecord) -> Any:
    """Return the defaults, were they in this run's folder: what only repeats the folder is not a difference."""
    where = mapping(record.config, "run")
    defaults = compose()
    with open_dict(defaults):  # not as overrides, in which a name like it's would have to be quoted
        defaults.run.update({key: str(where[key]) for key in ("root", "name", "dir") if key in where})
    return OmegaConf.to_container(defaults, resolve=True)


def attempts(record: RunRecord) -> Iterator[list[str]]:
    known: Any = record.diary.get("attempts")
    for attempt in (entry for entry in (known if isinstance(known, list) else ()) if isinstance(entry, dict)):
        facts: Data = attempt
        git = mapping(facts, "git")
        commit = f"{str(git.get('commit', ''))[:10]}{' and changes' if git.get('dirty') else ''}"
        times = (str(facts.get(key) or "")[:19].replace("T", " ") for key in ("started", "ended"))
        torch = mapping(facts, "versions").get("torch", "")
        said = (facts.get(key, "") for key in ("status", "host"))
        yield [str(cell) for cell in (record.name, facts.get("attempt", ""), *times, *said, torch, commit)]
