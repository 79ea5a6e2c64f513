"""A plan, and the sum of a sweep's, in the terminal."""

import sys
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.report.facts import duration, size
from harness.run.plans import Plan


def tell(plan: Plan) -> None:
    """Print one plan."""
    how = f"counted, not measured: {plan.why_counted}" if plan.why_counted else "measured on this machine"
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    console.print(f"[bold]{escape(plan.name)}[/], {escape(how)}\n")
    table = Table("", "", box=None, pad_edge=False, show_header=False)
    for name, said in lines(plan):
        table.add_row(name, escape(said))
    console.print(table)


def tell_all(found: Sequence[Plan], *, finished: int, at_once: int) -> None:
    """Print a row for each job of a sweep that is not finished, and the sum."""
    table = Table("job", "steps", "memory", "time", "disk", box=None, pad_edge=False, header_style="dim")
    for column in table.columns[1:]:
        column.justify = "right"
    for plan in found:
        table.add_row(
            escape(plan.name), f"{plan.steps - plan.done:,}", size(plan.peak), time(plan), size(plan.disk_bytes)
        )
    seconds, steps = sum(map(whole, found)), sum(plan.steps - plan.done for plan in found)
    largest = sum(sorted((plan.peak for plan in found), reverse=True)[:at_once])
    known = duration(seconds) if all(plan.seconds for plan in found) else "not known"
    table.add_row("sum", f"{steps:,}", size(largest), known, size(sum(plan.disk_bytes for plan in found)), style="bold")
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    console.print(table)
    jobs = f"{len(found)} jobs to run, {finished} finished."
    once = f"{at_once} at a time" if at_once > 1 else "one after the other"
    console.print(f"\n{jobs} The memory is that of {once}; the time is that of all, one after the other.")


def lines(plan: Plan) -> Iterator[tuple[str, str]]:
    frozen = plan.parameters - plan.trainable
    yield "parameters", f"{plan.parameters:,}" + (f", {frozen:,} of them frozen" if frozen else "")
    for split, counts in plan.data.items():
        yield {"train": "data", "val": "held out"}[split], ", ".join(f"{n:,} {name}" for name, n in counts.items())
    yield "windows", f"{plan.windows:,} to train on, {plan.held_out:,} held out"
    units = f" ({plan.step_units:,} {plan.unit})" if plan.step_units != plan.step_windows else ""
    yield "a step", f"{plan.step_windows:,} windows{units} on {plan.devices:,} {plan.device} in {plan.precision}"
    trained = f"{plan.steps * plan.step_windows:,} windows"
    if units:
        trained += f", {plan.steps * plan.step_units:,} {plan.unit}"
    yield "training", f"{plan.steps:,} steps: {trained}" + (f"; {plan.done:,} steps are done" if plan.done else "")
    yield "epochs", f"{plan.epochs:.3g}"
    where = "a device, its states " + plan.strategy if plan.devices > 1 else plan.device
    yield "memory", f"{size(plan.peak)} at the peak of {where}"
    for part, held in plan.memory.items():
        yield f"  {part}", size(held)
    if plan.operations:
        yield "operations", f"{plan.operations:.3g} floating-point, of all steps"
    yield "time", time(plan)
    if plan.seconds:
        parts = [("the process starts", plan.start_seconds), *plan.seconds.items()]
        yield "", ", ".join(f"{name} {duration(seconds)}" for name, seconds in parts)
        yield (
            "",
            f"a step {plan.step_seconds:.3g} s, {plan.step_units / max(plan.step_seconds, 1e-9):,.0f} {plan.unit}/s",
        )
    yield (
        "disk",
        f"{size(plan.disk_bytes)}: {plan.checkpoints} checkpoints of {size(plan.checkpoint_bytes)}, and room for one more",
    )


def whole(plan: Plan) -> float:
    return plan.start_seconds + sum(plan.seconds.values())


def time(plan: Plan) -> str:
    return duration(whole(plan)) if plan.seconds else "not known: it was not measured"
