"""What is kept of a benchmark: a JSON in results/KIND/NAME.json, and from all of them RESULTS.md and README's table."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from timing import Bar, Outcome, Spread, ratio

HERE = Path(__file__).parent
RESULTS, PAGE, README = HERE / "results", HERE / "RESULTS.md", HERE.parent / "README.md"
MEANINGLESS = 0.5  # quartiles further apart than this share of the median: the figure is not shown as one
SLOWER = 1.10  # what `make bench` takes for a loss
BEGIN, END = "<!-- speed: made by python benchmarks/run.py tables -->", "<!-- end of speed -->"
Result = dict[str, Any]


def result(name: str, outcome: Outcome, machine: dict[str, Any]) -> Result:
    """Return what is written down of an outcome."""
    clocks = ["wall", *["cpu"] * all(sample.cpu for samples in outcome.samples.values() for sample in samples)]
    contestants = {
        who: {
            **{clock: asdict(Spread.of([getattr(sample, clock) for sample in samples])) for clock in clocks},
            "megabytes": max(sample.megabytes for sample in samples),
            "work": outcome.rates.get(who, 0.0),
        }
        for who, samples in outcome.samples.items()
    }
    bars = [
        asdict(bar)
        | {clock: asdict(ratio(outcome.samples, bar.of, bar.over, clock)) for clock in _told_by(bar, clocks)}
        | {"judged_by": bar.clock}
        for bar in outcome.bars
    ]  # fmt: skip
    rounds = min(map(len, outcome.samples.values()))
    return {
        "name": name, "date": date.today().isoformat(), "rounds": rounds, "unit": outcome.unit,
        "rate": outcome.rate_unit, "memory": outcome.memory, "machine": machine, "contestants": contestants,
        "bars": bars, "notes": outcome.notes,
    }  # fmt: skip


def _told_by(bar: Bar, clocks: list[str]) -> set[str]:
    """Return what a bar is told by: of a number, which is no contestant, only what it is a number of."""
    return {*clocks, bar.clock} if isinstance(bar.over, str) else {bar.clock}


def save(kind: str, found: Result) -> Path:
    path = RESULTS / kind / f"{found['name']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8", newline="\n")
    return path


def load(kind: str, name: str) -> Result | None:
    path = RESULTS / kind / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def kinds() -> dict[str, list[Result]]:
    """Return all that is kept, by kind of machine."""
    found: dict[str, list[Result]] = {}
    for path in sorted(RESULTS.glob("*/*.json")):
        found.setdefault(path.parent.name, []).append(json.loads(path.read_text(encoding="utf-8")))
    return found


def table(found: Result) -> str:
    """Return a result as Markdown: every contestant, then every ratio."""
    factor, unit = (1e3, "ms") if found["unit"] == "ms" else (1.0, "s")
    cpu = any("cpu" in times for times in found["contestants"].values())
    head = ["", f"wall, {unit}", *[f"CPU, {unit}"] * cpu, *([found["rate"]] if found["rate"] else [])]
    rows = [[*head, *(["memory, MB"] if found["memory"] else [])]]
    for who, times in found["contestants"].items():
        row = [who, *(_times(times[clock], factor) for clock in ("wall", "cpu")[: 1 + cpu])]
        row += [f"{_digits(times['work'] / times['wall']['median'])}" if times["work"] else ""] * bool(found["rate"])
        rows.append(row + [f"{times['megabytes']:,.0f}"] * bool(found["memory"]))
    ratios = [["ratio", "wall", *["CPU"] * cpu, "to reach"]]
    for bar in found["bars"]:
        counted = "".join(f": {_ratio(bar[clock])}" for clock in ("steps", "megabytes") if clock in bar)
        times = [_ratio(bar[clock]) if clock in bar else "" for clock in ("wall", "cpu")[: 1 + cpu]]
        ratios.append([f"{bar['says']}{counted}", *times, _limit(bar)])
    return "\n\n".join(["\n".join(_lines(rows)), "\n".join(_lines(ratios)), *found["notes"]])


def _lines(rows: list[list[str]]) -> Iterator[str]:
    for number, row in enumerate(rows):
        yield f"| {' | '.join(row)} |"
        if number == 0:
            yield "|---" * len(row) + "|"


def _times(spread: dict[str, float], factor: float) -> str:
    median, low, high = (_digits(spread[name] * factor) for name in ("median", "low", "high"))
    return f"{median} ({low} to {high})"


def _digits(number: float) -> str:
    """Return three digits, or all before the point."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def _ratio(spread: dict[str, float]) -> str:
    if Spread(**spread).width > MEANINGLESS:
        return "too noisy to say"
    return f"{spread['median']:.3f} ({spread['low']:.3f} to {spread['high']:.3f})"


def _limit(bar: dict[str, Any]) -> str:
    if bar["limit"] is None:
        return ""
    if Spread(**bar[bar["judged_by"]]).width > MEANINGLESS:
        return f"{bar['limit']:g}"
    reached = bar[bar["judged_by"]]["median"] <= bar["limit"]
    return f"{bar['limit']:g}: {'reached' if reached else 'missed'} by {_clock(bar)}"


def _clock(bar: dict[str, Any]) -> str:
    return {"cpu": "CPU time", "wall": "wall time", "steps": "number", "megabytes": "memory"}[bar["judged_by"]]


def page(not_run: dict[str, str]) -> str:
    """Return RESULTS.md: one section a kind of machine, one table a benchmark."""
    parts = ["# Measured", INTRODUCTION]
    for kind, results in kinds().items():
        parts.append(f"## {kind}")
        for found in results:
            versions = ", ".join(f"{name} {value}" for name, value in found["machine"].items())
            parts += [f"### {found['name']}", table(found)]
            parts.append(f"{found['date']}, {found['rounds']} rounds. {versions}.")
    parts += ["## Not run", "\n".join(f"- `{name}`: {why}" for name, why in not_run.items())]
    if (limits := HERE / "LIMITS.md").exists():
        parts.append(limits.read_text(encoding="utf-8").strip())
    return "\n\n".join(parts) + "\n"


INTRODUCTION = (
    "Made by `python benchmarks/run.py tables` from `results/`, one section a kind of machine. Contestants took turns "
    "in one run; a figure is the median of the rounds, with the quartiles. CPU time counts all threads and is what "
    "stays comparable where others use the same cores; see `load_before`."
)


def speed() -> str:
    """Return the table of speed of the README: of each benchmark the last ratio that has a bar, of the first kind of
    machine that has one. RESULTS.md has all."""
    rows: dict[str, list[str]] = {}
    for results in kinds().values():
        for found in results:
            told = [
                (bar, spread)
                for bar in found["bars"]
                if bar["limit"] is not None and Spread(**(spread := bar[bar["judged_by"]])).width <= MEANINGLESS
            ]
            if told and found["name"] not in rows:
                bar, spread = told[-1]
                measured_by = f"`benchmarks/run.py {found['name']}`"
                rows[found["name"]] = [f"{bar['says']}, {_clock(bar)}", _ratio(spread), measured_by]
    return "\n".join(_lines([["", "ratio (quartiles)", "measured by"], *rows.values()]))


def with_speed(readme: str) -> str:
    """Return the README with today's table between its two marks."""
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    return pattern.sub(lambda _: f"{BEGIN}\n\n{speed()}\n\n{END}", readme)


def losses(before: Result, now: Result) -> Iterator[str]:
    """Yield a sentence for each ratio that is worse by a tenth than what is on file, beyond both spreads."""
    known = {bar["says"]: bar for bar in before["bars"]}
    for bar in now["bars"]:
        if (old := known.get(bar["says"])) is None or bar["limit"] is None:
            continue
        was, found = old[bar["judged_by"]], bar[bar["judged_by"]]
        if found["median"] > SLOWER * was["median"] and found["low"] > was["high"]:
            yield f"{now['name']}: {bar['says']}: {found['median']:.3f}, on file {was['median']:.3f}."
