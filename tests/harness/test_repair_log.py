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


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "cp850"])
@pytest.mark.parametrize(
    "text",
    [
        "größer\n",
        "Schätzung: 1,5 für Stück\n",
        "déjà vu à Besançon\n",
        "¿Mañana? Sí, señor.\n",
        "ÜBERGRÖSSE\n",
        "naïve\n",
    ],
)
def test_a_short_western_log_keeps_its_letters(tmp_path: Path, encoding: str, text: str) -> None:
    source = tmp_path / "short.log"
    source.write_bytes(text.encode(encoding))
    done = repair(source)
    assert (tmp_path / "short.repaired.log").read_text(encoding="utf-8") == text, done.stdout
    assert "(0% sure)" not in done.stdout


def test_a_table_of_the_windows_console_keeps_its_letters(tmp_path: Path) -> None:
    source = tmp_path / "table.log"
    text = "┌──────────┐\n│ Größe    │ geschätzt für später\n└──────────┘\n"
    source.write_bytes(text.encode("cp850"))
    repair(source)
    assert "Größe    │ geschätzt für später" in (tmp_path / "table.repaired.log").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"PAR1" + bytes(range(256)), "it is a Parquet file"),
        (b"PK\x03\x04rest", "it is a zip archive"),
        (b"\x1f\x8brest", "compressed with gzip"),
        (bytes(range(256)) * 9, "control characters"),
    ],
)
def test_what_is_not_text_is_refused_in_a_sentence(tmp_path: Path, content: bytes, reason: str) -> None:
    source = tmp_path / "data.parquet"
    source.write_bytes(content)
    done = repair(source, "--in-place")
    assert done.returncode == 2 and reason in done.stderr and "Traceback" not in done.stderr
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [content]


def test_zero_bytes_of_a_crash_are_taken_out(tmp_path: Path) -> None:
    source = tmp_path / "crash.log"
    source.write_bytes(b"step 10\n" + b"\0" * 300 + b"step 20\n")
    assert "300 zero bytes" in repair(source).stdout
    assert (tmp_path / "crash.repaired.log").read_bytes() == b"step 10\nstep 20\n"


def test_escapes_stay_when_asked(tmp_path: Path) -> None:
    source = tmp_path / "colour.log"
    source.write_bytes("\x1b[32mgrün\x1b[0m\r\n".encode("cp1252"))
    assert repair(source, "--keep-ansi").returncode == 0
    assert (tmp_path / "colour.repaired.log").read_bytes() == "\x1b[32mgrün\x1b[0m\r\n".encode()


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
