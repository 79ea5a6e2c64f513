"""A device that runs out of memory: the batch is cut into pieces, and the same step done again."""

import contextlib
import weakref

import pytest
import torch
from exactness import newest
from faults import NoMemory, SmallMemory, SmallValidation, with_callback
from safetensors.torch import load_file

from harness.batch import BatchFormat
from harness.errors import UserError
from harness.run import folder as run_folder
from harness.step.oom_retry import MicrobatchSplitter, out_of_memory
from harness.telemetry import events


def weights(run) -> dict[str, torch.Tensor]:
    return load_file(newest(run).path / "model.safetensors")


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_same_step_in_smaller_pieces(train, accumulate: int, backward: bool) -> None:
    window = f"trainer.accumulate_grad_batches={accumulate}"
    whole = train(window, "run.name=whole")
    pieces = train(window, "run.name=pieces", with_callback(SmallMemory, rows=1, backward=backward, first=3))
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(pieces)[name], tensor, rtol=1e-6, atol=1e-6)
    told = [event for event in events.read(events.log_path(pieces)) if event["event_type"] == "oom"]
    assert [(e["step"], e["data"]["rows"], e["data"]["pieces"]) for e in told] == [(3, 4, 2), (3, 4, 4)]


def test_validation_that_runs_out_of_memory_halves_too(train) -> None:
    whole = train("run.name=whole")
    pieces = train("run.name=pieces", with_callback(SmallValidation, rows=1))
    loss, expected = (run_folder.read(folder)["result"]["val_loss"] for folder in (pieces, whole))
    assert loss == pytest.approx(expected, rel=1e-6)
    told = [event for event in events.read(events.log_path(pieces)) if event["event_type"] == "oom"]
    assert [(event["step"], event["data"]["pieces"]) for event in told] == [(6, 2), (6, 4)]


def test_a_resumed_run_starts_with_the_pieces_it_needed(train) -> None:
    small = with_callback(SmallMemory, rows=2)
    run = train("run.name=small", small)
    assert train("run.name=small", small, "trainer.max_steps=8") == run
    told = [event for event in events.read(events.log_path(run)) if event["event_type"] == "oom"]
    assert [event["step"] for event in told] == [1]


def test_a_single_row_that_does_not_fit_ends_with_advice(train) -> None:
    with pytest.raises(UserError, match=r"(?s)Out of memory at step 3 with a single row.*gradient_checkpointing=true"):
        train(with_callback(SmallMemory, rows=0, first=3))


def test_outside_of_a_training_step_it_is_a_sentence(train) -> None:
    with pytest.raises(UserError, match=r"(?s)Out of memory outside of a training step.*The same command goes on"):
        train(with_callback(NoMemory))


def test_what_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory(caught.value)
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert not out_of_memory(RuntimeError("shapes do not match"))


def test_nothing_holds_on_to_a_graph_that_broke_off() -> None:
    """It is what fills the memory: kept alive, smaller pieces would not fit either."""
    weight, saved = torch.ones(4, requires_grad=True), []
    broken = [1, 2, 3]

    def loss(rows: dict[str, torch.Tensor]) -> torch.Tensor:
        assert [tensor for tensor in saved if tensor() is not None] == []
        powers = (rows["input_ids"] * weight).exp()  # which the graph keeps for its way back
        saved.append(weakref.ref(powers))
        total = powers.sum()
        if broken:
            broken.pop()
            powers.register_hook(full)
        return total

    def full(_: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("full")

    splitter = MicrobatchSplitter(lambda: setattr(weight, "grad", None), contextlib.nullcontext)
    rows = torch.arange(32.0).reshape(8, 4) / 32
    half = splitter.forward(loss, {"input_ids": rows}, 1) / 2  # as Lightning does for two micro-batches a step
    splitter.backward(half, None, 2, 1)
    assert splitter.pieces == 8
    torch.testing.assert_close(weight.grad, (rows * rows.exp()).sum(dim=0) / 2)


def test_a_step_that_fits_keeps_its_own_loss_and_graph() -> None:
    weight = torch.ones(4, requires_grad=True)
    splitter = MicrobatchSplitter(lambda: None, contextlib.nullcontext)
    loss = splitter.forward(lambda rows: (rows["x"] * weight).sum(), {"x": torch.ones(2, 4)}, 1)
    assert loss.grad_fn is not None and loss.item() == 8


def test_pieces_are_all_rows_in_order() -> None:
    rows = torch.arange(10).reshape(5, 2)
    pieces = [piece["input_ids"] for piece in BatchFormat().cut({"input_ids": rows}, 4)]
    assert torch.equal(torch.cat(pieces), rows)
