"""A run that came from elsewhere: what its links point to stays as it is."""

import os
from pathlib import Path

import pytest

from harness.files import write_whole
from harness.run import folder as run_folder
from harness.telemetry import events, logs
from harness.telemetry.append import AppendOnlyFile


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A file of mine that a run's links point to."""
    path = tmp_path / "mine.txt"
    path.write_text("mine\n", encoding="utf-8")
    return path


def test_nothing_is_written_through_a_link(tmp_path: Path, mine: Path) -> None:
    run = tmp_path / "run"
    (run / "debug_log").mkdir(parents=True)
    for name in (
        "report.html",
        ".holder",
        "run.json",
        "lines.jsonl",
        "debug_log/events.jsonl",
        "debug_log/summary.json",
        f".run.json.{os.getpid()}",
    ):
        (run / name).symlink_to(mine)
    for name in ("report.html", ".holder", "run.json"):
        write_whole(run / name, "theirs")
    AppendOnlyFile(run / "lines.jsonl").write(b"theirs\n")
    events.open_log(run, run_id="r", attempt=1)
    events.emit("x", 1, {})
    events.close_log()
    assert mine.read_text(encoding="utf-8") == "mine\n"
    assert not (run / "report.html").is_symlink() and (run / "lines.jsonl").read_bytes() == b"theirs\n"
    assert len([*events.read(run / "debug_log" / "events.jsonl")]) == 1


def test_the_log_is_not_written_through_a_link_of_its_file_or_folder(tmp_path: Path, mine: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name, link in (("logs/train.log", mine), ("logs", elsewhere)):
        run = tmp_path / name.replace("/", "-")
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).symlink_to(link)
        handler = logs.RunFile(str(run / "logs" / "train.log"), max_bytes=1000, keep=1)
        handler.emit(logs.logging.makeLogRecord({"msg": "theirs"}))
        handler.close()
        assert "theirs" in (run / "logs" / "train.log").read_text(encoding="utf-8")
    assert mine.read_text(encoding="utf-8") == "mine\n" and not [*elsewhere.iterdir()]


def test_a_report_replaces_a_link_and_keeps_its_target(train, mine: Path) -> None:
    from harness.report.terminal import report

    folder = train("trainer.max_steps=2")
    (folder / "report.html").symlink_to(mine)
    report([folder], as_json=False, out=None)
    assert mine.read_text(encoding="utf-8") == "mine\n"
    assert not (folder / "report.html").is_symlink()


def test_a_changed_source_file_is_named_at_the_next_attempt(tmp_path: Path, compose, monkeypatch) -> None:
    project = tmp_path / "project"
    for name in (
        "lm/__init__.py",
        "lm/module.py",
        "harness/__init__.py",
        "harness/run/x.py",
        "train.py",
        "tests/__init__.py",
    ):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("1\n", encoding="utf-8")
    sources = run_folder.diaries.sources
    monkeypatch.setattr(run_folder.diaries, "sources", lambda: sources(project))
    cfg = compose("run.name=x")
    changes = []
    for edit in ("", "lm/module.py", "lm/mine.py", "tests/test_x.py", ""):
        if edit:
            (project / edit).write_text("2\n", encoding="utf-8")
        run = run_folder.Run.open(cfg)
        changes.append(run.diary["attempts"][-1]["changes"])
        run.close("stopped")
    assert changes == [[], ["code: lm/module.py changed"], ["code: lm/mine.py added"], [], []]
