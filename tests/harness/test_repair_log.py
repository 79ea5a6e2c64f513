"""The repair tool: any log becomes clean UTF-8, beside its input."""

import subprocess
import sys
from pathlib import Path

import pytest
from places import PROJECT

TOOL = PROJECT / "devtools" / "repair_log.py"
TEXT = "Schritt 10: größer — loss 1,5\nнорма градиента 0,25\n" * 40


def repair(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, TOOL, *map(str, args)], capture_output=True, encoding="utf-8", check=False)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_unicode_is_recognised_exactly(tmp_path: Path, encoding: str) -> None:
    source = tmp_path / "train.log"
    source.write_bytes("step 10: größer — loss\n".encode(encoding))
    done = repair(source)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "train.repaired.log").read_text(encoding="utf-8") == "step 10: größer — loss\n"
    assert "sure), 0 bad places" in done.stdout


def test_an_encoding_that_shows_only_late_is_found(tmp_path: Path) -> None:
    source = tmp_path / "old.log"
    russian = "Эпоха закончена, потери на проверке снизились, обучение продолжается.\n" * 30
    source.write_bytes(b"plain ascii line\n" * 20_000 + russian.encode("cp1251"))
    done = repair(source)
    assert "cp1251" in done.stdout
    assert (tmp_path / "old.repaired.log").read_text(encoding="utf-8").endswith(russian)


def test_damaged_utf8_loses_only_the_bad_bytes(tmp_path: Path) -> None:
    source = tmp_path / "cut.log"
    source.write_bytes(TEXT.encode() + b"half a letter: \xd0\nafter\n")
    done = repair(source, tmp_path / "out.log")
    assert "1 bad places" in done.stdout
    assert (tmp_path / "out.log").read_text(encoding="utf-8") == TEXT + "half a letter: \ufffd\nafter\n"


def test_escapes_go_and_line_ends_stay(tmp_path: Path) -> None:
    source = tmp_path / "tee.log"
    source.write_bytes(b"\x1b]0;title\x07\x1b[32mok\x1b[0m\r\n\x1b]8;;http://a.b\x1b\\link\x1b]8;;\x1b\\\r 50%\r\n")
    repair(source)
    assert (tmp_path / "tee.repaired.log").read_bytes() == b"ok\r\nlink\r 50%\r\n"


def test_the_input_is_replaced_only_when_asked(tmp_path: Path) -> None:
    source = tmp_path / "a.log"
    source.write_bytes(b"\x1b[32mok")
    refused = repair(source, source)
    assert (refused.returncode, source.read_bytes()) == (2, b"\x1b[32mok")
    assert "--in-place" in refused.stderr

    assert repair(source, "--in-place").returncode == 0
    assert source.read_bytes() == b"ok"
    assert [p.name for p in tmp_path.iterdir()] == ["a.log"]


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    missing = repair(tmp_path / "no.log")
    assert missing.returncode == 2 and "no.log" in missing.stderr and "Traceback" not in missing.stderr
