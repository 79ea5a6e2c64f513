"""A damaged checkpoint is named, and the one before it is used."""

import logging
import shutil

import pytest
import torch

from harness.checkpoint import read, write
from harness.checkpoint.contents import contents
from harness.errors import UserError


@pytest.fixture
def run(tmp_path):
    for step in (1, 2):
        weights = {"w": torch.full((1000,), step)}
        write.write(tmp_path, contents(step=step, weights=weights, trainer={"global_step": step}, rng=[{"seed": step}]))
    return tmp_path


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "flipped bit": flip,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("file", [read.WEIGHTS, read.TRAINER, read.TRAINER_TENSORS, "rng-rank0.pt", read.MANIFEST])
def test_damage_is_named_and_the_checkpoint_before_is_used(run, damage, file, caplog):
    damage(run / "step-00000002" / file)
    with caplog.at_level(logging.WARNING):
        assert read.newest_valid(run).step == 1
    assert f"step-00000002/{file}" in caplog.text


def test_every_character_of_a_manifest_counts(run):
    checkpoint = read.open_checkpoint(run / "step-00000002")
    path = checkpoint.path / read.MANIFEST
    original = path.read_bytes()
    for position in range(len(original)):
        changed = bytearray(original)
        changed[position] ^= 1
        path.write_bytes(changed)
        # The 17th digit of a time may not change its value; then nothing is damaged.
        assert read.checkpoints(run)[1:] in ([], [checkpoint])


def test_all_damaged_is_never_a_silent_start_from_zero(run):
    for step in (1, 2):
        flip(run / f"step-0000000{step}" / read.WEIGHTS)
    with pytest.raises(UserError, match=r"(?s)step-00000002/model.*step-00000001/model.*resume=never"):
        read.newest_valid(run)


def test_no_checkpoint_at_all_is_none(tmp_path):
    assert read.newest_valid(tmp_path / "nowhere") is None
    (tmp_path / ".tmp-step-00000001-1").mkdir()
    (tmp_path / "step-notes").mkdir()
    assert read.newest_valid(tmp_path) is None


def test_only_the_files_asked_for_are_read(run):
    flip(run / "step-00000002" / read.TRAINER)
    assert read.newest_valid(run, files={read.WEIGHTS}).step == 2


def test_loaded_weights_outlive_their_folder(run):
    checkpoint = read.newest_valid(run)
    weights = read.load_weights(checkpoint)
    shutil.rmtree(checkpoint.path)
    assert torch.equal(weights["w"], torch.full((1000,), 2))
