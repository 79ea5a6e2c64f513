"""Fifty steps whose losses are on file, bit for bit: a change that alters training without meaning to is seen here.

Bits differ between processors and versions of torch, so each kind of machine has curves of its own in golden.json, and
another one must come close. LM_GOLDEN=write pytest -m fault tests/fault/test_golden.py puts this machine's on file,
after a change that was meant to alter them.
"""

import json
import math
import os
import platform
from pathlib import Path

import pytest
import torch
from exactness import logged

from harness import fastest

FILE = Path(__file__).with_name("golden.json")
CLOSE = 1e-3  # nats; fifty steps at this size drift far less between kernels


def machine() -> str:
    able = sorted(name for name, value in torch.cpu.get_capabilities().items() if value is True)
    return " ".join([platform.system(), platform.machine(), f"torch-{torch.__version__.split('+')[0]}", *able])


@pytest.mark.fault
def test_the_losses_are_those_on_file(train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastest, "WORTH", math.inf)  # the safest setting, however slow this machine is
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more add up in another order
    try:
        run = train("trainer.max_steps=50", "trainer.log_every_n_steps=1", "trainer.val_check_interval=1000")
    finally:
        torch.set_num_threads(threads)
    losses = [float(row["train/loss"]) for row in logged(run) if row["train/loss"]]
    assert len(losses) == 50
    golden = json.loads(FILE.read_text(encoding="utf-8"))
    if os.environ.get("LM_GOLDEN") == "write":
        golden[machine()] = [loss.hex() for loss in losses]
        FILE.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")
    if machine() in golden:
        expected = [float.fromhex(loss) for loss in golden[machine()]]
        first = next((step for step in range(50) if losses[step] != expected[step]), None)
        assert first is None, f"step {first + 1}: {losses[first].hex()}, on file {expected[first].hex()}"
    else:
        for curve in golden.values():
            assert losses == pytest.approx([float.fromhex(loss) for loss in curve], abs=CLOSE)
