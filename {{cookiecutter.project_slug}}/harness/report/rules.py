"""Judge a run: how it went and ended, besides how it learned. Each rule looks for one symptom, good or bad."""

from dataclasses import replace

from harness.report import learning  # noqa: F401 (its rules are found in RULES)
from harness.report.facts import duration
from harness.report.record import Data, RunRecord
from harness.report.symptoms import RULES, Symptom, first_line, rule, steps

# What a mark in a log says by itself: its kind, then the symptom, with the steps at which it was met.
MARKED = {
    "rows_without_label": Symptom(
        "watch", "Some rows have no label", "first at {first}",
        "They teach nothing: documents of one token, or answers cut off by the context. See +debug=data.",
        "labels-out-of-range",
    ),
    "precision_fallback": Symptom(
        "watch", "fp16 was given up", "at {steps}",
        "Start with trainer.precision=bf16-mixed where the hardware has it.",
        "nan-or-skipped-steps",
    ),
    "no_checkpoint": Symptom(
        "bad", "Checkpoints could not be written", "{steps}",
        "Free some space; checkpoint.max_gb limits what checkpoints take. Training goes on meanwhile.",
        "it-crashed",
    ),
    "oom": Symptom(
        "watch", "Memory ran out", "{steps}",
        "Lower data.batch_size and raise trainer.accumulate_grad_batches as much; model.gradient_checkpointing=true.",
        "out-of-memory",
    ),
    "no_update": Symptom(
        "bad", "Steps that moved no weight", "{steps}",
        "Are the weights in the optimizer? Is optimizer.lr lost in the rounding of bf16 weights (use bf16-mixed)?",
        "the-loss-is-flat",
    ),
}  # fmt: skip


def judge(record: RunRecord) -> list[Symptom]:
    """Return the symptoms, the worst first."""
    found = [symptom for function in RULES if (symptom := function(record))]
    for kind, symptom in MARKED.items():
        if at := record.steps_of(kind):
            evidence = symptom.evidence.format(first=steps(at[:1]), steps=steps(at))
            found.append(replace(symptom, evidence=evidence))
    return sorted(found, key=lambda symptom: ("bad", "watch", "good").index(symptom.level))


@rule
def crashed(record: RunRecord) -> Symptom | None:
    if record.end is not None or "exception" not in record.marks:
        return None
    step, data = [*record.marks["exception"]][-1]
    text = f"{data.get('type', 'something')} at step {step:,}: {first_line(data.get('message')) or 'no message'}"
    cure = "The traceback is the last thing in logs/train.log. The same command goes on from the last checkpoint."
    return Symptom("bad", "It ended with an exception", text, cure, "it-crashed")


@rule
def finished(record: RunRecord) -> Symptom | None:
    if record.end is None:
        return None
    attempts = f"{len(record.times)} attempt{'s' * (len(record.times) > 1)}"
    text = f"{record.step:,} steps, {duration(record.seconds)} of work in {attempts}"
    if stopped_by := record.end.get("stopped_by"):
        return Symptom("watch", f"It was stopped by {stopped_by}", text, "The same command goes on.", "it-crashed")
    return Symptom("good", "It came to its end", text)


@rule
def unfinished(record: RunRecord) -> Symptom | None:
    if record.end is not None or "exception" in record.marks:
        return None
    text = f"The last event is of step {record.step:,}; there is no end and no exception."
    return Symptom(
        "watch", "It is running, or was killed", text, "If it was killed, the same command goes on.", "it-crashed"
    )


@rule
def bad_labels(record: RunRecord) -> Symptom | None:
    if "bad_labels" not in record.marks:
        return None
    step, data = [*record.marks["bad_labels"]][0]
    text = f"at step {step:,}: {wrong_label(data)}, with a vocabulary of {data.get('vocabulary')}"
    cure = "Tokenizer and model must be of one size: model.config.vocab_size. See +debug=data for what the model gets."
    return Symptom("bad", "The labels do not fit the model", text, cure, "labels-out-of-range")


def wrong_label(data: Data) -> str:
    if "id" in data:
        return f"{data.get('name')}[{data.get('row')}, {data.get('position')}] is {data['id']}"
    if data.get("valid_tokens"):
        return f"labels from {data.get('label_min')} to {data.get('label_max')}"
    return "no label at all"


@rule
def skipped_steps(record: RunRecord) -> Symptom | None:
    found = record.steps_of("nan_skip")
    if not found:
        return None
    _, data = [*record.marks["nan_skip"]][-1]
    cure = f"See why: python -m lm replay {data['bundle']}" if data.get("bundle") else "Lower optimizer.lr."
    rollbacks = record.steps_of("rollback")
    back = f"; went back to an earlier checkpoint at {steps(rollbacks)}" if rollbacks else ""
    level = "bad" if rollbacks or len(found) > 3 else "watch"
    return Symptom(level, "Optimizer steps were skipped", f"{steps(found)}{back}", cure, "nan-or-skipped-steps")


@rule
def slowing(record: RunRecord) -> Symptom | None:
    curve = record.curves.get("tokens_per_second")
    rates = [mean for _, mean, _, _ in curve.points()] if curve else []
    if len(rates) < 12:
        return None
    third = len(rates) // 3
    early, late = sorted(rates[:third])[third // 2], sorted(rates[-third:])[third // 2]
    if late > 0.7 * early:
        return None
    text = f"{early:,.0f} tokens per second at first, {late:,.0f} at the end"
    cure = "Heat, another process, or memory that fills: see nvidia-smi."
    return Symptom("watch", "It became slower", text, cure, "slow-training")
