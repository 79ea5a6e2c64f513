"""Two ranks, one with pictures and one with text only: no hang, and the weights of one process."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as processes
from torch.nn.parallel import DistributedDataParallel

from lm.module import logits_of, loss_sums
from lm.optim.groups import build_optimizer

pytestmark = [pytest.mark.fault, pytest.mark.skipif(sys.platform != "linux", reason="gloo and process trees of Linux")]

STEPS = 3


def network() -> Any:
    from test_media_model import ears, eyes, model

    torch.manual_seed(0)
    return model(image=eyes(), audio=ears())


def rows(of: Any, rank: int) -> dict[str, torch.Tensor]:
    """Three rows with media for rank 0, and the same text without any for rank 1."""
    from test_media_model import batch

    made = batch(of)
    if rank:
        for kind in of.plans:
            made[kind] = torch.zeros_like(made[kind])
            made[f"{kind}_at"] = torch.full_like(made[f"{kind}_at"], -1)
    return made


def trained(of: Any, forward: Any, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    optimizer = build_optimizer(lambda groups: torch.optim.SGD(groups, lr=0.5), of)
    for _ in range(STEPS):
        optimizer.zero_grad()
        total, count = loss_sums(logits_of(forward, batch), batch["labels"])
        (total / count).backward()
        assert all(parameter.grad is not None for parameter in of.parameters() if parameter.requires_grad)
        optimizer.step()
    return dict(of.state_dict())


def one_rank(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    of = network()
    state = trained(of, DistributedDataParallel(of), rows(of, rank))
    torch.save(state, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_a_rank_without_media_trains_with_one_that_has_some(tmp_path: Path) -> None:
    processes.spawn(one_rank, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    alone, parts = network(), []
    parts = [rows(alone, rank) for rank in range(2)]
    both = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    expected = trained(alone, alone, both)
    for name, tensor in expected.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], tensor, atol=1e-5, rtol=1e-5)
