"""Data sets in the hub's own forms on disk: a cache, configs, saved ones; the second start opens no socket."""

import socket
import sys
from pathlib import Path

import pytest
from places import PROJECT
from processes import Process, Started

from harness.config.compose import compose
from harness.data.material import build_sources
from harness.data.tables import HfSource
from harness.errors import UserError
from lm.data.prepare import Recipe, prepare

datasets = pytest.importorskip("datasets")
NAME, COMMIT = "someone/poems", "0123456789abcdef0123456789abcdef01234567"
CARD = """---
configs:
- config_name: short
  data_files: [{split: train, path: short/train-*}, {split: test, path: short/test.parquet}]
- config_name: long
  data_files: long.parquet
---
"""


def on_hub(folder: Path) -> Path:
    """Write a repository of two configs, one of shards with two splits, one of one file."""
    (folder / "short").mkdir(parents=True)
    for name, start in (("train-0.parquet", 0), ("train-1.parquet", 20), ("test.parquet", 40)):
        rows = {"text": [f"poem {number}" for number in range(start, start + 20)]}
        datasets.Dataset.from_dict(rows).to_parquet(str(folder / "short" / name))
    datasets.Dataset.from_dict({"text": ["a long poem"] * 3}).to_parquet(str(folder / "long.parquet"))
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache with one data set in it, and no network."""
    import datasets.config
    import huggingface_hub.constants

    cache = tmp_path / "hub"
    repository = cache / "datasets--someone--poems"
    on_hub(repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return cache


def texts(**arguments: str) -> list[str]:
    return [document.text for document in HfSource(**arguments).documents()]


def test_configs_and_splits_of_a_folder_and_of_a_name_are_the_same(cache: Path, tmp_path: Path) -> None:
    folder = on_hub(tmp_path / "folder")
    for path in (str(folder), NAME):
        assert texts(path=path, config="short") == [f"poem {number}" for number in range(40)]
        assert texts(path=path, config="short", split="test") == [f"poem {number}" for number in range(40, 60)]
        assert texts(path=path, config="long") == ["a long poem"] * 3
        with pytest.raises(UserError, match=r"cannot be read as a data set.*data\.config=NAME and data\.split=NAME"):
            texts(path=path, config="short", split="absent")


def test_the_second_start_opens_no_socket(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = Recipe(300, 0.2, 0)
    (cache / "datasets--someone--poems" / f".whole-{COMMIT}").touch()  # as fetching leaves it
    first = prepare(HfSource(NAME, config="short"), recipe, tmp_path / "p").folder

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", forbidden)
    monkeypatch.setattr(socket, "create_connection", forbidden)
    monkeypatch.delitem(sys.modules, "datasets")  # not even imported
    assert prepare(HfSource(NAME, config="short"), recipe, tmp_path / "p").folder == first
    assert "datasets" not in sys.modules
    assert HfSource(NAME, config="long").fingerprint() != HfSource(NAME, config="short").fingerprint()


def test_wikitext_is_found_in_the_cache_by_its_configs(cache: Path) -> None:
    snapshot = cache / "datasets--Salesforce--wikitext" / "snapshots" / COMMIT
    configs = ("wikitext-103-raw-v1", "wikitext-2-raw-v1")
    for name in configs:
        (snapshot / name).mkdir(parents=True)
        for split in ("train", "test"):
            rows = {"text": [f" = {name} = ", f"an article to {split}"]}
            datasets.Dataset.from_dict(rows).to_parquet(str(snapshot / name / f"{split}-00000-of-00001.parquet"))
    files = "\n".join(f"- config_name: {n}\n  data_files:\n  - {{split: train, path: {n}/train-*}}" for n in configs)
    (snapshot / "README.md").write_text(f"---\nconfigs:\n{files}\n---\n", encoding="utf-8")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    for overrides, name in (([], configs[1]), ([f"data.config={configs[0]}"], configs[0])):
        source, _ = build_sources(compose(["data=wikitext", *overrides]).data)
        source.check()
        assert [document.text for document in source.documents()] == [f" = {name} = ", "an article to train"]


# `python train.py` on a machine that cannot open a socket, nor ask for a name.
ALONE = """
import runpy, sys
def refuse(event, arguments):
    if event in ("socket.__new__", "socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        raise RuntimeError(f"no network: {event} {arguments}")
sys.addaudithook(refuse)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def written(form: str, folder: Path, cache: Path) -> tuple[str, str]:
    """Write 60 rows in one of the forms of `datasets`; return where they are, and their column."""
    texts = [f"poem {number} of the rose and the thorn, and of the {number * 7} bees" for number in range(60)]
    table = datasets.Dataset.from_dict({"poem": texts, "number": range(60)})
    if form == "saved":
        table.save_to_disk(str(folder), num_shards=2)
    elif form == "saved with splits":
        datasets.DatasetDict({"train": table, "test": table.select(range(5))}).save_to_disk(str(folder))
    elif form == "arrow":
        table.save_to_disk(str(folder / "saved"))
        return str(next((folder / "saved").glob("*.arrow"))), "poem"
    elif form == "parquet":
        folder.mkdir()
        for number in range(2):
            table.shard(2, number).to_parquet(str(folder / f"train-{number}.parquet"))
    elif form == "repository of JSON lines":
        folder.mkdir()
        table.to_json(str(folder / "train.jsonl"))
        (folder / "README.md").write_text("---\nconfigs: [{config_name: a, data_files: train.jsonl}]\n---\n", "utf-8")
    else:
        (cache / "datasets--someone--poems" / f".whole-{COMMIT}").touch()  # as fetching leaves it
        return NAME, "text"
    return str(folder), "poem"


FORMS = ("saved", "saved with splits", "arrow", "parquet", "repository of JSON lines", "a hub's cache")


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_each_form_trains_and_the_second_start_needs_no_socket(
    form: str, cache: Path, tmp_path: Path, small: list[str]
) -> None:
    path, column = written(form, tmp_path / "data", cache)
    part = {"repository of JSON lines": ["data.config=a"], "a hub's cache": ["data.config=short"]}.get(form, [])
    line = [
        *small,
        "data=hf",
        f"data.path={path}",
        f"data.column={column}",
        *part,
        f"data.prepared={tmp_path / 'prepared'}",
    ]
    place = {"HF_HUB_CACHE": str(cache), "HF_DATASETS_CACHE": str(tmp_path / "datasets")}
    first = Process(tmp_path, [*line, "trainer.max_steps=2"], **place)
    assert first.ended() == 0 and "Prepared " in first.output, first.output
    (made,) = (tmp_path / "prepared").glob("[!.]*/")
    before = {file.name: file.stat().st_mtime_ns for file in made.iterdir()}
    for more in ("trainer.max_steps=4", "run.name=another"):  # going on, and anew
        alone = Started(tmp_path, ["-c", ALONE, str(PROJECT / "train.py"), *line, "trainer.max_steps=4", more], **place)
        assert alone.ended() == 0 and "Prepared " not in alone.output, alone.output
    assert {file.name: file.stat().st_mtime_ns for file in made.iterdir()} == before


def test_what_is_not_here_is_named_with_the_command_that_fetches_it(cache: Path) -> None:
    with pytest.raises(UserError, match=r"no/such is not on this machine.*hf download --repo-type dataset no/such"):
        HfSource("no/such").fingerprint()
    with pytest.raises(UserError, match="There is no .parquet or .arrow file at data.path=absent"):
        HfSource("absent").check()
    (cache / "datasets--someone--poems" / "blobs").mkdir()
    (cache / "datasets--someone--poems" / "blobs" / "x.incomplete").touch()
    with pytest.raises(UserError, match=f"{NAME} is not whole on this machine"):
        HfSource(NAME).fingerprint()


@pytest.mark.parametrize("damage", ["cut", "not parquet"])
def test_a_corrupt_shard_is_named_or_left_out(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    folder = on_hub(tmp_path / "folder") / "short"
    shard = folder / "train-0.parquet"
    shard.write_bytes(shard.read_bytes()[:-50] if damage == "cut" else b"PAR1 and nothing else PAR1")
    with pytest.raises(UserError, match=r"train-0\.parquet is not a whole parquet file.*data\.on_bad=skip"):
        texts(path=str(folder))
    left_out: list[str] = []
    source = HfSource(str(folder), on_bad="skip")
    source.on_skip = lambda where, why: left_out.append(where)
    assert len(list(source.documents())) == 40 and left_out == [shard.as_posix()]


@pytest.mark.parametrize("form", ["saved", "saved with splits", "arrow", "parquet"])
def test_each_form_on_disk_is_read(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    table = datasets.Dataset.from_dict({"text": ["a", "b"]})
    path = tmp_path / "data"
    if form == "parquet":
        table.to_parquet(str(path := tmp_path / "data.parquet"))
    elif form == "saved with splits":
        other = datasets.Dataset.from_dict({"text": ["c"]})
        datasets.DatasetDict({"train": table, "test": other}).save_to_disk(str(path))
        assert texts(path=str(path), split="test") == ["c"]
    else:
        table.save_to_disk(str(path))
        path = next(path.glob("*.arrow")) if form == "arrow" else path
    assert texts(path=str(path)) == ["a", "b"]
