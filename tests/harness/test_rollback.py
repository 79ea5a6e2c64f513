from pathlib import Path

from harness.checkpoint.ledger import LEDGER, Rollback, anchors, good_checkpoints, read_ledger, write_down
from harness.checkpoint.read import Checkpoint


def checkpoints(*steps: int) -> list[Checkpoint]:
    return [Checkpoint(Path(f"step-{step:08d}"), {"step": step, "sequence": step}) for step in steps]


def steps(found: list[Checkpoint]) -> list[int]:
    return [checkpoint.step for checkpoint in found]


def entry(step: int, to: int) -> Rollback:
    return Rollback(step, to, first_bad=step - 2, first_window=to, next_window=step)


def test_the_newest_that_proved_itself_is_tried_first():
    found = checkpoints(100, 200, 300, 400)
    assert steps(good_checkpoints(found, [], first_bad=410, good_after=100)) == [300, 200, 100]
    assert steps(good_checkpoints(found, [], first_bad=400, good_after=100)) == [300, 200, 100]


def test_a_young_checkpoint_is_better_than_none():
    assert steps(good_checkpoints(checkpoints(30, 50, 70), [], first_bad=60, good_after=100)) == [30]
    assert good_checkpoints(checkpoints(70), [], first_bad=60, good_after=100) == []


def test_what_was_abandoned_is_not_gone_back_to():
    found = checkpoints(100, 200, 233, 300)
    assert steps(good_checkpoints(found, [entry(233, to=100)], first_bad=320, good_after=100)) == [100]
    assert steps(good_checkpoints(found, [entry(233, to=100)], first_bad=340, good_after=100)) == [233, 100]


def test_an_entry_is_written_once_and_survives_a_torn_line(tmp_path: Path):
    write_down(tmp_path, entry(10, 4))
    write_down(tmp_path, entry(10, 4))
    with (tmp_path / LEDGER).open("a", encoding="utf-8") as file:
        file.write('{"step": 20, "to"')
    assert read_ledger(tmp_path) == [entry(10, 4)]
    write_down(tmp_path, entry(20, 10))
    assert read_ledger(tmp_path) == [entry(10, 4), entry(20, 10)]


def test_with_retention_of_three_there_is_always_an_old_commit():
    """Saves every 10 steps, the newest 3 and what is anchored stay: as a run would, for 1000 steps."""
    kept: list[Checkpoint] = []
    for now in range(10, 1001, 10):
        pinned = anchors(kept, first_bad=now - 1, good_after=100)
        kept = [c for c in [*kept, *checkpoints(now)] if c in pinned or c.step > now - 30]
        assert len(kept) <= 5
        if now > 220:
            best = good_checkpoints(kept, [], first_bad=now - 1, good_after=100)[0]
            assert 100 <= now - 1 - best.step <= 220
