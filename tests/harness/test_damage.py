"""What is damaged is named, the checkpoint before is used, and the run is exact from there."""

import contextlib
import logging
import os
import shutil
from pathlib import Path

import pytest
from exactness import assert_same, newest

from conftest import overrides
from harness.checkpoint import keep, read
from harness.config.compose import compose
from harness.errors import UserError
from hooks import PowerCut
from lm import fit

RUN = ("trainer.max_steps=6", "trainer.log_every_n_steps=1", "checkpoint.every_n_steps=2", "logger=csv",
       "+model.config.attention_dropout=0.2", "model.attention=eager", "trainer.val_check_interval=2")  # fmt: skip
CUT = "+callbacks.cut={_target_:hooks.CutAt,step:5,hook:batch_end}"


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.fixture(scope="module")
def originals(corpus, tmp_path_factory) -> Path:
    """Two runs: `reference`, whole, and `cut`, cut at step 5 with checkpoints of steps 2 and 4."""
    folder = tmp_path_factory.mktemp("originals")
    base = [*overrides(corpus, folder), *RUN]
    fit.train(compose([*base, "run.name=reference"]))
    with contextlib.suppress(PowerCut):
        fit.train(compose([*base, "run.name=cut", CUT]))
    assert [checkpoint.step for checkpoint in read.checkpoints(folder / "runs" / "cut" / "checkpoints")] == [2, 4]
    return folder / "runs"


@pytest.fixture
def cut(originals, tmp_path) -> Path:
    return Path(shutil.copytree(originals / "cut", tmp_path / "runs" / "cut"))


@pytest.mark.parametrize(
    ("damage", "file"),
    [
        (flip_a_bit, read.WEIGHTS),
        pytest.param(truncate, read.TRAINER_TENSORS, marks=pytest.mark.fault),
        pytest.param(empty, read.TRAINER, marks=pytest.mark.fault),
        pytest.param(Path.unlink, "rng-rank0.pt", marks=pytest.mark.fault),
        pytest.param(flip_a_bit, read.MANIFEST, marks=pytest.mark.fault),
        pytest.param(Path.unlink, read.MANIFEST, marks=pytest.mark.fault),
    ],
)
def test_a_damaged_newest_checkpoint_is_named_and_passed_over(train, cut, originals, caplog, damage, file) -> None:
    damage(cut / "checkpoints" / "step-00000004" / file)
    with caplog.at_level(logging.INFO):
        train(*RUN, "run.name=cut")
    assert f"step-00000004/{file}" in caplog.text
    assert "Going on from" in caplog.text
    assert_same(cut, originals / "reference")
    assert [checkpoint.step for checkpoint in read.checkpoints(cut / "checkpoints")] == [2, 4, 6]
    for checkpoint in read.checkpoints(cut / "checkpoints"):
        read.verify(checkpoint)  # the damaged one was replaced by a good one of the same step


def test_all_damaged_is_refused_and_nothing_is_touched(train, cut) -> None:
    for checkpoint in read.checkpoints(cut / "checkpoints"):
        flip_a_bit(checkpoint.path / read.WEIGHTS)
    before = sorted(path.read_bytes() for path in (cut / "checkpoints").rglob("*") if path.is_file())
    with pytest.raises(UserError, match=r"No checkpoint in .* can be used.*resume=never"):
        train(*RUN, "run.name=cut")
    assert sorted(path.read_bytes() for path in (cut / "checkpoints").rglob("*") if path.is_file()) == before


def test_file_times_and_leftovers_mean_nothing(train, cut, originals) -> None:
    for number, checkpoint in enumerate(reversed(read.checkpoints(cut / "checkpoints"))):
        os.utime(checkpoint.path, (number * 86400, number * 86400))
    (cut / "checkpoints" / ".tmp-step-00000006-9").mkdir()
    (cut / "checkpoints" / ".trash-step-00000001-9").mkdir()
    assert newest(cut).step == 4
    train(*RUN, "run.name=cut")
    assert_same(cut, originals / "reference")
    assert keep.sweep(cut / "checkpoints") == []


@pytest.mark.fault
def test_a_newest_checkpoint_deleted_by_hand_while_training_is_no_trouble(train, originals, tmp_path) -> None:
    folder = train(*RUN, "run.name=cut", "+callbacks.delete={_target_:hooks.DeleteNewestAt,step:3,hook:batch_end}")
    assert_same(folder, originals / "reference")


@pytest.mark.fault
def test_a_mistake_in_a_callback_keeps_its_traceback_and_saves_nothing(train, originals, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"a mistake in a callback of one's own"):
        train(*RUN, "run.name=mistake", "+callbacks.mine={_target_:hooks.RaiseAt,step:3,hook:step}")
    folder = tmp_path / "runs" / "mistake"
    assert newest(folder).step == 2
    train(*RUN, "run.name=mistake")
    assert_same(folder, originals / "reference")
