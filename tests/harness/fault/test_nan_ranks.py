"""Two processes, gloo: what one rank alone meets, all ranks answer alike."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from faults import Dump, Fault, ThinOut, with_callback

from harness.checkpoint.ledger import read_ledger
from harness.nan import bundle as bundles

pytestmark = pytest.mark.fault
DUMP = with_callback(Dump, name="dump")
TWO = ("trainer.devices=2", "+trainer.strategy=ddp", "logger=none", "callbacks.samples=null", DUMP)


def trained(command: Callable, small: list[str], tmp_path: Path, name: str, *overrides: str) -> Path:
    done = command("train.py", *small, f"run.name={name}", *overrides, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    return tmp_path / "runs" / name


def states(folder: Path) -> list[dict]:
    return [torch.load(path, weights_only=True) for path in sorted(folder.glob("rank*.pt"))]


@pytest.mark.parametrize("kind", ["embedding", "loss"])
def test_a_nan_on_one_rank_is_skipped_by_both(command: Callable, small: list[str], tmp_path: Path, kind: str) -> None:
    fault = with_callback(Fault, kind=kind, steps=[3, 9], rank=1)
    folder = trained(command, small, tmp_path, "hurt", *TWO, fault, "trainer.max_steps=20")
    first, second = states(folder)
    assert first["unchanged"] == second["unchanged"] == [3, 9]
    assert all(torch.equal(a, b) for a, b in zip(first["tensors"], second["tensors"], strict=True))
    bundle = folder / "nan" / "step-00000003"
    mine, other = (bundles.read(bundle, rank) for rank in (0, 1))
    assert mine.facts["micro_batches"][0]["ids"] and other.facts["rank"] == 1
    assert not torch.equal(mine.batches[0]["input_ids"], other.batches[0]["input_ids"])


@pytest.mark.parametrize("guilty", [0, 1])
def test_a_replay_names_the_rank_whose_batch_it_was(
    command: Callable, small: list[str], tmp_path: Path, guilty: int
) -> None:
    fault = with_callback(Fault, kind="embedding", steps=[5], rank=guilty)
    save = "checkpoint.every_n_steps=2"
    folder = trained(command, small, tmp_path, "hurt", *TWO, fault, save, "trainer.max_steps=8")
    bundle = folder / "nan" / "step-00000005"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done = command("replay", str(bundle), "--trust", "faults", OMP_NUM_THREADS="1", TMPDIR=str(scratch))
    assert done.returncode == 0, done.stderr
    verdict = json.loads((bundle / "diagnosis.json").read_text(encoding="utf-8"))
    assert (verdict["rank"], verdict["found"]["module"]) == (guilty, "model.embed_tokens")
    assert verdict["same_batches"]
    assert done.stdout.count("The batch as text") == 1 and f"text-rank{guilty}.txt" in done.stdout
    assert not list(scratch.glob("replay-*"))


def test_a_nan_weight_on_one_rank_sends_both_back(command: Callable, small: list[str], tmp_path: Path) -> None:
    fault = with_callback(Fault, kind="weight", steps=[9], rank=1)
    policy = ("checkpoint.every_n_steps=2", "checkpoint.keep_last=2", "callbacks.nan_guard.good_after=4")
    folder = trained(command, small, tmp_path, "hurt", *TWO, *policy, fault, "trainer.max_steps=14")
    first, second = states(folder)
    assert [(entry.step, entry.to) for entry in read_ledger(folder)] == [(11, 4)]
    assert all(
        torch.equal(a, b) and a.isfinite().all() for a, b in zip(first["tensors"], second["tensors"], strict=True)
    )


def test_two_ranks_learn_what_one_with_the_double_batch_learns(
    command: Callable, small: list[str], tmp_path: Path
) -> None:
    """Rank r of w takes rows r, r + w of a global batch, and every label counts once, wherever it fell."""
    thin = (with_callback(ThinOut, name="thin"), "scheduler.warmup_steps=2", "trainer.max_steps=6")
    two = trained(command, small, tmp_path, "two", *TWO, *thin, "data.batch_size=4")
    one = trained(command, small, tmp_path, "one", "logger=none", DUMP, *thin, "data.batch_size=8")
    accumulated = trained(
        command,
        small,
        tmp_path,
        "acc",
        "logger=none",
        DUMP,
        *thin,
        "data.batch_size=4",
        "trainer.accumulate_grad_batches=2",
    )
    expected = states(one)[0]["tensors"]
    for folder in (two, accumulated):
        torch.testing.assert_close(states(folder)[0]["tensors"], expected, rtol=2e-4, atol=2e-6)
