"""Tables as data: the same three rows in every format are the same three documents."""

import json
from pathlib import Path

import pytest
from hydra.utils import instantiate

from harness.config.compose import compose
from harness.data.tables import CsvSource, HfSource, JsonlSource, RowSource
from harness.errors import UserError

TEXTS = ["a poem,\nof two lines", 'with "quotes"', "Grüße 😊"]


def jsonl(folder: Path) -> Path:
    rows = [json.dumps({"text": text, "n": number}) for number, text in enumerate(TEXTS)]
    (folder / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return folder / "rows.jsonl"


def comma(folder: Path) -> Path:
    quoted = ['"' + text.replace('"', '""') + f'",{number}' for number, text in enumerate(TEXTS)]
    (folder / "rows.csv").write_text("\n".join(["text,n", *quoted]), encoding="utf-8")
    return folder / "rows.csv"


def saved(folder: Path) -> Path:
    import datasets

    datasets.Dataset.from_dict({"text": TEXTS, "n": [0, 1, 2]}).save_to_disk(str(folder / "saved"))
    return folder / "saved"


def parquet(folder: Path) -> Path:
    import datasets

    datasets.Dataset.from_dict({"text": TEXTS, "n": [0, 1, 2]}).to_parquet(str(folder / "rows.parquet"))
    return folder / "rows.parquet"


FORMATS = {"jsonl": (JsonlSource, jsonl), "csv": (CsvSource, comma), "saved": (HfSource, saved)}
FORMATS["parquet"] = (HfSource, parquet)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_documents(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    kind, make = FORMATS[name]
    path = make(tmp_path)
    source: RowSource = kind(str(path))
    source.check()
    assert [document.text for document in source.documents()] == TEXTS
    assert source.fingerprint() == kind(str(path)).fingerprint() != kind(str(path), on_bad="skip").fingerprint()
    with pytest.raises(UserError, match=r"no text in the column 'm'.*data\.column=NAME"):
        list(kind(str(path), column="m").documents())


def test_bad_rows_are_named_or_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(
        '{"text": "good"}\n\n{"text": 5}\n{broken\n' + "[" * 100_000 + '\n{"text": "too"}\n', encoding="utf-8"
    )
    with pytest.raises(UserError, match=r"rows\.jsonl:3 has no text.*data\.on_bad=skip"):
        list(JsonlSource(str(file)).documents())
    assert [document.text for document in JsonlSource(str(file), on_bad="skip").documents()] == ["good", "too"]
    assert "3 rows without text" in caplog.text


@pytest.mark.parametrize("group", ["jsonl", "csv", "hf"])
def test_each_group_builds_its_source_by_path_and_column(group: str, tmp_path: Path) -> None:
    cfg = compose([f"data={group}", f"data.path={tmp_path}", "data.column=story", "data.on_bad=skip"])
    source = instantiate(cfg.data.source)
    assert (source.path, source.column, source.on_bad, source.name) == (str(tmp_path), "story", "skip", group)
    with pytest.raises(UserError, match=r"There is no \.\w+ or \.\w+ file at data\.path="):
        source.check()
