"""devtools/check_setup.py and check_data.py: each thing that can be wrong is found, and named with its cure."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
from devtools import check_data, check_setup
from devtools.findings import CheckResult, failure, ok, report, warning
from mixtures import three_sets
from places import PROJECT

from lm.data.sources import Document
from lm.data.tokenizer import train_tokenizer

SHIPPED = PROJECT / "devtools" / "chat.jsonl"


def said(findings: Iterable[CheckResult], level: str) -> str:
    return "\n".join(str(finding) for finding in findings if finding.level == level)


def tool(name: str, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(PROJECT / "devtools" / name), *arguments]
    environ = os.environ | {"PYTHONUTF8": "1", **environment}
    return subprocess.run(
        command, check=False, cwd=PROJECT, env=environ, capture_output=True, text=True, encoding="utf-8"
    )


@pytest.mark.parametrize(
    ("findings", "code"),
    [
        ([ok("a", "fine")], 0),
        ([warning("a", "hm", "do this")], 0),
        ([ok("a", "fine"), failure("b", "no", "do that")], 1),
    ],
)
def test_only_a_failure_is_an_exit_code(
    findings: list[CheckResult], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        report(findings, as_json=False)
    assert left.value.code == code
    assert all(finding.cure in capsys.readouterr().out for finding in findings[-1:])


def test_json_holds_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        report([ok("a", "fine"), failure("b", "no", "do that")], as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert (printed["ok"], printed["warning"], printed["failure"]) == (1, 0, 1)
    assert printed["findings"][1] == {"level": "failure", "check": "b", "message": "no", "cure": "do that"}


def test_this_environment_is_as_the_project_wants_it() -> None:
    assert check_setup.python().level == "ok"
    assert said(check_setup.packages(), "failure") == ""


def test_a_version_that_steals_is_named_and_nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_setup, "version", lambda name: "2.6.3" if name == "lightning" else "99")
    monkeypatch.setattr(check_setup, "components", lambda: pytest.fail("imported the packages all the same"))
    text = said(check_setup.findings(quick=True), "failure")
    assert "lightning 2.6.3 steals credentials" in text and "-> pip uninstall lightning" in text


def test_missing_and_foreign_versions_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "rich":
            raise PackageNotFoundError(name)
        return "0.1"

    monkeypatch.setattr(check_setup, "version", version)
    text = said(check_setup.packages(), "failure")
    assert "rich is not installed" in text and "torch 0.1 is outside of" in text and check_setup.INSTALL in text


def test_an_old_python_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 2))
    assert "3.10.2 is too old" in check_setup.python().message


def test_a_cache_with_a_dangling_link_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = tmp_path / "hub/models--a--b/snapshots/1/config.json"
    link.parent.mkdir(parents=True)
    link.symlink_to("../../blobs/gone")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TRANSFORMERS_CACHE", "/x")
    text = said(check_setup.caches_and_login(), "warning")
    assert f"{link} points to a file that is gone" in text and "TRANSFORMERS_CACHE is set" in text


def test_caches_that_were_set_too_late_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_CACHE_HOME", "/elsewhere")
    assert "Two homes at once" in said(check_setup.caches_and_login(), "warning")


def test_little_room_and_no_permission_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    gigabyte = 10**9
    usage = type("Usage", (), {"free": gigabyte})
    monkeypatch.setattr(check_setup.shutil, "disk_usage", lambda _: usage)
    assert "1.0 GB are free" in said(check_setup.disks(), "failure")
    usage.free = 5 * gigabyte
    assert "5.0 GB are free" in said(check_setup.disks(), "warning")
    monkeypatch.setattr(check_setup.os, "access", lambda *_: False)
    assert "cannot be written" in said(check_setup.disks(), "failure")


def test_a_module_that_cannot_be_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lm

    (tmp_path / "mine.py").write_text("import a_package_that_is_not_there\n", encoding="utf-8")
    monkeypatch.setattr(lm, "__path__", [str(tmp_path)])
    text = said(check_setup.components(), "failure")
    assert "lm.mine cannot be imported: ModuleNotFoundError" in text
    assert len(text.splitlines()) == 2


def test_a_round_trip_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_setup, "SMALL", ("model=tiny", "trainer.max_stepz=1"))
    finding = check_setup.round_trip()
    assert finding.level == "failure" and "max_stepz" in finding.message


@pytest.mark.slow
def test_check_setup_as_it_is_typed() -> None:
    done = tool("check_setup.py", "--json")
    printed = json.loads(done.stdout)
    assert (done.returncode, printed["failure"]) == (0, 0), done.stdout
    assert {"python", "packages", "caches", "disk", "components", "device", "round trip"} <= {
        finding["check"] for finding in printed["findings"]
    }


def data(folder: Path, *overrides: str) -> list[CheckResult]:
    small = ("model=tiny", "model.config.vocab_size=300", "data=text", f"data.path='{folder}'", "data.val_fraction=0.4")
    prepared = f"data.prepared='{folder.parent / 'prepared'}'"
    return list(check_data.findings([*small, prepared, "data.batch_size=1", *overrides]))


def texts(folder: Path, *contents: str) -> Path:
    folder.mkdir()
    for number, content in enumerate(contents):
        (folder / f"{number}.txt").write_text(content, encoding="utf-8")
    return folder


GOOD = [
    f"Text number {number} says something of its own, about {number * 7} things and more. " * 8 for number in range(20)
]


def test_good_text_has_no_complaint(tmp_path: Path) -> None:
    findings = data(texts(tmp_path / "good", *GOOD))
    assert {finding.level for finding in findings} == {"ok"}
    assert {finding.check for finding in findings} == {"read", "split", "files", "tokens", "lengths", "batches"}


def test_copies_and_damaged_documents_are_named(tmp_path: Path) -> None:
    findings = data(texts(tmp_path / "bad", *GOOD, GOOD[0], "Stra\ufffde " * 50, "a form\x01feed\n" * 50))
    text = said(findings, "warning")
    assert "1 documents are copies of another: 20.txt" in text
    assert "2 documents have characters that no text means: 21.txt, 22.txt" in text


def test_empty_documents_are_named() -> None:
    documents = [Document(str(number), " \n" if number < 5 else str(number)) for number in range(9)]
    texts = check_data.look(("train", document) for document in documents)
    assert "5 documents are empty: 0, 1, 2 and 2 more" in said(check_data.read(texts), "warning")
    assert "no documents" in said(check_data.read(check_data.look([])), "failure")


def test_prepared_files_with_other_bytes_are_named_and_made_again(tmp_path: Path) -> None:
    folder = texts(tmp_path / "good", *GOOD)
    assert not said(data(folder), "warning")
    file = next(tmp_path.glob("prepared/*/train.bin"))
    whole = file.read_bytes()
    file.write_bytes(bytes(len(whole)))
    text = said(data(folder), "warning")
    assert "was damaged: train.bin does not have the checksum" in text and "prepared again" in text
    assert file.read_bytes() == whole and not said(data(folder), "warning")


def test_training_on_everything_is_not_a_complaint(tmp_path: Path) -> None:
    findings = data(texts(tmp_path / "good", *GOOD), "data.val_fraction=0")
    assert {finding.level for finding in findings} == {"ok"}


def test_validation_text_that_is_also_trained_on_is_named(tmp_path: Path) -> None:
    shared = "This long line stands in every one of the documents, word for word, and leaks. \n"
    findings = data(texts(tmp_path / "leak", *(f"{number}\n{shared * 5}" for number in range(20))))
    assert "100.0% of" in said(findings, "warning") and "will look too good" in said(findings, "warning")


def test_conversations_that_are_cut_or_teach_nothing_are_named(tmp_path: Path) -> None:
    talks = [
        [{"role": "user", "content": f"question {n} " * 3}, {"role": "assistant", "content": "yes"}] for n in range(20)
    ]
    talks[3][0]["content"] *= 40  # so long that the answer falls off
    file = tmp_path / "talks.jsonl"
    file.write_text("\n".join(json.dumps({"messages": talk}) for talk in talks), encoding="utf-8")
    text = said(data(file, "data=chat", "data.packing=false"), "warning")
    assert "1 documents are cut, which loses" in text and "1 rows have none and teach nothing" in text


def test_conversations_without_an_assistant_are_a_failure(tmp_path: Path) -> None:
    file = tmp_path / "talks.jsonl"
    file.write_text(
        "\n".join(json.dumps([{"role": "user", "content": f"only {n}"}]) for n in range(20)), encoding="utf-8"
    )
    assert "nothing can be learned" in said(data(file, "data=chat", "data.packing=false"), "failure")


def test_too_little_text_for_a_batch_is_a_failure(tmp_path: Path) -> None:
    assert "do not fill a batch of 64" in said(data(texts(tmp_path / "few", *GOOD), "data.batch_size=64"), "failure")


def test_text_in_another_encoding_is_a_failure_with_its_file(tmp_path: Path) -> None:
    folder = texts(tmp_path / "latin", *GOOD)
    (folder / "latin.txt").write_bytes("Grüße".encode("latin-1"))
    assert "latin.txt is not UTF-8" in said(data(folder), "failure")


def test_each_set_of_a_mixture_is_looked_at(corpus: Path, tmp_path: Path) -> None:
    findings = data(corpus, "data=mixture", three_sets(corpus, tmp_path))
    told, warned = said(findings, "ok"), said(findings, "warning")
    assert not said(findings, "failure") and "talks: 23 documents are copies of another" in warned
    for name, share in (("poems", "50.0%"), ("jsonl", "30.0%"), ("talks", "20.0%")):
        checks = {finding.check for finding in findings if finding.message.startswith(f"{name}: ")}
        assert checks == {"read", "split", "files", "tokens", "lengths", "batches", "mixture"}
        assert f"{name}: {share} of the mixture, seen " in told
    assert "needs to know which sets" in said(data(corpus, "data=mixture"), "failure")
    (tmp_path / "rows.jsonl").write_text('{"story": "alone"}\n{"tale": 1}\n', encoding="utf-8")
    sets = f"data.sets={{jsonl:{{path:'{tmp_path / 'rows.jsonl'}',column:story,weight:1}}}}"
    assert "rows.jsonl:2 has no text in the column 'story'" in said(data(corpus, "data=mixture", sets), "failure")


def test_tokens_are_not_taken_for_damaged_text(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(GOOD, 300, len(GOOD))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    ids = [token for text in GOOD for token in [*tokenizer.encode(text).ids, 0]]
    np.array(ids, dtype="uint16").tofile(tmp_path / "tokens.bin")
    findings = data(tmp_path / "tokens.bin", "data=tokens", f"data.tokenizer.path={tmp_path}")
    assert {finding.level for finding in findings} == {"ok"}, findings
    assert {finding.check for finding in findings} == {"files", "tokens", "lengths", "batches"}


@pytest.mark.slow
def test_check_data_as_it_is_typed(tmp_path: Path) -> None:
    done = tool(
        "check_data.py",
        "data=chat",
        f"data.path='{SHIPPED}'",
        "data.val_fraction=0.2",
        "data.packing=false",
        f"data.prepared='{tmp_path}'",
        "--json",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["failure"] == 0
    typo = tool("check_data.py", "data=chatt")
    assert typo.returncode == 1 and "Did you mean chat?" in typo.stdout and "Traceback" not in typo.stderr
