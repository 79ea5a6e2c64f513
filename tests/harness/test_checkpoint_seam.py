"""Checkpoints without, beside and under other callbacks: what the plugin owns, and what a checkpoint refuses to be."""

import contextlib
import logging
import math

import pytest
import torch
from exactness import assert_same, logged, newest
from lightning.pytorch import Callback, LightningModule, Trainer

from harness import trainer as fit
from harness.checkpoint import ledger, read
from harness.checkpoint.io import run_facts, stored_model
from harness.errors import UserError
from harness.run import folder as run_folder
from harness.telemetry import events
from hooks import PowerCut

RUN = ("trainer.max_steps=6", "trainer.log_every_n_steps=1", "checkpoint.every_n_steps=2", "logger=csv",
       "+model.config.attention_dropout=0.2", "model.attention=eager", "trainer.val_check_interval=2",
       "checkpoint.keep_last=9")  # fmt: skip


class FreezeMoment(Callback):
    """What a flipped bit or an overflow leaves: one element that no later step moves."""

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == 3:
            next(iter(trainer.optimizers[0].state.values()))["exp_avg_sq"].view(-1)[0] = math.inf


class Ask(Callback):
    facts = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        Ask.facts = run_facts(trainer)


def test_a_run_resumes_without_the_checkpoint_callback(train, caplog) -> None:
    reference = train(*RUN, "run.name=reference")
    with contextlib.suppress(PowerCut):
        train(*RUN, "run.name=cut", "+callbacks.cut={_target_:hooks.CutAt,step:5,hook:batch_end}")
    with caplog.at_level(logging.INFO):
        train(*RUN, "run.name=cut", "callbacks.checkpoint=null")
    assert "Going on from" in caplog.text
    assert newest(reference.parent / "cut").step == 4  # nothing new was written, as asked
    assert logged(reference.parent / "cut") == logged(reference)


def test_a_callback_is_told_the_facts_of_the_run(train) -> None:
    folder = train(*RUN, "run.name=facts", "+callbacks.ask={_target_:test_checkpoint_seam.Ask}")
    diary = run_folder.read(folder)
    assert (Ask.facts.id, Ask.facts.identity, Ask.facts.attempt) == (diary["id"], diary["identity"], 1)
    assert newest(folder).manifest["versions"] == diary["attempts"][-1]["versions"] == Ask.facts.versions


class Regressor(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(2, 1)
        self.model = "a name, not a network"


class Chooses(Regressor):
    @property
    def network(self) -> torch.nn.Module:
        return self.net


def test_the_module_says_which_model_a_checkpoint_holds() -> None:
    plain, chooses = Regressor(), Chooses()
    assert stored_model(plain) == ("", plain)
    assert stored_model(chooses) == ("net.", chooses.net)


def test_a_checkpoint_with_an_infinite_moment_is_said_and_is_not_good(train, caplog) -> None:
    freeze = "+callbacks.freeze={_target_:test_checkpoint_seam.FreezeMoment}"
    folder = train(*RUN, "run.name=frozen", freeze, "callbacks.nan_guard=null")  # which would go back to step 2
    found = read.checkpoints(folder / "checkpoints")
    assert [bool(checkpoint.manifest["not_finite"]) for checkpoint in found] == [False, True, True]
    assert found[1].manifest["not_finite"].startswith("exp_avg_sq/model.")
    assert [checkpoint.manifest["score"] is None for checkpoint in found] == [False, True, True]
    assert "has values that are not finite" in caplog.text
    log = events.read(folder / "debug_log" / "events.jsonl")
    assert [event["step"] for event in log if event["event_type"] == "not_finite"] == [4, 6]
    assert ledger.good_checkpoints(found, [], first_bad=7, good_after=1) == found[:1]


def test_gradient_accumulation_by_epochs_is_refused_before_training(train, tmp_path) -> None:
    by_epoch = "+callbacks.gas={_target_:lightning.pytorch.callbacks.GradientAccumulationScheduler,scheduling:{1:2}}"
    with pytest.raises(UserError, match=r"cannot be resumed exactly.*trainer\.accumulate_grad_batches"):
        train(*RUN, "run.name=gas", by_epoch)
    assert not list((tmp_path / "runs" / "gas").glob("checkpoints/step-*"))


@pytest.mark.parametrize("validate_every", [2, 5])
def test_killed_between_the_last_checkpoint_and_the_result(train, monkeypatch, validate_every: int) -> None:
    base = (*RUN, f"trainer.val_check_interval={validate_every}")
    reference = train(*base, "run.name=reference")
    with monkeypatch.context() as patch, contextlib.suppress(PowerCut):
        patch.setattr(fit, "final_loss", lambda *_: (_ for _ in ()).throw(PowerCut))
        train(*base, "run.name=cut")
    folder = train(*base, "run.name=cut")
    assert run_folder.read(folder)["result"] == run_folder.read(reference)["result"]
    last = [row["step"] for row in logged(folder) if row["val/loss"]][-1]
    assert last == [row["step"] for row in logged(reference) if row["val/loss"]][-1]
    assert_same(folder, reference)
