"""Two gloo ranks, each with half of every weight: what they train is what one process trains, killed or not."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from exactness import assert_same, logged, newest
from faults import Dump, Fault, with_callback
from places import HARNESS_TESTS, PATIENCE
from processes import Process

from conftest import overrides
from harness.checkpoint import read
from harness.checkpoint.ledger import read_ledger
from harness.config.compose import compose
from lm.models.build import build_model, model_config

pytestmark = [pytest.mark.fault, pytest.mark.skipif(sys.platform != "linux", reason="gloo and process trees of Linux")]

STEPS = 20
RUN = (f"trainer.max_steps={STEPS}", "trainer.log_every_n_steps=1", "checkpoint.every_n_steps=3", "logger=csv",
       "trainer.val_check_interval=8", "data.limit=13", "callbacks.samples=null")  # fmt: skip
TWO = ("trainer.accelerator=cpu", "trainer.devices=2", "data.batch_size=4")
ONE = ("data.batch_size=8",)
DROPOUT = ("+model.config.attention_dropout=0.2", "model.attention=eager")
SLOW = "+callbacks.slow={_target_:hooks.Slow,seconds:0.2}"


def words(corpus: Path, folder: Path, *changes: str) -> list[str]:
    """Return the smallest run's overrides; `changes` with devices=2 make it a sharded one."""
    trainer = "trainer=fsdp" if "trainer.devices=2" in changes else "trainer=cpu"
    small = [trainer if word == "trainer=cpu" else word for word in overrides(corpus, folder)]
    return [*small, *RUN, *changes]


def trained(corpus: Path, folder: Path, *changes: str, **environment: str) -> Path:
    process = Process(folder, [*words(corpus, folder, *changes), "run.name=run"], **environment)
    assert process.ended() == 0, process.output
    return folder / "runs" / "run"


@pytest.fixture(scope="module")
def two(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(corpus, tmp_path_factory.mktemp("two"), *TWO, "checkpoint.keep_last=10")


@pytest.fixture(scope="module")
def one(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(corpus, tmp_path_factory.mktemp("one"), *ONE, "checkpoint.keep_last=10")


@pytest.fixture(scope="module")
def undisturbed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(corpus, tmp_path_factory.mktemp("undisturbed"), *TWO, *DROPOUT, SLOW)


def numbers(run: Path, name: str) -> dict[int, float]:
    return {int(row["step"]): float(row[name]) for row in logged(run) if row[name]}


def assert_alike(run: Path, other: Path, first: int = 1) -> None:
    for name, tolerance in (("train/loss", {"rel": 0, "abs": 1e-5}), ("val/loss", {"rel": 0, "abs": 1e-5})):
        ours, theirs = numbers(run, name), numbers(other, name)
        assert ours == pytest.approx({step: theirs[step] for step in theirs if step >= first}, **tolerance), name


def logits(checkpoint: read.Checkpoint, corpus: Path) -> torch.Tensor:
    cfg = compose(overrides(corpus, corpus.parent))
    model = build_model(cfg.model, model_config(cfg.model)).eval()
    model.load_state_dict(read.load_weights(checkpoint))
    with torch.no_grad():
        return model(torch.arange(64).reshape(4, 16)).logits


def test_two_ranks_train_what_one_process_trains(corpus: Path, one: Path, two: Path) -> None:
    assert newest(two).manifest["ranks"] == 2
    assert {"model-rank0.safetensors", "model-rank1.safetensors"} <= newest(two).manifest["files"].keys()
    assert_alike(two, one)
    first = {run: numbers(run, "grad_norm")[1] for run in (one, two)}  # later ones are of other weights, by rounding
    assert first[two] == pytest.approx(first[one], rel=1e-6)
    torch.testing.assert_close(logits(newest(two), corpus), logits(newest(one), corpus), rtol=0, atol=1e-5)


@pytest.mark.parametrize("before", ["two", "one"])
def test_another_number_of_ranks_goes_on(
    corpus: Path, tmp_path: Path, before: str, request: pytest.FixtureRequest
) -> None:
    source, after = request.getfixturevalue(before), {"two": ONE, "one": TWO}[before]
    point = source / "checkpoints" / "step-00000009"
    run = trained(corpus, tmp_path, *after, f"resume_from={point}")
    assert_alike(run, source, first=10)


def test_the_death_of_a_rank_ends_the_other_and_the_restart_is_exact(
    corpus: Path, tmp_path: Path, undisturbed: Path
) -> None:
    base = [*words(corpus, tmp_path, *TWO, *DROPOUT, SLOW), "run.name=run"]
    process = Process(tmp_path, base)
    process.until(lambda: len(read.checkpoints(tmp_path / "runs" / "run" / "checkpoints")) > 1)
    children = psutil.Process(process.popen.pid).children()
    (other_rank,) = [child for child in children if "train.py" in " ".join(child.cmdline())]
    other_rank.kill()
    assert process.ended() != 0
    assert_same(trained(corpus, tmp_path, *TWO, *DROPOUT, SLOW), undisturbed)


@pytest.mark.parametrize("point", ["after_write:2", "before_rename:2"])  # on all ranks, on the one that publishes
def test_a_kill_inside_a_save_leaves_the_older_checkpoint(
    corpus: Path, tmp_path: Path, undisturbed: Path, point: str
) -> None:
    process = Process(tmp_path, [*words(corpus, tmp_path, *TWO, *DROPOUT, SLOW), "run.name=run"], HARNESS_FAULT=point)
    assert process.ended() != 0
    folder = tmp_path / "runs" / "run" / "checkpoints"
    assert newest(folder.parent).step == 3 and list(folder.glob(".tmp-step-00000006-*"))
    run = trained(corpus, tmp_path, *TWO, *DROPOUT, SLOW)
    assert not list(folder.glob(".tmp-*"))
    assert_same(run, undisturbed)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])  # one whose kernel skips, and one that is put back
def test_a_nan_on_one_rank_is_skipped_by_both(corpus: Path, tmp_path: Path, optimizer: str) -> None:
    fault = with_callback(Fault, kind="embedding", steps=[3, 9], rank=1)
    run = trained(corpus, tmp_path, *TWO, fault, with_callback(Dump, name="dump"), f"optimizer={optimizer}")
    states = [torch.load(path, weights_only=True) for path in sorted(run.glob("rank*.pt"))]
    assert [state["unchanged"] for state in states] == [[3, 9], [3, 9]]
    assert (run / "nan" / "step-00000003" / "incident-rank1.json").is_file()


def test_it_is_generated_from_evaluated_and_started_from(
    corpus: Path, tmp_path: Path, two: Path, command: Callable
) -> None:
    for script, *arguments in (("generate.py", "--prompt", "def"), ("evaluate.py",)):
        done = command(script, str(two), *arguments)
        assert done.returncode == 0, done.stderr
    run = trained(corpus, tmp_path, *ONE, f"start_from={two}", "trainer.max_steps=1")
    assert numbers(run, "train/loss")[1] < numbers(two, "train/loss")[1]


@pytest.mark.parametrize(
    ("change", "said"),
    [("callbacks=[default,ema]", "Ema averages whole weights"), ("trainer.precision=16-mixed", "16-mixed")],
)
def test_what_cannot_be_sharded_is_a_sentence_before_training(
    corpus: Path, tmp_path: Path, change: str, said: str
) -> None:
    process = Process(tmp_path, [*words(corpus, tmp_path, *TWO, change), "run.name=run"])
    assert process.ended() != 0
    assert said in process.output and "Traceback" not in process.output


def test_too_many_bad_steps_send_both_ranks_back(corpus: Path, tmp_path: Path) -> None:
    fault = with_callback(Fault, kind="embedding", steps=[11, 12, 13], rank=1)
    dump = with_callback(Dump, name="dump")
    run = trained(corpus, tmp_path, *TWO, fault, dump, "callbacks.nan_guard.good_after=4")
    assert [(entry.step, entry.to) for entry in read_ledger(run)] == [(15, 6)]
    states = [torch.load(path, weights_only=True)["tensors"] for path in sorted(run.glob("rank*.pt"))]
    assert all(tensor.isfinite().all() for tensors in states for tensor in tensors)


def test_a_module_may_be_its_own_network_and_ranks_may_hold_unequal_validation(tmp_path: Path) -> None:
    strategy = "trainer.strategy._target_=harness.sharding.ShardedStrategy"
    program = [sys.executable, str(HARNESS_TESTS / "regressor.py"), str(tmp_path / "run"), "trainer.devices=2"]
    done = subprocess.run([*program, strategy, "data.size=132"], timeout=PATIENCE, check=False)  # 17 and 16 of 33
    assert done.returncode == 0
    assert read.load_weights(newest(tmp_path / "run"))["layers.0.weight"].shape == (16, 1)
