"""harness/run/environment.py: who wins, what `.env` may say, and that late variables are refused."""

import subprocess
import sys
from pathlib import Path

import pytest
from places import PROJECT

from harness.errors import UserError
from harness.run.environment import apply, read_dotenv


def dotenv(folder: Path, text: str) -> Path:
    (folder / ".env").write_text(text, encoding="utf-8")
    return folder / ".env"


def test_a_preset_wins_over_the_environment_and_the_environment_over_dotenv(tmp_path: Path) -> None:
    environ = {"A": "shell", "B": "shell"}
    apply(read_dotenv(dotenv(tmp_path, "A=file\nB=file\nC=file\n"), environ), environ)
    apply({"A": "preset"}, environ)
    assert environ == {"A": "preset", "B": "shell", "C": "file"}


def test_values_arrive_as_a_shell_would_pass_them() -> None:
    environ = {"GONE": "1"}
    apply({"N": 0, "FLAG": False, "HOME_FOLDER": "~/x", "TILDE": "a~b", "GONE": None}, environ)
    assert environ == {"N": "0", "FLAG": "false", "HOME_FOLDER": str(Path.home() / "x"), "TILDE": "a~b"}


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=1", "1"),
        ("  export A = 1  ", "1"),
        ("A='x y'", "x y"),
        (r'A="two\nlines"', "two\nlines"),
        ("A=", ""),
        ("A=1 # kept", "1 # kept"),
        ("A=${BASE}/x", "/base/x"),
        ("A=${NOWHERE}x", "x"),
        (r"A=\${BASE}", "${BASE}"),
        ("A=p=q", "p=q"),
        ("A='unfinished", "'unfinished"),
    ],
)
def test_dotenv_reads_a_line_as_vs_code_does(line: str, value: str, tmp_path: Path) -> None:
    assert read_dotenv(dotenv(tmp_path, line), {"BASE": "/base"}) == {"A": value}


def test_dotenv_skips_comments_and_may_be_missing(tmp_path: Path) -> None:
    assert read_dotenv(tmp_path / ".env", {}) == {}
    assert read_dotenv(dotenv(tmp_path, "# A=1\n\nnot a line\n1X=2\n"), {}) == {}


def test_dotenv_with_a_byte_order_mark_keeps_its_first_name(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbfA=1\r\nB=2\r\n")
    assert read_dotenv(tmp_path / ".env", {}) == {"A": "1", "B": "2"}


def test_a_variable_that_a_loaded_library_has_read_is_refused_and_nothing_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("torch", "transformers", "datasets"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", sys)
    environ = {"HF_HUB_OFFLINE": "1"}
    with pytest.raises(UserError, match=r"HF_HOME \(huggingface_hub\)"):
        apply({"FIRST": "1", "HF_HOME": "/elsewhere"}, environ)
    assert environ == {"HF_HUB_OFFLINE": "1"}
    apply({"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}, environ)  # no change, and not read at import
    assert environ["TOKENIZERS_PARALLELISM"] == "false"


def test_children_inherit_and_nothing_heavy_is_imported() -> None:
    program = """
import subprocess, sys
from harness.run.environment import apply
apply({"LM_TEST_VARIABLE": "seen"})
print(sorted({"torch", "transformers", "datasets", "huggingface_hub", "hydra"} & set(sys.modules)))
child = "import os; print(os.environ['LM_TEST_VARIABLE'])"
subprocess.run([sys.executable, "-c", child], check=True)
"""
    done = subprocess.run(
        [sys.executable, "-u", "-c", program],
        check=False,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.stdout.split() == ["[]", "seen"], done.stderr


def test_dotenv_ends_lines_at_newlines_only_and_says_what_it_cannot_read(tmp_path: Path) -> None:
    assert read_dotenv(dotenv(tmp_path, "A=x\u2028y\x85z\r\nB=2\n"), {}) == {"A": "x\u2028y\x85z", "B": "2"}
    (tmp_path / ".env").write_bytes(b"A=\xff\n")
    with pytest.raises(UserError, match="Save it as UTF-8"):
        read_dotenv(tmp_path / ".env", {})
