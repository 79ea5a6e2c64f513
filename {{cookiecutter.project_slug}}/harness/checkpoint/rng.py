"""Every random generator of this process, as a tree that a checkpoint can hold: python, numpy, torch on each device."""

import random
from typing import Any

import numpy
import torch


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
