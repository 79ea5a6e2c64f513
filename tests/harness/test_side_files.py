"""Checkpoints are the truth: whatever lies beside them, the run goes on, exact, and says what it set aside."""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from exactness import assert_same, newest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from omegaconf import DictConfig

import hooks
from conftest import overrides
from harness.checkpoint import read
from harness.checkpoint.compare import first_difference
from harness.checkpoint.ledger import read_ledger, usable
from harness.config.compose import compose
from harness.errors import UserError
from harness.files import json_lines, write_whole
from harness.run import folder as run_folder
from harness.run.folder import Run, choose_folder
from harness.telemetry import events
from harness.telemetry.append import AppendOnlyFile
from harness.telemetry.loggers import CsvLogger
from lm import fit

RUN = (
    "trainer.max_steps=4",
    "trainer.log_every_n_steps=1",
    "checkpoint.every_n_steps=2",
    "logger=csv",
    "+model.config.attention_dropout=0.2",
    "model.attention=eager",
    "callbacks.samples.every_n_steps=1",
    "callbacks.samples.max_tokens=2",
    "+callbacks.slow={_target_:hooks.Slow,seconds:0}",
)
SIDE_FILES = (
    "run.json",
    "config.yaml",
    "samples.jsonl",
    "metrics.csv",
    "debug_log/events.jsonl",
    "debug_log/summary.json",
    "skips.jsonl",
    ".holder",
    ".lock",
)


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()
    (path / "inside").write_text("x", encoding="utf-8")


def halved(path: Path) -> None:
    content = path.read_bytes() if path.exists() else b"{"
    path.write_bytes(content[: len(content) // 2])


def at_a_line(path: Path) -> None:
    lines = path.read_bytes().split(b"\n") if path.exists() else [b"{", b"}"]
    path.write_bytes(b"\n".join(lines[: len(lines) // 2]) + b"\n")


def dangling(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path.parent / "nowhere" / "at all")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": halved,
    "truncated at a line": at_a_line,
    "NULs": lambda path: path.write_bytes(bytes(4096)),
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe\xfa" * 99 + b"\n"),
    "a list": lambda path: path.write_bytes(b"[1, 2]\n"),
    "deep": lambda path: path.write_bytes(b"[" * 100_000),
    "a folder": folder,
    "a dangling link": dangling,
    "gone": lambda path: path.unlink(missing_ok=True),
}


@pytest.fixture(scope="module")
def originals(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs: `reference`, whole, and `cut`, cut at step 3 with a checkpoint of step 2."""
    root = tmp_path_factory.mktemp("originals")
    base = [*overrides(corpus, root), *RUN]
    fit.train(compose([*base, "run.name=reference"]))
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(hooks.PowerCut):
        patch.setattr(hooks.Slow, "on_train_batch_end", cut_at_step_3)
        fit.train(compose([*base, "run.name=cut"]))
    assert [checkpoint.step for checkpoint in read.checkpoints(root / "runs" / "cut" / "checkpoints")] == [2]
    return root / "runs"


def cut_at_step_3(_: hooks.Slow, trainer: Trainer, *__: object) -> None:
    if trainer.global_step == 3:
        raise hooks.PowerCut


@pytest.fixture
def cut(originals: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals / "cut", tmp_path / "runs" / "cut"))


def go_on(cfg: DictConfig) -> None:
    assert choose_folder(cfg) == "cut"
    fit.train(cfg)


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_with_every_side_file_damaged_the_run_goes_on_exactly(
    compose, cut: Path, originals: Path, caplog, damage: str
) -> None:
    run_id = newest(cut).manifest["run_id"]
    for name in SIDE_FILES:
        DAMAGES[damage](cut / name)
    go_on(compose(*RUN, "run.name=cut"))
    assert newest(cut).step == 4
    assert not first_difference(newest(cut), newest(originals / "reference"))
    assert newest(cut).manifest["run_id"] == run_id
    diary = run_folder.read(cut)
    assert (diary["id"], diary["attempts"][-1]["attempt"], diary["status"]) == (run_id, 2, "finished")
    if damage in ("a folder", "NULs"):
        aside = {path.relative_to(cut).as_posix() for path in cut.rglob("*.damaged-1")}
        assert {"run.json.damaged-1", "config.yaml.damaged-1", "metrics.csv.damaged-1"} <= aside
        for name in aside:
            assert caplog.text.count(f"set aside as {Path(name).name}") == 1


@pytest.mark.parametrize("name", ["run.json", "config.yaml", "metrics.csv", "samples.jsonl"])
def test_one_damaged_side_file_costs_nothing_else(compose, cut: Path, originals: Path, name: str) -> None:
    DAMAGES["a folder"](cut / name)
    go_on(compose(*RUN, "run.name=cut"))
    assert not first_difference(newest(cut), newest(originals / "reference"))
    if name != "metrics.csv":
        assert_same(cut, originals / "reference")


def test_a_sample_with_line_ends_of_other_scripts_can_be_resumed_after(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    lines = [
        json.dumps({"step": step, "text": "a\u2028b\u2029c\x85d\x0be\x1cf"}, ensure_ascii=False) for step in (1, 2, 3)
    ]
    path.write_bytes("\n".join(lines).encode() + b"\n")
    AppendOnlyFile(path).forget_after(2)
    assert path.read_bytes().split(b"\n") == [line.encode() for line in lines[:2]] + [b""]


def test_a_line_that_is_not_json_is_left_out_and_said(tmp_path: Path, caplog) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_bytes(b'{"step": 1}\nnot json\n[1]\n{"step": "2"}\n{"step": 2}\n{"st')
    AppendOnlyFile(path).forget_after(5)
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'
    assert "2 lines" in caplog.text and "the first is line 2" in caplog.text


def test_a_pipe_in_place_of_a_file_does_not_hang(tmp_path: Path, caplog) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("Windows has no named pipes in folders")
    os.mkfifo(tmp_path / "run.json")
    assert run_folder.read(tmp_path) == {}
    assert list(json_lines(tmp_path / "run.json")) == []
    assert "not a file" in caplog.text


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EACCES])
def test_a_disk_without_locks_is_said_and_no_obstacle(compose, cut: Path, caplog, monkeypatch, number: int) -> None:
    from filelock import FileLock

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(FileLock, "acquire", refuse)
    run = Run.open(compose(*RUN, "run.name=cut"))
    run.close("stopped")
    assert run.attempt == 2 and "cannot be locked" in caplog.text
    assert run_folder.read(cut)["attempts"][-1]["status"] == "stopped"


def test_another_experiment_is_refused_though_its_config_is_gone(compose, cut: Path) -> None:
    (cut / "config.yaml").write_bytes(b"\0" * 99)
    (cut / "run.json").unlink()
    with pytest.raises(UserError, match="another experiment"):
        choose_folder(compose(*RUN, "run.name=cut", "optimizer.lr=7e-4"))


def test_a_small_file_is_whole_or_as_it_was(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "x.json"
    write_whole(path, "old")
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (synced.append(number), real(number)))
    write_whole(path, "new\n")
    assert path.read_bytes() == b"new\n" and synced
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_whole(path, "newer")
    assert path.read_bytes() == b"new\n" and [p.name for p in tmp_path.iterdir()] == ["x.json"]


# --- Any bytes in any side file. ---

WORDS = st.sampled_from(
    [
        b"{",
        b"}",
        b'"step":',
        b"1",
        b"null",
        b"\n",
        b"\0",
        b"\xff",
        b'"id":"0123"',
        b"attempts: ",
        b"[",
        b"]",
        b",",
        "\u2028".encode(),
        b"step,a\n",
        b"${x}",
        b"&a [*a]",
        b"!!python/none",
        b"1e999",
        b'{"step": 1, "prompt": "", "text": ""}\n',
        b"- ",
        b"? ",
        b": ",
        b"\r",
    ]
)
BYTES = st.one_of(st.binary(max_size=200), st.lists(WORDS, max_size=12).map(b"".join))


@contextlib.contextmanager
def reopened(original: Path, folder: Path) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    for path in original.iterdir():
        if path.name == "checkpoints":
            (folder / path.name).symlink_to(path)
        else:
            (shutil.copytree if path.is_dir() else shutil.copy)(path, folder / path.name)
    yield folder


@pytest.fixture(scope="module")
def configured(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> DictConfig:
    return compose([*overrides(corpus, tmp_path_factory.getbasetemp() / "fuzz"), *RUN, "run.name=cut"])


@pytest.mark.slow
@pytest.mark.timeout(3000)  # half a second an example, and six times that on a busy machine
@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(name=st.sampled_from(SIDE_FILES), content=BYTES, keep=st.integers(0, 400))
@example(name="run.json", content=b'{"id": "00", "attempts": [{"attempt": null}]}', keep=0)
@example(name="config.yaml", content=b"run: {name: x}", keep=0)
@example(name="metrics.csv", content=b'step,a\n1,2\n"', keep=0)
def test_any_bytes_in_any_side_file_leave_the_run_as_its_checkpoints_have_it(
    originals: Path, configured: DictConfig, name: str, content: bytes, keep: int
) -> None:
    with reopened(originals / "cut", Path(configured.run.dir)) as run:
        before = (run / name).read_bytes()[:keep] if (run / name).exists() else b""
        (run / name).write_bytes(before + content)
        look(run, configured)


def look(run: Path, cfg: DictConfig) -> None:
    """Do what a start does beside training, and see that nothing of it changes where the run goes on."""
    manifest = read.newest_valid(run / "checkpoints").manifest
    choose_folder(cfg)
    opened = Run.open(cfg)
    assert read.newest_valid(run / "checkpoints").manifest == manifest
    assert opened.diary["attempts"] and isinstance(opened.attempt, int)
    opened.note(picks={})
    logger = CsvLogger(str(run), after_step=1)
    logger.log_metrics({"train/loss": 1.0}, step=2)
    assert (run / "metrics.csv").read_text(encoding="utf-8").rstrip().rpartition("\n")[2].startswith("2,")
    log = events.open_log(run, run_id=opened.id, attempt=opened.attempt)
    events.emit("fit_start", 2, {})
    events.close_log()
    assert [event["event_type"] for event in events.current(log.path)][-1] == "fit_start"
    AppendOnlyFile(run / "samples.jsonl").forget_after(2)
    assert read_ledger(run) == [] and [checkpoint.step for checkpoint in usable(run)] == [2]
    opened.close("stopped")
    assert run_folder.read(run)["attempts"][-1]["status"] == "stopped"
    assert run_folder.config(run).run.name == "cut"
