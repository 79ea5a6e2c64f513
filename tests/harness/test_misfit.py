"""Files that data=text is not for, and conversations that are none: one sentence each, which names the right way."""

import gzip
import json
import random
from pathlib import Path

import pytest

from harness.data.tables import HfSource, JsonlSource
from harness.errors import UserError
from lm.data.chat import ChatSource
from lm.data.sources import TextSource

pyarrow = pytest.importorskip("pyarrow")


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as refused:
        source = TextSource(str(path))
        source.check()
        list(source.documents())
    assert str(path) in str(refused.value)
    return str(refused.value)


def lines(path: Path, *records: object) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    return path


def test_json_lines_name_the_group_that_reads_them(tmp_path: Path) -> None:
    talks = lines(tmp_path / "talks" / "a.jsonl", *[{"messages": [{"role": "user", "content": "Hi"}]}] * 3)
    (talks.parent / "README.md").write_text("three talks", encoding="utf-8")
    assert "data=chat" in refusal(talks) and "data=chat" in refusal(talks.parent)
    rows = lines(tmp_path / "rows" / "a.jsonl", *[{"text": "Hi"}] * 30)
    assert "data=jsonl" in refusal(rows) and "data=jsonl" in refusal(rows.parent)


def test_tables_and_saved_data_sets_name_the_group_that_reads_them(tmp_path: Path) -> None:
    import datasets
    import pyarrow.parquet

    (tmp_path / "table.csv").write_text("text,label\nHi,1\n", encoding="utf-8")
    assert "table.csv is a table" in refusal(tmp_path / "table.csv")
    assert f"data=csv data.path={tmp_path / 'table.csv'} data.column=NAME" in refusal(tmp_path / "table.csv")
    for source in (JsonlSource, HfSource, ChatSource):
        with pytest.raises(UserError, match=r"a table, but not for data=\w+\. Type data=csv .* data\.column=NAME"):
            source(str(tmp_path / "table.csv")).check()
    table = pyarrow.table({"text": ["Hi"] * 9})
    pyarrow.parquet.write_table(table, tmp_path / "table.parquet")
    assert "data=hf" in refusal(tmp_path / "table.parquet")
    datasets.Dataset.from_dict({"text": ["Hi"] * 9}).save_to_disk(str(tmp_path / "saved"))
    assert "data=hf" in refusal(tmp_path / "saved")
    datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["Hi"]})}).save_to_disk(str(tmp_path / "all"))
    assert "data=hf" in refusal(tmp_path / "all")


def test_binary_files_are_not_sent_to_a_converter_of_text(tmp_path: Path) -> None:
    noise = random.Random(0).randbytes(20_000)
    for name, content in (("noise.bin", noise), ("noise.gz", gzip.compress(noise.replace(b"\0", b"")))):
        (tmp_path / name).write_bytes(content)
        said = refusal(tmp_path / name)
        assert "binary" in said and "repair_log" not in said
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "noise.bin").write_bytes(noise)
    assert "binary" in refusal(tmp_path / "folder")


def test_text_in_another_encoding_is_sent_there_with_the_place(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("Grüße aus Köln\n".encode("latin-1") * 30)
    assert "repair_log.py" in refusal(tmp_path / "latin.txt")
    (tmp_path / "wide.txt").write_text("Grüße aus Köln\n" * 30, encoding="utf-16")
    assert "repair_log.py" in refusal(tmp_path / "wide.txt")
    (tmp_path / "late.txt").write_bytes(b"fine\n" * 1_000_000 + b"caf\xe9\n")
    assert "at byte 5000003" in refusal(tmp_path / "late.txt")
    (tmp_path / "cut.txt").write_bytes("fine é".encode()[:-1])
    assert "at byte 5" in refusal(tmp_path / "cut.txt")


def test_text_beside_a_little_data_is_still_text(tmp_path: Path) -> None:
    folder = lines(tmp_path / "book" / "notes.jsonl", {"page": 1}).parent
    (folder / "book.txt").write_text("It was a dark night.\n" * 100, encoding="utf-8")
    TextSource(str(folder)).check()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('{"messages": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"messages": [{"role": ["user"], "content": "x"}]}', "the role ['user'] is none of"),
        ('{"messages": [{"role": "user", "content": "' + "x" * 9 + '\\ud800"}]}', "lone surrogate"),
        ('{"messages": [{"role": "user", "content": [{"type": "text"}, 5]}]}', "is not text"),
    ],
)
def test_odd_conversations_are_named_with_file_and_line(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "talks.jsonl"
    file.write_text(json.dumps([{"role": "user", "content": "Hi"}]) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(UserError) as refused:
        list(ChatSource(str(file)).documents())
    text = str(refused.value)
    assert f"{file}:2 is not a conversation" in text and said in text and len(text) < 1000
