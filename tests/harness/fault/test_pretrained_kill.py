"""A pretrained model, whole, in part or with an adapter: killed twice, it ends as if nothing had been."""

from pathlib import Path

import pytest
import torch
from exactness import assert_same, newest
from pretrained_models import make, words
from processes import Process
from safetensors.torch import load_file

from harness.checkpoint import read

WAYS = {
    "whole": (["pretrained"], 28, 0),
    "frozen": (["pretrained", "model.freeze=['transformer.h.0.*']"], 16, 12),
    "adapter": (["lora", "model.lora.dropout=0.1", "model.lora.target_modules=[c_attn,c_fc]"], 8, 28),
}


@pytest.mark.fault
@pytest.mark.parametrize("way", WAYS)
def test_two_kills_leave_no_trace(corpus: Path, tmp_path: Path, way: str) -> None:
    (preset, *more), trained, frozen = WAYS[way]
    model = make(tmp_path / "tiny")
    base = [*words(model, corpus, tmp_path, preset), *more, "trainer.max_steps=9", "checkpoint.every_n_steps=3"]
    for fault in ("after_rename:1", "before_rename:1"):  # after step 3, and inside the save of step 6
        process = Process(tmp_path, [*base, "run.name=killed"], HARNESS_FAULT=fault)
        assert process.ended() == -9, process.output
    last = Process(tmp_path, [*base, "run.name=killed"])
    assert last.ended() == 0, last.output
    reference = Process(tmp_path, [*base, "run.name=reference"])
    assert reference.ended() == 0, reference.output
    run = tmp_path / "runs" / "killed"
    assert_same(run, tmp_path / "runs" / "reference")
    stored, before = read.load_weights(newest(run)), load_file(model / "model.safetensors")
    moments = read.load_trainer(newest(run))["optimizer_states"][0]["state"]
    assert len(moments) == trained
    assert f"{trained} trainable (" in last.output and f"moments of {trained}" in last.output
    if frozen:
        assert f"all {trained} trained tensors have moved, and none of {frozen} frozen." in last.output
    if way == "adapter":
        assert len(stored) == trained and all(".lora_" in name for name in stored)
    else:
        same = [name for name, tensor in before.items() if torch.equal(tensor, stored[name])]
        assert len(same) == frozen and all(name.startswith("transformer.h.0.") for name in same)
