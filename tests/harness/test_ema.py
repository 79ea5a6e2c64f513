"""An average of the weights beside them: what is validated, sampled and saved, and no trouble for exactness."""

import contextlib
import json
from pathlib import Path

import pytest
import torch
from exactness import assert_same, newest
from faults import Fault, with_callback
from transformers import AutoModelForCausalLM

from harness.checkpoint import read
from harness.checkpoint.compare import first_difference
from harness.checkpoint.ledger import read_ledger
from harness.errors import Stopped
from hooks import PowerCut

RUN = ("trainer.max_steps=6", "trainer.log_every_n_steps=1", "checkpoint.every_n_steps=2", "logger=csv",
       "+model.config.attention_dropout=0.2", "model.attention=eager", "trainer.val_check_interval=2",
       "optimizer.lr=1e-2")  # fmt: skip
EMA = (*RUN, "callbacks=[default,ema]")


def cut_at(step: int, hook: str) -> str:
    return f"+callbacks.cut={{_target_:hooks.CutAt,step:{step},hook:{hook}}}"


def trained_weights(checkpoint: read.Checkpoint) -> dict[str, torch.Tensor]:
    state = read.load_trainer(checkpoint)["current_model_state"]
    return {name.removeprefix("model."): tensor for name, tensor in state.items()}


@pytest.mark.parametrize("cut", [cut_at(3, "batch_end"), cut_at(4, "validation"), cut_at(5, "batch_start")])
def test_killed_and_resumed_with_an_average_equals_uninterrupted(train, cut: str) -> None:
    reference = train(*EMA, "run.name=reference")
    with contextlib.suppress(PowerCut):
        train(*EMA, "run.name=cut", cut)
    assert_same(train(*EMA, "run.name=cut"), reference)


def test_stopped_in_a_validation_each_keeps_its_own_weights(train) -> None:
    reference = train(*EMA, "run.name=reference")
    with pytest.raises(Stopped):
        train(*EMA, "run.name=stopped", "+callbacks.stop={_target_:hooks.StopAt,step:4,hook:validation}")
    folder = reference.parent / "stopped"
    assert newest(folder).step == 4
    four = read.open_checkpoint(reference / "checkpoints" / "step-00000004")
    for load in (read.load_weights, trained_weights):
        ours, theirs = load(newest(folder)), load(four)
        assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    assert_same(train(*EMA, "run.name=stopped"), reference)


def test_the_average_is_saved_and_training_does_not_notice_it(train) -> None:
    plain, averaged = train(*RUN, "run.name=plain"), train(*EMA, "run.name=averaged")
    weights, average = trained_weights(newest(averaged)), read.load_weights(newest(averaged))
    for name, tensor in read.load_weights(newest(plain)).items():
        assert torch.equal(weights[name], tensor), name
    assert any(not torch.equal(average[name], tensor) for name, tensor in weights.items())


def test_the_average_is_what_torch_would_average(train) -> None:
    folder = train(*EMA, "run.name=each", "checkpoint.every_n_steps=1", "checkpoint.keep_last=9")
    found = read.checkpoints(folder / "checkpoints")
    name = "model.layers.0.mlp.up_proj.weight"
    average = trained_weights(found[0])[name]
    for updates, checkpoint in enumerate(found):
        weight = trained_weights(checkpoint)[name]
        if updates:
            decay = min(0.999, (1 + updates) / (10 + updates))
            average = decay * average + (1 - decay) * weight
        torch.testing.assert_close(read.load_weights(checkpoint)[name], average)


def test_validation_and_the_last_words_are_those_of_the_average(train, capsys) -> None:
    from lm.inference.evaluate import score, validation_data
    from lm.inference.load import load

    folder = train(*EMA, "run.name=words")
    result = json.loads((folder / "run.json").read_text(encoding="utf-8"))["result"]
    trained = load(str(folder))
    nats, tokens = score(trained, validation_data(trained)[""])
    assert result["val_loss"] == pytest.approx(nats / tokens, abs=1e-5)
    loaded = AutoModelForCausalLM.from_pretrained(newest(folder).path)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, trained.model.state_dict()[name].cpu()), name


def test_a_rollback_takes_the_average_back_too(train) -> None:
    """A weight that is not a number is in the average a step later."""
    hurt = with_callback(Fault, kind="weight", steps=[9])
    short = ("checkpoint.keep_last=2", "callbacks.nan_guard.good_after=4", "trainer.max_steps=14")
    folder = train(*EMA, *short, "run.name=hurt", hurt)
    assert [(entry.step, entry.to) for entry in read_ledger(folder)] == [(11, 4)]
    for tensors in (read.load_weights(newest(folder)), trained_weights(newest(folder))):
        assert all(tensor.isfinite().all() for tensor in tensors.values())


@pytest.mark.parametrize(
    "callback",
    [
        "lightning.pytorch.callbacks.EMAWeightAveraging",
        pytest.param("lightning.pytorch.callbacks.StochasticWeightAveraging,swa_lrs:0.001", marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore:SWA is currently only supported every epoch")
def test_lightnings_own_averages_survive_their_checkpoints(train, callback: str) -> None:
    overrides = (*RUN, f"+callbacks.average={{_target_:{callback}}}", "trainer.max_steps=-1", "+trainer.max_epochs=2")
    folder = train(*overrides, "run.name=own", "checkpoint.keep_last=99", "data.limit=11", "data.batch_size=20")
    again: Path = train(*overrides, "run.name=other", "checkpoint.keep_last=99", "data.limit=11", "data.batch_size=20")
    assert not first_difference(newest(folder), newest(again))
