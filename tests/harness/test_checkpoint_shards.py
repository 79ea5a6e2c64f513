"""A checkpoint whose tensors are split over ranks, here over one: what two ranks do is in fault/test_fsdp.py."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from harness.checkpoint import io, read, write
from harness.checkpoint.contents import contents
from harness.errors import UserError
from harness.nan.guard import Guard, StepGate, total_norm
from harness.sharding import repeated_layers


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(5, 3, generator=generator) for name in ("embed", "up")}


def checkpoint(folder: Path, mesh: DeviceMesh) -> read.Checkpoint:
    split = {name: distribute_tensor(tensor, mesh, [Shard(0)]) for name, tensor in weights().items()}
    moment = {"exp_avg": distribute_tensor(weights()["up"], mesh, [Shard(0)]), "step": torch.tensor(7.0)}
    groups = [{"params": [0, 1], "param_names": ["embed", "up"], "lr": 0.1}]
    trainer = {"global_step": 7, "optimizer_states": [{"state": {1: moment}, "param_groups": groups}]}
    tied = {"head": split["embed"].detach()}
    return write.write(folder, contents(step=7, weights=split | tied, trainer=trainer, rng=[{"torch": torch.zeros(1)}]))


def test_what_was_written_in_shards_is_read_whole(tmp_path: Path, mesh: DeviceMesh) -> None:
    found = checkpoint(tmp_path, mesh)
    read.verify(found)
    files = {"model-rank0.safetensors", "trainer-rank0.safetensors", "rng-rank0.pt", read.TRAINER}
    assert set(found.manifest["files"]) == files
    loaded = read.load_weights(found)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights().items())
    assert loaded["head"] is loaded["embed"]
    state = read.load_trainer(found)["optimizer_states"][0]["state"][1]
    assert torch.equal(state["exp_avg"], weights()["up"]) and state["step"] == 7


@pytest.mark.parametrize("sharded", [True, False])
def test_each_rank_reads_what_it_holds_of_any_checkpoint(tmp_path: Path, mesh: DeviceMesh, sharded: bool) -> None:
    found = checkpoint(tmp_path, mesh)
    if not sharded:
        state = read.load_trainer(found)
        found = write.write(tmp_path / "whole", contents(step=7, weights=read.load_weights(found), trainer=state))
    wanted = {name: distribute_tensor(torch.zeros(5, 3), mesh, [Shard(0)]) for name in ("model.embed", "model.head")}
    wanted |= {"model.up": distribute_tensor(torch.zeros(5, 3), mesh, [Shard(0)])}
    own = io.own_weights(found, wanted)
    assert all(torch.equal(own[f"model.{name}"].full_tensor(), tensor) for name, tensor in weights().items())
    assert torch.equal(own["model.head"].full_tensor(), weights()["embed"])
    state = io.own_trainer(found, {"up": wanted["model.up"]})["optimizer_states"][0]["state"][1]
    assert torch.equal(state["exp_avg"].full_tensor(), weights()["up"]) and state["step"] == 7


def of_two_ranks(folder: Path) -> read.Checkpoint:
    """Write 5 rows as two ranks hold them, 3 and 2."""
    whole = weights()["up"]
    for rank, (first, last) in enumerate([(0, 3), (3, 5)]):
        header = {"DCP_SHARDING_INFO": json.dumps({"up": {"saved_offsets": [first, 0]}}), "format": "pt"}
        save_file({"up": whole[first:last].contiguous()}, folder / f"model-rank{rank}.safetensors", header)
    save_file({"up": torch.zeros(9, 9)}, folder / "stray.safetensors", {"format": "pt"})
    files: dict[str, Any] = {"model-rank0.safetensors": {}, "model-rank1.safetensors": {}}
    return read.Checkpoint(folder, {"files": files, "aliases": {}})


def test_the_files_of_all_ranks_are_put_together(tmp_path: Path) -> None:
    assert torch.equal(read.load_weights(of_two_ranks(tmp_path))["up"], weights()["up"])


def test_a_missing_file_of_one_rank_is_named(tmp_path: Path) -> None:
    found = of_two_ranks(tmp_path)
    (tmp_path / "model-rank1.safetensors").unlink()
    with pytest.raises(read.DamagedCheckpoint, match="model-rank1.safetensors is missing"):
        read.load_weights(found)


@pytest.mark.parametrize("name", ["_small", "_write_manifest", "shards.write"])
def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, mesh: DeviceMesh, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"harness.checkpoint.write.{name}", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint(tmp_path, mesh)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_inside_the_library_is_an_error_of_the_disk(
    tmp_path: Path, mesh: DeviceMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint(tmp_path, mesh)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("skip", [False, True])
def test_an_optimizer_of_split_weights_is_put_back(mesh: DeviceMesh, skip: bool) -> None:
    parameter = torch.nn.Parameter(distribute_tensor(weights()["up"], mesh, [Shard(0)]))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    with StepGate(optimizer) as gate:
        (parameter * (torch.nan if skip else 1.0)).sum().backward()
        gate.set(Guard().decide(total_norm([parameter])))
        optimizer.step()
    expected = weights()["up"] - (0.0 if skip else 0.1)
    torch.testing.assert_close(parameter.detach().full_tensor(), expected)


def test_the_layers_are_those_of_the_outermost_lists() -> None:
    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)])

    network = torch.nn.Module()
    network.body = torch.nn.ModuleList([Block(), Block()])
    network.drops = torch.nn.ModuleList([torch.nn.Dropout()])
    assert repeated_layers(network) == list(network.body)


def test_the_old_kind_of_sharding_is_refused_by_name(compose: Any) -> None:
    with pytest.raises(UserError, match="use trainer=fsdp"):
        from harness.config.check import check

        check(compose("+trainer.strategy=fsdp"))
