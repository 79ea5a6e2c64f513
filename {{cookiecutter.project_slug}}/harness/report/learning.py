"""Judge how a run learned: loss, accuracy, learning rate, gradients, updates. Each rule looks for one symptom."""

from harness.report.facts import trend
from harness.report.record import RunRecord
from harness.report.symptoms import Symptom, rule, steps

# A clipped gradient norm is healthy over three orders of magnitude; beyond, something else than the data speaks.
SMALL_NORM, LARGE_NORM, EXPLODED_NORM = 1e-3, 100.0, 1000.0
GAP = 0.1  # nats that a document has to lose when what it shows is swapped, for the model to use it
FLAT = 0.01  # share of the loss that must be gained for it to count as falling
ACCURACY_GAIN = 0.005  # of all tokens, for the accuracy to count as rising


@rule
def loss_direction(record: RunRecord) -> Symptom | None:
    if not (found := trend(record, "loss")):
        return None
    first, last, change = found.values()
    text = f"{first:.4f} on average at first, {last:.4f} at the end: {change:+.0%}"
    if change < -FLAT:
        return Symptom("good", "The loss falls", text)
    if "lr" in record.curves and record.curves["lr"].highest == 0:
        return Symptom(
            "bad", "The learning rate is 0", text, "Set optimizer.lr, 1e-3 for the small models.", "the-loss-is-flat"
        )
    if change > FLAT:
        cure = "Lower optimizer.lr threefold, or lengthen scheduler.warmup_steps."
        return Symptom("bad", "The loss rises", text, cure, "the-loss-rises-or-jumps")
    cure = (
        "Can it learn one batch by heart (trainer.overfit_batches=1)? Then raise optimizer.lr; else check the labels."
    )
    return Symptom("bad", "The loss is flat", text, cure, "the-loss-is-flat")


@rule
def accuracy_direction(record: RunRecord) -> Symptom | None:
    if not (found := trend(record, "accuracy")):
        return None
    first, last, _ = found.values()
    text = f"{first:.1%} of the next tokens right at first, {last:.1%} at the end"
    if last > first + ACCURACY_GAIN:
        return Symptom("good", "The accuracy rises", text)
    cure = "Compare predicted with expected tokens (docs/logs.md has the recipe), and print the data: +debug=data."
    if last < first - ACCURACY_GAIN:
        return Symptom("bad", "The accuracy falls", text, cure, "the-loss-rises-or-jumps")
    if last > 0.99:
        return None  # nothing is left to gain
    return Symptom("watch", "The accuracy is flat", text, cure, "the-loss-is-flat")


@rule
def warmed_up(record: RunRecord) -> Symptom | None:
    curve = record.curves.get("lr")
    if curve is None or not curve.highest > curve.first:
        return None
    top = next(step for step, _, _, high in curve.points() if high == curve.highest)
    jumps = [step for step in record.steps_of("loss_jump") if step <= top]
    text = f"the learning rate rose from {curve.first:.3g} to {curve.highest:.3g} by step {top:,.0f}"
    if jumps:
        cure = "Lengthen scheduler.warmup_steps, or lower optimizer.lr."
        return Symptom("watch", "The loss jumped while warming up", text, cure, "the-loss-rises-or-jumps")
    return Symptom("good", "It was warmed up", f"{text}, and the loss did not jump")


@rule
def sudden_changes(record: RunRecord) -> Symptom | None:
    loss, gradient = record.steps_of("loss_jump"), record.steps_of("gradient_jump")
    if not loss and not gradient:
        return None
    words = [f"{name} at {steps(found)}" for name, found in (("loss", loss), ("gradient norm", gradient)) if found]
    cure = "Look at the data of these steps, and for a learning rate that is too high or a restart just before."
    text = f"far above the 20 records before: {'; '.join(words)}"
    return Symptom("watch", "Sudden changes", text, cure, "the-loss-rises-or-jumps")


@rule
def overfitting(record: RunRecord) -> Symptom | None:
    curve = record.curves.get("val_loss")
    if curve is None or curve.lowest == 0 or curve.last < 1.02 * curve.lowest:
        return None
    best = min(curve.points(), key=lambda point: point[2])[0]
    text = f"validation loss {curve.lowest:.4f} at step {best:,.0f}, {curve.last:.4f} at the end"
    cure = "More data, fewer steps, or a smaller model. The best checkpoint is kept: checkpoint.keep_best."
    return Symptom("watch", "It gets worse on text that it has not seen", text, cure, "poor-text")


@rule
def exploding(record: RunRecord) -> Symptom | None:
    curve = record.curves.get("gradient")
    if curve is None or curve.highest <= LARGE_NORM:
        return None
    at = max(curve.points(), key=lambda point: point[3])[0]
    text = f"norm {curve.highest:.4g} near step {at:,.0f}, {curve.mean:.3g} on average, before clipping"
    cure = "Lower optimizer.lr, lengthen scheduler.warmup_steps, and look at that step's data."
    level, title = ("bad", "Gradients explode") if curve.highest > EXPLODED_NORM else ("watch", "Large gradients")
    return Symptom(level, title, text, cure, "the-loss-rises-or-jumps")


@rule
def vanishing(record: RunRecord) -> Symptom | None:
    curve, zero = record.curves.get("gradient"), record.steps_of("zero_gradient")
    if zero:
        cure = "Is anything frozen or detached that should learn (fit_start counts it)? Are all labels ignored?"
        return Symptom("bad", "The gradient is zero", steps(zero), cure, "the-loss-is-flat")
    if curve is None or curve.mean >= SMALL_NORM:
        return None
    return Symptom(
        "watch", "Gradients vanish", f"norm {curve.mean:.2g} on average", "Raise optimizer.lr.", "the-loss-is-flat"
    )


@rule
def partly_without_gradient(record: RunRecord) -> Symptom | None:
    found = record.steps_of("parts_without_gradient")
    if not found:
        return None
    data = next(iter(record.marks["parts_without_gradient"]))[1]
    none = data["parameters"] - data["with_gradient"]
    text = f"of {data['parameters']} parameters {none} have none and {data['zero']} have zeros, at {steps(found)}"
    cure = "What no data reach does not learn: embeddings of absent tokens, layers that the loss does not use."
    return Symptom("watch", "Some parameters have no gradient", text, cure, "the-loss-is-flat")


@rule
def overlooked(record: RunRecord) -> Symptom | None:
    """Does swapping what a document shows for another document's change its loss?"""
    known = {name: found for name, found in record.swapped.items() if None not in (found["own"], found["other"])}
    if not known:
        return None
    unused = [name for name, found in known.items() if found["other"] - found["own"] < GAP]
    text = "; ".join(
        f"{name}: {found['own']:.3f} nats a document with its own, {found['other']:.3f} with another document's"
        + (f", {found['right']:.0%} of the answers right" if found["right"] is not None else "")
        for name, found in known.items()
        if not unused or name in unused
    )
    if not unused:
        return Symptom("good", "It uses what it is shown", text)
    title = f"The model does not use its {' and '.join(unused)} input: swapping it changes nothing"
    cure = (
        "Do texts and media belong together (+debug=data)? Has the encoder its weights, and does something learn "
        "behind it (the table of parts at the start)? Else train longer, or raise the projector's learning rate."
    )
    return Symptom("bad", title, text, cure, "multimodal-not-working")
