"""A plan, and the sum of a sweep's, in the terminal."""

import sys
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.report.facts import duration, size
from harness.run.plans import Plan

WIDTH = 18


def tell(plan: Plan) -> None:
    """Print one plan."""
    how = f"counted, not measured: {plan.why_counted}" if plan.why_counted else "a few steps of it were measured"
    print(f"{plan.name}: {how}\n")
    for name, said in lines(plan):
        print(f"{name:<{WIDTH}}{said}")


def tell_all(found: Sequence[Plan], *, finished: int, at_once: int) -> None:
    """Print a row for each job of a sweep that is not finished, and the sum."""
    print(f"{len(found)} jobs to run, {finished} finished.")
    if not found:
        return
    table = Table("", "steps", "memory", "time", "disk", box=None, pad_edge=False, header_style="dim")
    for column in table.columns[1:]:
        column.justify = "right"
    for plan in found:
        steps = f"{plan.steps - plan.done:,}"
        table.add_row(escape(plan.name), steps, size(plan.peak), time(plan), size(plan.disk_bytes))
    steps = f"{sum(plan.steps - plan.done for plan in found):,}"
    largest = sum(sorted((plan.peak for plan in found), reverse=True)[:at_once])
    seconds = duration(sum(map(whole, found))) if all(plan.seconds for plan in found) else "not known"
    table.add_row("sum", steps, size(largest), seconds, size(sum(plan.disk_bytes for plan in found)), style="bold")
    Console(file=sys.stdout, highlight=False, soft_wrap=True).print(table)
    jobs = "the largest job" if at_once == 1 else f"the {at_once} largest jobs at a time"
    print(f"The sum of memory is that of {jobs}; that of time is one job after the other.")


def lines(plan: Plan) -> Iterator[tuple[str, str]]:
    frozen = plan.parameters - plan.trainable
    yield "parameters", f"{plan.parameters:,}" + (f", {frozen:,} of them frozen" if frozen else "")
    for split, title in (("train", "data"), ("val", "held out")):
        if counts := plan.data.get(split):
            yield title, ", ".join(f"{count:,} {name}" for name, count in counts.items())
    yield "windows", f"{plan.windows:,}, and {plan.held_out:,} held out"
    in_units = plan.step_units != plan.step_windows
    units = f" ({plan.step_units:,} {plan.unit})" if in_units else ""
    yield "a step", f"{plan.step_windows:,} windows{units} on {plan.devices:,} {plan.device} in {plan.precision}"
    units = f", {plan.steps * plan.step_units:,} {plan.unit}" if in_units else ""
    yield "training", f"{plan.steps:,} steps, {plan.steps * plan.step_windows:,} windows{units}"
    yield "epochs", f"{plan.epochs:.3g}"
    if plan.done:
        yield "done already", f"{plan.done:,} steps"
    yield from memory(plan)
    if plan.operations:
        yield "operations", f"{plan.operations:.3g} floating-point"
    yield "time", time(plan)
    if plan.seconds:
        yield "  process", duration(plan.start_seconds)
        for name, seconds in plan.seconds.items():
            each = f", {plan.step_seconds:.3g} s each" if name == "steps" else ""
            yield f"  {name}", f"{duration(seconds)}{each}"
    yield "disk", f"{size(plan.disk_bytes)} for {plan.checkpoints} checkpoints of {size(plan.checkpoint_bytes)}"


def memory(plan: Plan) -> Iterator[tuple[str, str]]:
    where = "this process" if "libraries" in plan.memory else f"each {plan.device} device"
    states = f", states {plan.strategy}" if plan.devices > 1 else ""
    yield "memory", f"{size(plan.peak)} in {where} at the peak{states}"
    for part, held in plan.memory.items():
        yield f"  {part}", size(held)


def whole(plan: Plan) -> float:
    return plan.start_seconds + sum(plan.seconds.values())


def time(plan: Plan) -> str:
    return duration(whole(plan)) if plan.seconds else "not known"
