"""The two logs: clean and whole in the file, in colour on the console, and nothing said by a run is missing."""

import errno
import faulthandler
import logging
import logging.config
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from places import PROJECT

from harness.errors import UserError
from harness.telemetry import logs
from harness.telemetry.plain import strip_ansi


@pytest.fixture
def configured(tmp_path: Path):
    """The job_logging of the project, applied as Hydra does; gives the log file."""
    configure(tmp_path)
    yield tmp_path / "logs" / "train.log"
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, logs.RunFile)]:
        root.removeHandler(handler)
        handler.close()
    faulthandler.enable(sys.__stderr__)


def configure(folder: Path, **file: object) -> None:
    cfg = OmegaConf.load(PROJECT / "conf" / "hydra" / "job_logging" / "lm.yaml")
    cfg.handlers.file.update(file)
    where = OmegaConf.create({"hydra": {"runtime": {"output_dir": str(folder)}}})
    plain = OmegaConf.to_container(OmegaConf.merge(where, {"log": cfg}).log, resolve=True)
    logging.config.dictConfig(plain)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;a window's title\x07text", "text"),
        ("\x1b]8;;http://x.y/z\x1b\\a link\x1b]8;;\x1b\\ end", "a link end"),
        ("\x1b]0;never closed\nnext line", "\nnext line"),
        ("\x1b[2K\x1b[1G 50%|██", " 50%|██"),
        ("\x9b31mC1\x9b0m \x9d0;title\x9cx", "C1 x"),
        ("\x1bPdevice string\x1b\\x\x1b(Bx\x1b7", "xx"),
        ("no escapes: [31m ]0; é", "no escapes: [31m ]0; é"),
    ],
)
def test_escape_sequences_go_with_their_payload(raw: str, clean: str) -> None:
    assert strip_ansi(raw) == clean


def test_a_record_arrives_dated_clean_and_in_utf8(configured: Path) -> None:
    logging.getLogger("lm.fit").info("\x1b[32mstep 10\x1b[0m: ﬁne ↯ \ud800")
    (line,) = configured.read_text(encoding="utf-8").splitlines()
    assert line[4] == "-" and line[19] == ","
    assert line.endswith("INFO    lm.fit: step 10: ﬁne ↯ \\ud800")


def test_the_file_turns_and_keeps_five(tmp_path: Path, configured: Path) -> None:
    configure(tmp_path, max_bytes=1000)
    for number in range(200):
        logging.getLogger("x").info("line %03d %s", number, "." * 50)
    names = sorted(p.name for p in configured.parent.iterdir())
    assert names == ["train.log", *(f"train.log.{n}" for n in range(1, 6))]
    assert all(p.stat().st_size <= 1000 for p in configured.parent.iterdir())
    assert "line 199" in configured.read_text(encoding="utf-8")


def test_a_file_that_cannot_be_renamed_is_continued(tmp_path: Path, configured: Path, monkeypatch) -> None:
    configure(tmp_path, max_bytes=200)
    monkeypatch.setattr(os, "rename", lambda *_: (_ for _ in ()).throw(PermissionError("in use")))
    for number in range(10):
        logging.getLogger("x").info("line %d %s", number, "." * 50)
    text = configured.read_text(encoding="utf-8")
    assert [f"line {n} " in text for n in range(10)] == [True] * 10


def test_a_full_disk_is_said_once(configured: Path, monkeypatch, capsys) -> None:
    def refuse(_: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (handler,) = logs._files()
    monkeypatch.setattr(handler.stream, "write", refuse, raising=False)
    logging.getLogger("x").info("one")
    logging.getLogger("x").info("two")
    assert capsys.readouterr().err.count("the run goes on without it") == 1


def test_other_ranks_write_beside_and_keep_quiet(tmp_path: Path, configured: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("LOCAL_RANK", "2")
    configure(tmp_path)
    logging.getLogger("x").info("from rank 2")
    assert "from rank 2" in (tmp_path / "logs" / "train-rank2.log").read_text(encoding="utf-8")
    assert "from rank 2" not in configured.read_text(encoding="utf-8")
    assert capsys.readouterr().err == ""


def test_libraries_and_warnings_reach_the_file_once(configured: Path, capsys) -> None:
    for name in ("lightning", "lightning.pytorch", "transformers"):
        logging.getLogger(name).addHandler(logging.StreamHandler())  # as they do when they are imported
        logging.getLogger(name).propagate = False
    with logs.recording():
        logging.getLogger("lightning.pytorch.utilities").warning("from lightning")
        logging.getLogger("transformers.modeling").warning("from transformers")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("from warnings", stacklevel=1)
    text = configured.read_text(encoding="utf-8")
    console = capsys.readouterr().err
    for name in ("lightning", "transformers", "warnings"):
        assert text.count(f"from {name}\n") == 1
        assert console.count(f"from {name}\n") <= 1


def test_a_traceback_is_the_last_thing_in_the_file(configured: Path) -> None:
    with pytest.raises(ZeroDivisionError), logs.recording():
        logging.getLogger("x").info("before")
        1 / 0  # noqa: B018
    assert configured.read_text(encoding="utf-8").endswith("ZeroDivisionError: division by zero\n")


def test_a_users_mistake_is_a_sentence_without_traceback(configured: Path) -> None:
    with pytest.raises(UserError), logs.recording():
        raise UserError("No corpus.", cure="Name one with data.path=FILE.")
    text = configured.read_text(encoding="utf-8")
    assert text.endswith("No corpus. Name one with data.path=FILE.\n")
    assert "Traceback" not in text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_fails_leaves_its_traceback(configured: Path) -> None:
    with logs.recording():
        thread = threading.Thread(target=lambda: 1 / 0, name="writer")
        thread.start()
        thread.join()
    text = configured.read_text(encoding="utf-8")
    assert "The thread writer failed." in text and "ZeroDivisionError" in text


@pytest.mark.skipif(not hasattr(signal, "SIGUSR2"), reason="Windows has no SIGUSR2")
def test_sigusr2_writes_every_stack(configured: Path) -> None:
    os.kill(os.getpid(), signal.SIGUSR2)
    assert "test_sigusr2_writes_every_stack" in eventually(configured, "most recent call first")


def test_a_stall_writes_every_stack_and_a_beat_prevents_it(tmp_path: Path, configured: Path) -> None:
    configure(tmp_path, stall_minutes=0.5 / 60)
    logs.beat()
    for _ in range(10):
        time.sleep(0.1)
        logs.beat()
    assert "Timeout" not in configured.read_text(encoding="utf-8")
    assert "test_a_stall_writes" in eventually(configured, "Timeout")


def eventually(path: Path, words: str) -> str:
    deadline = time.monotonic() + 10
    while words not in (text := path.read_text(encoding="utf-8")) and time.monotonic() < deadline:
        time.sleep(0.02)
    return text


CRASH = """
import faulthandler, logging, sys
from harness.telemetry import logs
handler = logs.RunFile(sys.argv[1], max_bytes=300, keep=2)
logging.getLogger().addHandler(handler)
for _ in range(10):
    logging.error("turn the file over " + "." * 50)
faulthandler._sigsegv()
"""


def test_a_crash_of_the_interpreter_is_in_the_newest_file(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    subprocess.run([sys.executable, "-c", CRASH, str(path)], check=False, capture_output=True, cwd=PROJECT)
    assert "Current thread" in path.read_text(encoding="utf-8")


def test_the_log_is_linked_or_copied_into_the_tensorboard_folder(configured: Path, tmp_path: Path, monkeypatch) -> None:
    logging.getLogger("x").info("hello")
    logs.link(tmp_path / "tensorboard")
    linked = tmp_path / "tensorboard" / "train.log"
    assert linked.is_symlink() and "hello" in linked.read_text(encoding="utf-8")

    monkeypatch.setattr(Path, "symlink_to", lambda *_: (_ for _ in ()).throw(OSError("a privilege is not held")))
    for text in ("first", "second"):  # a copy is renewed at the end of the run
        logging.getLogger("x").info(text)
        logs.link(tmp_path / "windows")
        copy = tmp_path / "windows" / "train.log"
        assert not copy.is_symlink() and text in copy.read_text(encoding="utf-8")
