"""The random generators of this process: all of them, as a tree that a checkpoint can hold, or those of one step."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy
import torch
from torch import Tensor


def capture() -> dict[str, Any]:
    """Return the state of all generators. On a GPU this waits for the device."""
    numpy_state: Any = numpy.random.get_state(legacy=False)
    state = {
        "python": random.getstate(),
        "numpy": {**numpy_state, "state": {**numpy_state["state"], "key": numpy_state["state"]["key"].tolist()}},
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def restore(state: dict[str, Any]) -> None:
    """Undo `capture`. Devices that this machine lacks are left out: exactness holds on the same hardware only."""
    random.setstate(state["python"])
    key = numpy.array(state["numpy"]["state"]["key"], dtype=numpy.uint32)
    numpy.random.set_state({**state["numpy"], "state": {**state["numpy"]["state"], "key": key}})
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])


def of_step(device: torch.device) -> dict[str, Tensor]:
    """Return the states of the generators that a training step draws from. Takes microseconds and waits for nothing."""
    states = {"cpu": torch.get_rng_state()}
    return states | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else states


@contextmanager
def drawn_from(states: dict[str, Tensor], device: torch.device) -> Iterator[None]:
    """Draw from these states inside, and go on outside as if nothing had been drawn."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.set_rng_state(states["cpu"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(states["cuda"], device)
        yield
