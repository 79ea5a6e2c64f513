"""`kill -9` while the data are prepared: the next start goes on with them, and they are the same."""

import hashlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from processes import Process

pytestmark = [pytest.mark.fault, pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")]


KILLS = int(os.environ.get("KILLS", "10"))
MEGABYTES = float(os.environ.get("MEGABYTES", "7"))  # of text, which is killed at any time


def prepared(root: Path) -> dict[str, str]:
    """Return the hashes of all that lies in prepared folders."""
    found = {}
    for path in root.glob("[!.]*/*"):
        with path.open("rb") as file:
            found[f"{path.parent.name}/{path.name}"] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def test_a_kill_while_data_are_prepared_leaves_no_trace(small, tmp_path) -> None:
    slow = ("data.source._target_=slow_source.SlowText", f"+data.source.reached={tmp_path / 'reached'}")
    base = [*small, *slow, "logger=none", "run.name=killed", f"data.prepared={tmp_path / 'prepared'}"]
    process = Process(tmp_path, base)
    process.until((tmp_path / "reached").exists)
    process.kill()
    assert process.popen.returncode == -signal.SIGKILL
    assert prepared(tmp_path / "prepared") == {}, "what is half made must not be taken for data"
    again = Process(tmp_path, base)
    assert again.ended() == 0, again.output
    straight = Process(tmp_path, [*base, "run.name=straight", f"data.prepared={tmp_path / 'straight'}"])
    assert straight.ended() == 0, straight.output
    assert prepared(tmp_path / "prepared") == prepared(tmp_path / "straight")


def test_killed_at_every_durable_step_in_turn_it_gives_the_same_files(corpus, command, tmp_path) -> None:
    source = ("data.source._target_=slow_source.DeadlyText", f"data.path={corpus}", "data.val_fraction=0.2")
    base = ("prepare", "model=tiny", "model.config.vocab_size=300", "data=text", *source)
    assert "train.loss_mask.bin" in killed_in_turn(command, base, tmp_path)


def test_killed_at_every_durable_step_in_turn_pictures_and_sounds_are_the_same(command, tmp_path) -> None:
    source = ("data.source._target_=slow_source.DeadlyMedia", "data.source.count=12", "data.val_fraction=0.3")
    files = killed_in_turn(command, ("prepare", "experiment=omni", *source), tmp_path)
    assert {"train.image.bin", "train.audio.bin", "train.documents.jsonl", "val.image.sizes.bin"} <= set(files)
    assert files["train.image.bin"] > 3 * 224 * 224


def killed_in_turn(command, base, folder: Path) -> dict[str, int]:
    """Kill a preparation at each durable step in turn, until none is left; return its files' sizes by name."""
    gone_on = 0
    for attempt in itertools.count(1):
        done = command(*base, f"data.prepared={folder / 'killed'}", DIES_AT=str(attempt))
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        gone_on += "Going on after" in done.stderr
    assert attempt > 10 and gone_on > 5, "it was killed too seldom to show anything"
    straight = command(*base, f"data.prepared={folder / 'straight'}")
    assert straight.returncode == 0, straight.stderr
    assert prepared(folder / "killed") == prepared(folder / "straight") != {}
    assert any(name.endswith("/train.loss_mask.bin") for name in prepared(folder / "killed"))
    (left,) = (path for path in (folder / "killed").iterdir() if path.is_dir())
    assert left.name == done.stdout.splitlines()[0].rpartition("/")[2]
    return {path.name: path.stat().st_size for path in left.iterdir()}


def test_what_is_not_learned_the_same_twice_is_kept_when_it_is_killed(corpus, command, tmp_path) -> None:
    """A unigram tokenizer: once there is one, all else is made with it, and comes out the same."""
    source = ("data.source._target_=slow_source.DeadlyText", f"data.path={corpus}", "data.val_fraction=0.2")
    base = ("prepare", "model=tiny", "model.config.vocab_size=300", "data=text", *source, "data.tokenizer.kind=unigram")
    learned: dict[str, str] = {}
    for attempt in itertools.count(1, 4):
        done = command(*base, f"data.prepared={tmp_path / 'killed'}", DIES_AT=str(attempt))
        found = prepared(tmp_path / "killed")
        assert learned.items() <= found.items(), "what is whole stays what it is"
        learned = found
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
    (kept,) = {name.partition("/")[0] for name in found} - {done.stdout.splitlines()[0].rpartition("/")[2]}
    shutil.copytree(tmp_path / "killed" / kept, tmp_path / "straight" / kept)
    straight = command(*base, f"data.prepared={tmp_path / 'straight'}")
    assert straight.returncode == 0, straight.stderr
    assert prepared(tmp_path / "straight") == found


def test_killed_at_any_time_a_larger_preparation_gives_the_same_files(tmp_path) -> None:
    text = tmp_path / "text.txt"
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinsh", k=draw.randint(2, 9))) for _ in range(3000)]
    with text.open("w", encoding="utf-8") as file:
        while file.tell() < MEGABYTES * 1e6:
            file.write("\n\n".join(" ".join(draw.choices(words, k=300)) for _ in range(500)) + "\n\n")
    base = ["model=tiny", "data=text", f"data.path={text}", "data.val_fraction=0.1"]

    def start(name: str) -> Process:
        return Process(tmp_path, [*base, f"data.prepared={tmp_path / name}"], command="prepare")

    for _ in range(KILLS):
        process = start("killed")
        with suppress(subprocess.TimeoutExpired):
            process.popen.wait(draw.uniform(1.5, 6.0 + MEGABYTES / 20))
        process.kill()
    last, straight = start("killed"), start("straight")
    assert (last.ended(), straight.ended()) == (0, 0), last.output + straight.output
    assert prepared(tmp_path / "killed") == prepared(tmp_path / "straight") != {}
