"""The fault table: what the guard does to a real run."""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from faults import Fault, Record, with_callback

from harness.checkpoint import read
from harness.checkpoint.finite import first_non_finite
from harness.checkpoint.ledger import LEDGER, read_ledger
from harness.errors import UserError
from harness.nan import bundle as bundles
from harness.run import folder as run_folder
from harness.telemetry import events

Train = Callable[..., Path]
# Policies in tens of steps instead of hundreds.
SHORT = ("logger=none", "checkpoint.every_n_steps=2", "checkpoint.keep_last=2", "callbacks.nan_guard.good_after=4")


@pytest.fixture
def train_small(train: Train) -> Train:
    """Train with a recorder and a short policy."""
    return lambda *overrides: train(with_callback(Record, name="record"), *SHORT, *overrides)


def emitted(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in events.read(events.log_path(folder)) if event["event_type"] == kind]


KINDS = ("one gradient", "all gradients", "loss", "embedding", "norm of 1e6")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
# Each kind and each precision once by default, the whole table with -m fault.
FAST = [*((kind, "32-true", 1) for kind in KINDS), *(("all gradients", precision, 3) for precision in PRECISIONS)]
TABLE = [
    pytest.param(*row, marks=[] if row in FAST else pytest.mark.fault)
    for row in itertools.product(KINDS, PRECISIONS, (1, 3))
]


@pytest.mark.parametrize(("kind", "precision", "accumulate"), TABLE)
def test_a_bad_step_is_skipped(
    train_small: Train, caplog: pytest.LogCaptureFixture, kind: str, precision: str, accumulate: int
) -> None:
    folder = train_small(
        with_callback(Fault, kind=kind, steps=[3]),
        f"trainer.precision={precision}",
        f"trainer.accumulate_grad_batches={accumulate}",
        "model.attention=eager",
    )
    assert Record.last.unchanged() == [3]
    assert [event["step"] for event in emitted(folder, "nan_skip")] == [3]
    assert sum("Step 3 was skipped" in message for message in caplog.messages) == 1
    facts = bundles.read_facts(folder / "nan" / "step-00000003")
    assert len(facts["micro_batches"]) == accumulate
    assert facts["checkpoint"] == "step-00000002"
    assert read_ledger(folder) == []


def test_with_a_spike_on_record_only_the_norm_is_to_blame(train_small: Train) -> None:
    folder = train_small(with_callback(Fault, kind="norm of 1e6", steps=[3]))
    facts = bundles.read_facts(folder / "nan" / "step-00000003")
    assert facts["norm"] >= 1e6 and facts["limit"] == 100 and "is above the limit of 100" in facts["reason"]


def test_a_batch_without_labels_has_a_loss_of_zero(train_small: Train, caplog: pytest.LogCaptureFixture) -> None:
    folder = train_small(with_callback(Fault, kind="no labels", steps=[3]))
    assert emitted(folder, "nan_skip") == []
    assert all(torch.isfinite(tensor).all() for tensor in Record.last.after[6])


def test_the_bundle_holds_what_the_model_was_given(train_small: Train) -> None:
    folder = train_small(with_callback(Fault, kind="one gradient", steps=[3]), "trainer.accumulate_grad_batches=2")
    bundle = folder / "nan" / "step-00000003"
    found = bundles.read(bundle)
    assert [sorted(batch) for batch in found.batches] == [["input_ids", "labels"]] * 2
    assert all(batch["input_ids"].shape == (4, 16) for batch in found.batches)
    composition = found.facts["micro_batches"][0]
    assert composition["valid"] == 4 * 15 and composition["ids"][0] == int(found.batches[0]["input_ids"].min())
    assert found.facts["micro_batches"][0]["outputs_now"]["nan"] == 0
    assert found.facts["weights_now"]["model.norm"] > 0
    text = (bundle / "text-rank0.txt").read_text(encoding="utf-8")
    assert text.count("--- micro-batch") == 8 and "class" in text
    assert (bundle / "config.yaml").read_text(encoding="utf-8") == (folder / "config.yaml").read_text(encoding="utf-8")


def test_a_nan_weight_rolls_back_at_once(train_small: Train) -> None:
    folder = train_small(with_callback(Fault, kind="weight", steps=[9]), "trainer.max_steps=16")
    (entry,) = read_ledger(folder)
    # Poisoned in step 9, reported two steps later; the newest checkpoint that is 4 steps older than step 9 is that of
    # 4.
    assert (entry.step, entry.to, entry.first_bad) == (11, 4, 9)
    assert (entry.first_window, entry.next_window) == (16, 44)
    assert all(torch.isfinite(tensor).all() for step in range(11, 17) for tensor in Record.last.after[step])
    assert [event["step"] for event in emitted(folder, "rollback")] == [11]
    assert read.checkpoints(folder / "checkpoints")[-1].step == 16


def test_a_rollback_takes_weights_and_moments_and_leaves_the_schedule(train_small: Train) -> None:
    train_small(with_callback(Fault, kind="weight", steps=[9]), "trainer.max_steps=16", run_name := "run.name=hurt")
    hurt = Record.last
    train_small("trainer.max_steps=16", run_name.replace("hurt", "plain"))
    plain = Record.last
    assert all(torch.equal(a, b) for a, b in zip(hurt.after[11], plain.after[4], strict=True))
    assert hurt.lr == plain.lr


def test_bad_steps_in_a_row_roll_back(train_small: Train) -> None:
    folder = train_small(with_callback(Fault, kind="all gradients", steps=[8, 9, 10]), "trainer.max_steps=14")
    (entry,) = read_ledger(folder)
    assert (entry.step, entry.to, entry.first_bad) == (12, 4, 8)


def test_good_steps_forgive_bad_ones(train_small: Train) -> None:
    folder = train_small(
        with_callback(Fault, kind="all gradients", steps=[2, 4, 6, 8, 10]),
        "trainer.max_steps=12",
        "callbacks.nan_guard.forgive=1",
    )
    assert read_ledger(folder) == []


def test_a_checkpoint_follows_a_rollback_and_abandoned_ones_are_not_used_again(train_small: Train) -> None:
    folder = train_small(
        with_callback(Fault, kind="weight", steps=[9, 14]), "trainer.max_steps=18", "checkpoint.keep_last=100"
    )
    steps = [checkpoint.step for checkpoint in read.checkpoints(folder / "checkpoints")]
    assert 11 in steps and {6, 8, 10} < set(steps)
    # From step 14 the newest that is 4 steps old would be that of 10, which was trained with the poisoned weight.
    assert [(entry.step, entry.to) for entry in read_ledger(folder)] == [(11, 4), (16, 4)]


def test_after_three_rollbacks_the_run_stops_with_the_evidence(train_small: Train) -> None:
    with pytest.raises(UserError, match="after 3 rollbacks its steps are still bad") as stopped:
        train_small(with_callback(Fault, kind="weight", steps=[7, 11, 15, 19]), "trainer.max_steps=30")
    assert stopped.value.code == 3
    assert "python -m lm replay" in stopped.value.cure and "step-00000019" in stopped.value.cure


def test_without_a_checkpoint_from_before_the_trouble_the_run_stops(train_small: Train) -> None:
    with pytest.raises(UserError, match="no checkpoint from before step 2") as stopped:
        train_small(with_callback(Fault, kind="weight", steps=[2]))
    assert stopped.value.code == 3


def test_an_fp16_storm_ends_in_a_wider_format_and_stays_there(train_small: Train) -> None:
    storm = with_callback(Fault, kind="overflow", steps=[3, 4, 5])
    common = (storm, "trainer.precision=16-mixed", "model.attention=eager")
    folder = train_small(*common, "trainer.max_steps=10")
    after = Record.last.precision
    wider = after[10]
    assert wider in ("bf16-mixed", "32-true")
    assert {after[step] for step in range(1, 7)} == {"16-mixed"} and {after[step] for step in range(7, 11)} == {wider}
    assert [event["data"]["to"] for event in emitted(folder, "precision_fallback")] == [wider]
    assert read_ledger(folder) == []
    train_small(*common, "trainer.max_steps=12")
    assert Record.last.precision == {11: wider, 12: wider}


@pytest.mark.slow
def test_the_fp16_scale_survives_a_resume(train_small: Train) -> None:
    common = ("trainer.precision=16-mixed", "model.attention=eager", with_callback(Fault, kind="overflow", steps=[3]))
    whole = train_small(*common, "trainer.max_steps=8", "run.name=whole")
    expected = Record.last.after[8]
    train_small(*common, "trainer.max_steps=4", "run.name=halves", "scheduler.warmup_steps=100")
    train_small(*common, "trainer.max_steps=8", "run.name=halves", "scheduler.warmup_steps=100")
    state = [
        read.load_trainer(read.checkpoints(folder / "checkpoints")[-1]) for folder in (whole, whole.parent / "halves")
    ]
    assert state[0]["FallbackPrecision"] == state[1]["FallbackPrecision"]
    assert state[0]["FallbackPrecision"]["loss_scale"] == (2.0**15, 5.0)
    assert len(expected) > 0


def test_a_killed_rollback_is_done_again_and_not_twice(train_small: Train, tmp_path: Path) -> None:
    common = (with_callback(Fault, kind="weight", steps=[9]), "checkpoint.keep_last=100")
    folder = train_small(*common, "trainer.max_steps=16")
    expected, ledger = Record.last.after[16], (folder / LEDGER).read_text(encoding="utf-8")
    for checkpoint in read.checkpoints(folder / "checkpoints"):
        if checkpoint.step > 10:  # as if it had been killed between the ledger's line and the checkpoint of step 11
            checkpoint.path.rename(tmp_path / checkpoint.path.name)
    train_small(*common, "trainer.max_steps=16", "trainer.log_every_n_steps=7")
    assert (folder / LEDGER).read_text(encoding="utf-8") == ledger
    assert all(torch.equal(a, b) for a, b in zip(Record.last.after[16], expected, strict=True))


def test_evidence_has_a_limit(train_small: Train) -> None:
    folder = train_small(
        with_callback(Fault, kind="one gradient", steps=[2, 4, 6, 8]),
        "trainer.max_steps=12",
        "callbacks.nan_guard.max_bundles=2",
        "callbacks.nan_guard.patience=99",
    )
    assert [path.name for path in sorted((folder / "nan").iterdir())] == ["step-00000002", "step-00000004"]
    assert [event["data"]["skipped"] for event in emitted(folder, "nan_skip")] == [1, 2, 3, 4]


def test_a_full_disk_loses_the_evidence_and_not_the_run(
    train_small: Train, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundles, "save_file", full)
    train_small(with_callback(Fault, kind="one gradient", steps=[3]))
    assert max(Record.last.after) == 6
    assert any("The evidence of step 3 could not be written" in message for message in caplog.messages)


def test_a_skip_in_the_last_steps_is_reported_too(train_small: Train) -> None:
    folder = train_small(with_callback(Fault, kind="one gradient", steps=[6]))
    assert [event["step"] for event in emitted(folder, "nan_skip")] == [6]
    assert (folder / "nan" / "step-00000006" / "incident.json").is_file()


@pytest.mark.parametrize("step", [5, 6])
def test_a_weight_that_is_spoiled_in_the_last_two_steps_is_in_no_final_checkpoint(
    train_small: Train, step: int
) -> None:
    folder = train_small(with_callback(Fault, kind="weight after", steps=[step]), "callbacks.nan_guard.good_after=2")
    assert [entry.to for entry in read_ledger(folder)] == [4]
    last = read.checkpoints(folder / "checkpoints")[-1]
    assert last.step == 6 and first_non_finite(read.load_weights(last)) == ""
    assert math.isfinite(run_folder.read(folder)["result"]["val_loss"])


@pytest.mark.parametrize("step", [4, 6])
def test_a_moment_that_is_infinite_is_found_and_gone_back_from(train_small: Train, step: int) -> None:
    folder = train_small(
        with_callback(Fault, kind="moment", steps=[step]),
        "callbacks.nan_guard.good_after=1",
        "callbacks.nan_guard.check_every_n_steps=2",
        "checkpoint.keep_last=9",
    )
    (entry,) = read_ledger(folder)
    assert (entry.step, entry.to) == (step, step - 2)
    (rollback,) = emitted(folder, "rollback")
    assert "exp_avg_sq" in rollback["data"]["reason"] and "model.norm" in rollback["data"]["reason"]
    last = read.load_trainer(read.checkpoints(folder / "checkpoints")[-1])
    assert first_non_finite(last["optimizer_states"]) == ""


def test_a_loss_that_is_nan_with_finite_gradients_is_skipped_and_said(
    train_small: Train, caplog: pytest.LogCaptureFixture
) -> None:
    folder = train_small(with_callback(Fault, kind="loss alone", steps=[3]))
    assert Record.last.unchanged() == [3]
    (event,) = emitted(folder, "nan_skip")
    assert event["step"] == 3 and math.isfinite(event["data"]["norm"])
    assert any("Step 3 was skipped: its loss" in message for message in caplog.messages)


def test_evidence_that_was_damaged_ends_no_training(train_small: Train) -> None:
    folder = train_small(with_callback(Fault, kind="loss", steps=[3]), "trainer.max_steps=4")
    (folder / "nan" / "step-00000003" / "incident.json").write_bytes(b"")
    train_small(with_callback(Fault, kind="loss", steps=[3]), "trainer.max_steps=8")
    assert read.checkpoints(folder / "checkpoints")[-1].step == 8


def test_what_is_needed_for_going_back_outlives_retention(train_small: Train) -> None:
    folder = train_small("trainer.max_steps=40", "callbacks.nan_guard.good_after=20")
    steps = [checkpoint.step for checkpoint in read.checkpoints(folder / "checkpoints")]
    assert any(step <= 20 for step in steps) and len(steps) <= 2 + 2
    assert any(0 < step <= 40 for step in steps)


def test_incident_json_is_standard_json(train_small: Train) -> None:
    folder = train_small(with_callback(Fault, kind="loss", steps=[3]))
    text = (folder / "nan" / "step-00000003" / "incident.json").read_text(encoding="utf-8")

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    assert json.loads(text, parse_constant=refuse)["loss"] == "nan"


@pytest.mark.slow
def test_the_command_ends_with_exit_code_3_and_says_where_to_look(
    command: Callable, small: list[str], tmp_path: Path
) -> None:
    fault = with_callback(Fault, kind="weight", steps=[2])
    done = command("train.py", *small, *SHORT, fault, "run.name=hurt")
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].endswith("nan/step-00000002")
    assert "Training stopped at step 4: a weight is not finite" in done.stderr
