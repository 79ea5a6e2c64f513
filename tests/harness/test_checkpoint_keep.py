"""Retention: the newest, the best, the protected, within a budget, and nothing that is not ours."""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from harness.checkpoint import keep, read, write
from harness.checkpoint.contents import contents
from harness.checkpoint.keep import Retention


def fill(folder: Path, *steps: int, run_id: str = "ours", scores: Sequence[float | None] = ()) -> list[read.Checkpoint]:
    scores, weights = scores or [None] * len(steps), {"w": torch.ones(1)}
    return [
        write.write(folder, contents(step=s, weights=weights, trainer={}, about={"run_id": run_id, "score": score}))
        for s, score in zip(steps, scores, strict=True)
    ]


def steps(folder: Path) -> list[int]:
    return [checkpoint.step for checkpoint in read.checkpoints(folder)]


def test_the_newest_stay(tmp_path):
    fill(tmp_path, 1, 2, 3, 4)
    keep.prune(tmp_path, "ours", Retention(last=3))
    assert steps(tmp_path) == [2, 3, 4]


def test_the_best_and_the_pinned_stay_too(tmp_path):
    found = fill(tmp_path, 1, 2, 3, 4, 5, 6, scores=[0.5, 0.1, 0.3, None, 0.2, 0.4])
    keep.pin(found[3], "me")
    keep.unpin(found[3], "somebody else")
    keep.prune(tmp_path, "ours", Retention(last=1, best=1))
    assert steps(tmp_path) == [2, 4, 6]
    keep.unpin(found[3], "me")
    keep.prune(tmp_path, "ours", Retention(last=1, best=1))
    assert steps(tmp_path) == [2, 6]


def test_a_budget_keeps_the_newest_then_the_best_then_the_others(tmp_path):
    found = fill(tmp_path, 1, 2, 3, 4, scores=[0.1, None, None, None])
    one = found[0].bytes

    def removed(max_bytes: float) -> list[int]:
        return [checkpoint.step for checkpoint in keep.choose(found, Retention(last=4, best=1, max_bytes=max_bytes))]

    assert removed(3.5 * one) == [2]
    assert removed(2.5 * one) == [2, 3]
    assert removed(0) == [1, 2, 3]


def test_what_training_went_back_behind_is_not_kept(tmp_path):
    fill(tmp_path, 1, 2, 3, 4, 2)
    keep.prune(tmp_path, "ours", Retention(last=2))
    assert steps(tmp_path) == [1, 2]


def test_nothing_that_is_not_ours_is_touched(tmp_path):
    fill(tmp_path, 1, run_id="theirs")
    fill(tmp_path, 2, 3)
    (tmp_path / "step-00000000").mkdir()
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    keep.prune(tmp_path, "ours", Retention(last=1))
    keep.sweep(tmp_path)
    assert steps(tmp_path) == [1, 3]
    assert (tmp_path / "notes.txt").exists() and (tmp_path / "step-00000000").exists()


def test_a_failed_deletion_is_a_warning_and_is_tried_again(tmp_path, monkeypatch, caplog):
    fill(tmp_path, 1, 2)

    def refuse(_):
        raise PermissionError("in use")

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with caplog.at_level(logging.WARNING):
        keep.prune(tmp_path, "ours", Retention(last=1))
    assert "Could not delete" in caplog.text and steps(tmp_path) == [2]
    monkeypatch.undo()
    keep.prune(tmp_path, "ours", Retention(last=1))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def test_a_killed_writer_is_swept(tmp_path):
    (tmp_path / ".tmp-step-00000009-1").mkdir()
    (tmp_path / ".trash-step-00000001-1").mkdir()
    fill(tmp_path, 2)
    assert len(keep.sweep(tmp_path)) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]
