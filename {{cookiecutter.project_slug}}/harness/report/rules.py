"""Judge a run: how it went and ended, besides how it learned. Each rule looks for one symptom, good or bad."""

from harness.report import learning  # noqa: F401 (its rules are found in RULES)
from harness.report.facts import duration
from harness.report.record import Data, RunRecord
from harness.report.symptoms import RULES, Symptom, first_line, rule, steps


def judge(record: RunRecord) -> list[Symptom]:
    """Return the symptoms, the worst first."""
    found = [symptom for function in RULES if (symptom := function(record))]
    return sorted(found, key=lambda symptom: ("bad", "watch", "good").index(symptom.level))


@rule
def crashed(record: RunRecord) -> Symptom | None:
    if record.end is not None or "exception" not in record.marks:
        return None
    step, data = [*record.marks["exception"]][-1]
    return Symptom(
        "bad",
        "It ended with an exception",
        f"{data.get('type', 'something')} at step {step:,}: {first_line(data.get('message')) or 'no message'}",
        "The traceback is the last thing in logs/train.log. The same command goes on from the last checkpoint.",
        "it-crashed",
    )


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
def rows_without_label(record: RunRecord) -> Symptom | None:
    found = record.steps_of("rows_without_label")
    cure = "They teach nothing: documents of one token, or answers cut off by the context. See +debug=data."
    text = f"first at step {found[0]:,}" if found else ""
    return Symptom("watch", "Some rows have no label", text, cure, "labels-out-of-range") if found else None


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
def precision_fallback(record: RunRecord) -> Symptom | None:
    found = record.steps_of("precision_fallback")
    cure = "Start with trainer.precision=bf16-mixed where the hardware has it."
    return Symptom("watch", "fp16 was given up", f"at {steps(found)}", cure, "nan-or-skipped-steps") if found else None


@rule
def no_checkpoint(record: RunRecord) -> Symptom | None:
    found = record.steps_of("no_checkpoint")
    cure = "Free some space; checkpoint.max_gb limits what checkpoints take. Training goes on meanwhile."
    return Symptom("bad", "Checkpoints could not be written", steps(found), cure, "it-crashed") if found else None


@rule
def out_of_memory(record: RunRecord) -> Symptom | None:
    found = record.steps_of("oom")
    cure = "Lower data.batch_size and raise trainer.accumulate_grad_batches as much; model.gradient_checkpointing=true."
    return Symptom("watch", "Memory ran out", steps(found), cure, "out-of-memory") if found else None


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
    return Symptom(
        "watch",
        "It became slower",
        text,
        "Heat, another process, or memory that fills: see nvidia-smi.",
        "slow-training",
    )
