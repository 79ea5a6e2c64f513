"""Judge a run: what went well, what went wrong, and what to try next. A symptom leads to a cause, a cause to a cure.

Each rule looks at one symptom and returns a Finding or None; `docs/troubleshooting.md` has the same symptoms at length.
"""

from collections.abc import Callable
from dataclasses import dataclass

from harness.report.facts import duration, trend
from harness.report.read import Record

# A clipped gradient norm is healthy over three orders of magnitude; beyond, something else than the data speaks.
SMALL_NORM, LARGE_NORM, EXPLODED_NORM = 1e-3, 100.0, 1000.0
FLAT = 0.01  # share of the loss that must be gained for it to count as falling


@dataclass
class Finding:
    """`level` is good, watch or bad. `page` is the section of docs/troubleshooting.md."""

    level: str
    title: str
    evidence: str
    try_next: str = ""
    page: str = ""


Rule = Callable[[Record], Finding | None]
RULES: list[Rule] = []


def rule(function: Rule) -> Rule:
    RULES.append(function)
    return function


def judge(record: Record) -> list[Finding]:
    """Return the findings, the worst first."""
    found = [finding for function in RULES if (finding := function(record))]
    return sorted(found, key=lambda finding: ("bad", "watch", "good").index(finding.level))


def steps(found: list[int], most: int = 8) -> str:
    """Return `steps 10, 20 and 35 more` for a sentence."""
    shown = ", ".join(f"{step:,}" for step in found[:most])
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return f"step{'s' * (len(found) > 1)} {shown}{more}"


@rule
def crashed(record: Record) -> Finding | None:
    if record.end is not None or "exception" not in record.marks:
        return None
    step, data = [*record.marks["exception"]][-1]
    return Finding(
        "bad",
        "It ended with an exception",
        f"{data['type']} at step {step:,}: {data['message'].splitlines()[0] if data['message'] else 'no message'}",
        "The traceback is the last thing in logs/train.log. The same command goes on from the last checkpoint.",
        "it-crashed",
    )


@rule
def finished(record: Record) -> Finding | None:
    if record.end is None:
        return None
    attempts = f"{len(record.times)} attempt{'s' * (len(record.times) > 1)}"
    text = f"{record.step:,} steps, {duration(record.seconds)} of work in {attempts}"
    if stopped_by := record.end.get("stopped_by"):
        return Finding("watch", f"It was stopped by {stopped_by}", text, "The same command goes on.", "it-crashed")
    return Finding("good", "It came to its end", text)


@rule
def unfinished(record: Record) -> Finding | None:
    if record.end is not None or "exception" in record.marks:
        return None
    text = f"The last event is of step {record.step:,}; there is no end and no exception."
    return Finding(
        "watch", "It is running, or was killed", text, "If it was killed, the same command goes on.", "it-crashed"
    )


@rule
def loss_direction(record: Record) -> Finding | None:
    if not (found := trend(record)):
        return None
    first, last, change = found.values()
    text = f"{first:.4f} on average at first, {last:.4f} at the end: {change:+.0%}"
    if change < -FLAT:
        return Finding("good", "The loss falls", text)
    if record.curves["lr"].highest == 0:
        return Finding(
            "bad", "The learning rate is 0", text, "Set optimizer.lr, 1e-3 for the small models.", "the-loss-is-flat"
        )
    if change > FLAT:
        cure = "Lower optimizer.lr threefold, or lengthen scheduler.warmup_steps."
        return Finding("bad", "The loss rises", text, cure, "the-loss-rises-or-jumps")
    cure = (
        "Can it learn one batch by heart (trainer.overfit_batches=1)? Then raise optimizer.lr; else check the labels."
    )
    return Finding("bad", "The loss is flat", text, cure, "the-loss-is-flat")


@rule
def overfitting(record: Record) -> Finding | None:
    curve = record.curves.get("val_loss")
    if curve is None or curve.lowest == 0 or curve.last < 1.02 * curve.lowest:
        return None
    best = min(curve.points(), key=lambda point: point[2])[0]
    text = f"validation loss {curve.lowest:.4f} at step {best:,.0f}, {curve.last:.4f} at the end"
    cure = "More data, fewer steps, or a smaller model. The best checkpoint is kept: checkpoint.keep_best."
    return Finding("watch", "It gets worse on text that it has not seen", text, cure, "poor-text")


@rule
def bad_labels(record: Record) -> Finding | None:
    if "bad_labels" not in record.marks:
        return None
    step, data = [*record.marks["bad_labels"]][0]
    where = f"{data['name']}[{data['row']}, {data['position']}] is {data['id']}" if "id" in data else "no label at all"
    text = f"at step {step:,}: {where}, with a vocabulary of {data['vocabulary']}"
    cure = "Tokenizer and model must be of one size: model.config.vocab_size. See +debug=data for what the model gets."
    return Finding("bad", "The labels do not fit the model", text, cure, "labels-out-of-range")


@rule
def rows_without_label(record: Record) -> Finding | None:
    found = record.steps_of("rows_without_label")
    cure = "They teach nothing: documents of one token, or answers cut off by the context. See +debug=data."
    text = f"first at step {found[0]:,}" if found else ""
    return Finding("watch", "Some rows have no label", text, cure, "labels-out-of-range") if found else None


@rule
def skipped_steps(record: Record) -> Finding | None:
    found = record.steps_of("nan_skip")
    if not found:
        return None
    _, data = [*record.marks["nan_skip"]][-1]
    cure = f"See why: python -m lm replay {data['bundle']}" if data.get("bundle") else "Lower optimizer.lr."
    rollbacks = record.steps_of("rollback")
    back = f"; went back to an earlier checkpoint at {steps(rollbacks)}" if rollbacks else ""
    level = "bad" if rollbacks or len(found) > 3 else "watch"
    return Finding(level, "Optimizer steps were skipped", f"{steps(found)}{back}", cure, "nan-or-skipped-steps")


@rule
def precision_fallback(record: Record) -> Finding | None:
    found = record.steps_of("precision_fallback")
    cure = "Start with trainer.precision=bf16-mixed where the hardware has it."
    return Finding("watch", "fp16 was given up", f"at {steps(found)}", cure, "nan-or-skipped-steps") if found else None


@rule
def no_checkpoint(record: Record) -> Finding | None:
    found = record.steps_of("no_checkpoint")
    cure = "Free some space; checkpoint.max_gb limits what checkpoints take. Training goes on meanwhile."
    return Finding("bad", "Checkpoints could not be written", steps(found), cure, "it-crashed") if found else None


@rule
def exploding(record: Record) -> Finding | None:
    curve = record.curves.get("gradient")
    if curve is None or curve.highest <= LARGE_NORM:
        return None
    at = max(curve.points(), key=lambda point: point[3])[0]
    text = f"norm {curve.highest:.4g} near step {at:,.0f}, {curve.mean:.3g} on average, before clipping"
    cure = "Lower optimizer.lr, lengthen scheduler.warmup_steps, and look at that step's data."
    level, title = ("bad", "Gradients explode") if curve.highest > EXPLODED_NORM else ("watch", "Large gradients")
    return Finding(level, title, text, cure, "the-loss-rises-or-jumps")


@rule
def vanishing(record: Record) -> Finding | None:
    curve, zero = record.curves.get("gradient"), record.steps_of("zero_gradient")
    if zero:
        cure = "Is anything frozen or detached that should learn (fit_start counts it)? Are all labels ignored?"
        return Finding("bad", "The gradient is zero", steps(zero), cure, "the-loss-is-flat")
    if curve is None or curve.mean >= SMALL_NORM:
        return None
    return Finding(
        "watch", "Gradients vanish", f"norm {curve.mean:.2g} on average", "Raise optimizer.lr.", "the-loss-is-flat"
    )


@rule
def partly_without_gradient(record: Record) -> Finding | None:
    found = record.steps_of("parts_without_gradient")
    if not found:
        return None
    data = next(iter(record.marks["parts_without_gradient"]))[1]
    none = data["parameters"] - data["with_gradient"]
    text = f"of {data['parameters']} parameters {none} have none and {data['zero']} have zeros, at {steps(found)}"
    cure = "What no data reach does not learn: embeddings of absent tokens, layers that the loss does not use."
    return Finding("watch", "Some parameters have no gradient", text, cure, "the-loss-is-flat")


@rule
def no_updates(record: Record) -> Finding | None:
    found = record.steps_of("no_update")
    cure = "Are the weights in the optimizer? Is optimizer.lr lost in the rounding of bf16 weights (use bf16-mixed)?"
    return Finding("bad", "Steps that moved no weight", steps(found), cure, "the-loss-is-flat") if found else None


@rule
def out_of_memory(record: Record) -> Finding | None:
    found = record.steps_of("oom")
    cure = "Lower data.batch_size and raise trainer.accumulate_grad_batches as much; model.gradient_checkpointing=true."
    return Finding("watch", "Memory ran out", steps(found), cure, "out-of-memory") if found else None


@rule
def slowing(record: Record) -> Finding | None:
    curve = record.curves.get("tokens_per_second")
    rates = [mean for _, mean, _, _ in curve.points()] if curve else []
    if len(rates) < 12:
        return None
    third = len(rates) // 3
    early, late = sorted(rates[:third])[third // 2], sorted(rates[-third:])[third // 2]
    if late > 0.7 * early:
        return None
    text = f"{early:,.0f} tokens per second at first, {late:,.0f} at the end"
    return Finding(
        "watch",
        "It became slower",
        text,
        "Heat, another process, or memory that fills: see nvidia-smi.",
        "slow-training",
    )
