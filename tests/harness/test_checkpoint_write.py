"""A checkpoint exists or it does not, and what was written is what is read."""

import json
import os
import random
from collections import OrderedDict
from pathlib import Path

import numpy
import pytest
import torch

from harness.checkpoint import keep, read, rng, write
from harness.checkpoint.contents import contents


def weights() -> dict[str, torch.Tensor]:
    embedding = torch.arange(12.0).reshape(4, 3)
    return {"embed.weight": embedding, "norm.weight": torch.ones(3, dtype=torch.bfloat16), "lm_head.weight": embedding}


def trainer() -> dict:
    moments = {0: {"step": torch.tensor(7.0), "exp_avg": torch.randn(3, 5).t()}}
    return {
        "global_step": 7,
        "optimizer_states": [{"state": moments, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.95), "params": [0]}]}],
        "loops": OrderedDict(done=True, none=None),
    }


def checkpoint(folder: Path, step: int = 7, **more) -> read.Checkpoint:
    return write.write(folder, contents(**{"step": step, "weights": weights(), "trainer": trainer(), **more}))


def test_everything_comes_back_as_it_was(tmp_path):
    torch.manual_seed(0)
    state = trainer()
    written = checkpoint(
        tmp_path, trainer=state, rng=[{"seed": 1}, {"seed": 2}], about={"run_id": "r"}, extra={"a.json": "{}"}
    )
    found = read.newest_valid(tmp_path)
    assert found == written
    assert found.path == tmp_path / "step-00000007"
    assert (found.step, found.sequence, found.manifest["run_id"]) == (7, 1, "r")
    loaded = read.load_trainer(found)
    moments, before = loaded["optimizer_states"][0]["state"][0], state["optimizer_states"][0]["state"][0]
    assert torch.equal(moments["exp_avg"], before["exp_avg"])
    assert torch.equal(moments["step"], before["step"])
    assert loaded["optimizer_states"][0]["param_groups"] == state["optimizer_states"][0]["param_groups"]
    assert loaded["loops"] == {"done": True, "none": None}
    assert [read.load_rng(found, rank) for rank in range(3)] == [{"seed": 1}, {"seed": 2}, None]
    assert (found.path / "a.json").read_text(encoding="utf-8") == "{}"


def test_tied_weights_are_stored_once_and_loaded_tied(tmp_path):
    path = checkpoint(tmp_path).path
    with read.safe_open(path / read.WEIGHTS, "pt") as file:
        assert sorted(file.keys()) == ["embed.weight", "norm.weight"]
    loaded = read.load_weights(read.open_checkpoint(path))
    assert loaded["lm_head.weight"] is loaded["embed.weight"]
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights().items())


def test_a_state_that_could_not_be_loaded_is_refused_when_it_is_saved(tmp_path):
    with pytest.raises(TypeError, match="'callbacks' cannot be in a checkpoint: use numbers"):
        checkpoint(tmp_path, trainer={"global_step": 1, "callbacks": {"mine": Path("x")}})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["_flushed", "_write_manifest", "_put_in_place", "_save_tensors"])
def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, name):
    checkpoint(tmp_path, step=1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write, name, full)
    with pytest.raises(OSError, match="No space"):
        checkpoint(tmp_path, step=2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_the_order_is_step_then_sequence_and_never_the_clock(tmp_path):
    for step in (30, 10, 20):
        checkpoint(tmp_path, step=step)
    os.utime(tmp_path / "step-00000030", (0, 0))
    assert [(one.step, one.sequence) for one in read.checkpoints(tmp_path)] == [(10, 2), (20, 3), (30, 1)]
    assert read.newest_valid(tmp_path).step == 30


def test_a_damaged_folder_of_the_same_step_is_replaced(tmp_path):
    (checkpoint(tmp_path).path / read.MANIFEST).unlink()
    assert checkpoint(tmp_path).sequence == 1
    assert read.newest_valid(tmp_path).step == 7
    keep.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000007"]


def test_random_generators_go_on_where_they_were(tmp_path):
    def draw():
        return random.random(), random.gauss(), numpy.random.rand(), torch.rand(3).tolist()

    draw()
    state = rng.capture()
    first = draw()
    rng.restore(read.load_rng(checkpoint(tmp_path, rng=[state]), 0))
    assert draw() == first


def test_a_manifest_is_json_that_a_person_can_read(tmp_path):
    manifest = json.loads((checkpoint(tmp_path).path / read.MANIFEST).read_text(encoding="utf-8"))
    assert set(manifest["files"]) == {read.WEIGHTS, read.TRAINER, read.TRAINER_TENSORS}
    assert manifest["step"] == 7


def test_tied_tensors_of_any_state_are_stored_once(tmp_path):
    tied = torch.arange(12.0).reshape(4, 3)
    average = {"embed": tied, "head": tied, "rows": tied[:2], "empty": torch.empty(0), "none": torch.empty(0)}
    found = checkpoint(tmp_path, trainer={"global_step": 7, "callbacks": {"ema": average}})
    with read.safe_open(found.path / read.TRAINER_TENSORS, "pt") as file:
        assert sorted(file.keys()) == [f"callbacks/ema/{name}" for name in ("embed", "empty", "none", "rows")]
    loaded = read.load_trainer(found)["callbacks"]["ema"]
    assert loaded["head"] is loaded["embed"]
    assert all(torch.equal(loaded[name], tensor) for name, tensor in average.items())


def test_equal_states_make_equal_files(tmp_path):
    first, second = checkpoint(tmp_path / "a", trainer=(state := trainer())), checkpoint(tmp_path / "b", trainer=state)
    for name in first.manifest["files"]:
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes(), name
    with read.safe_open(first.path / read.WEIGHTS, "pt") as file:
        assert file.metadata() == {"format": "pt"}  # safetensors writes two keys in any order


def test_a_checkpoint_with_its_aliases_in_the_header_is_still_read(tmp_path):
    from safetensors.torch import save_file

    found = checkpoint(tmp_path)
    kept = {name: weights()[name] for name in ("embed.weight", "norm.weight")}
    aliases = json.dumps({"lm_head.weight": "embed.weight"})
    save_file(kept, found.path / read.WEIGHTS, {"format": "pt", "aliases": aliases})
    del found.manifest["aliases"]
    assert torch.equal(read.load_weights(found)["lm_head.weight"], weights()["embed.weight"])
