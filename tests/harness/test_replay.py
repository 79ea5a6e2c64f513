import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from faults import Fault, Injection, with_callback
from places import HARNESS_TESTS, PROJECT

from harness.errors import UserError
from harness.nan import bundle as bundles
from harness.nan.finder import NonFinite
from harness.replay.command import replay
from harness.replay.diagnosis import Diagnosis, Trial, diagnose, most_telling
from harness.replay.rerun import rerun
from harness.replay.watch import stop_in_debugger
from lm import fit

Train = Callable[..., Path]
SHORT = ("logger=none", "checkpoint.every_n_steps=3", "trainer.max_steps=12", "callbacks.nan_guard.good_after=2")
KINDS = {"output": "data", "gradient": "data", "precision": "precision", "weights": "weights"}
LINEAR = [f"model.layers.{i}.{part}" for i in (0, 1) for part in (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)]  # fmt: skip
MODULES = {
    "output": ["model.embed_tokens", "model.norm", "lm_head", *LINEAR],
    "gradient": ["model.norm", "lm_head", *LINEAR],
    "precision": ["lm_head", *LINEAR],
    "weights": ["model.norm", *LINEAR],
}


def twenty() -> list[tuple[str, str, int]]:
    """Five of each kind, modules and steps drawn once and for all."""
    draw = random.Random(4)
    return [(kind, draw.choice(MODULES[kind]), draw.randint(1, 10)) for kind in KINDS for _ in range(5)]


def injected(train: Train, kind: str, module: str, step: int, *overrides: str) -> Diagnosis:
    precision = "16-mixed" if kind == "precision" else "32-true"
    fault = with_callback(Injection, module=module, step=step, kind=kind)
    try:
        folder = train(*SHORT, f"trainer.precision={precision}", "model.attention=eager", fault, *overrides)
    except UserError as error:  # a poisoned weight before the first checkpoint
        assert error.code == 3
        folder = Path(error.cure.split()[-1]).parent.parent
    return rerun(folder / "nan" / f"step-{step:08d}", fit.train, trust=["faults"])


@pytest.mark.slow
def test_a_replay_has_the_batch_size_that_the_run_had_found(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([4])  # once
    monkeypatch.setattr("harness.batch_size.rows_that_fit", lambda *_: next(found))
    spread = ("data.batch_size=auto", "data.global_batch=192")
    verdict = injected(train, "output", "model.layers.0.mlp.up_proj", 3, *spread)
    assert verdict.same_batches


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "module", "step"), twenty())
def test_the_right_module_and_the_right_reason(train: Train, kind: str, module: str, step: int) -> None:
    verdict = injected(train, kind, module, step)
    assert verdict.found is not None
    assert (verdict.found.module, verdict.kind) == (module, KINDS[kind])
    assert verdict.same_batches


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind == "gradient" else pytest.mark.slow) for kind in KINDS]
)
def test_one_of_each_reason(train: Train, kind: str) -> None:
    verdict = injected(train, kind, "model.layers.1.mlp.up_proj", 5)
    assert verdict.found is not None
    assert (verdict.found.module, verdict.kind) == ("model.layers.1.mlp.up_proj", KINDS[kind])


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [("trainer.accumulate_grad_batches=3",), ("model.gradient_checkpointing=true",),
                                       ("+model.config.attention_dropout=0.2",)])  # fmt: skip
def test_under_other_circumstances_too(train: Train, overrides: tuple[str, ...]) -> None:
    verdict = injected(train, "output", "model.layers.0.mlp.down_proj", 5, *overrides)
    assert verdict.found is not None
    assert (verdict.found.module, verdict.kind, verdict.same_batches) == ("model.layers.0.mlp.down_proj", "data", True)


def test_a_replay_ends_where_the_run_was(train: Train) -> None:
    """The norm of a spike is a number that only the same weights, batch and generators give."""
    folder = train(*SHORT, "callbacks.nan_guard.skip_above=1.3", "callbacks.nan_guard.patience=99",
                   "+model.config.attention_dropout=0.2")  # fmt: skip
    bundles = {int(path.name[-8:]): path for path in sorted((folder / "nan").iterdir())}
    bundle = bundles[max(step for step in bundles if step % 3 == 2)]  # the second step after a checkpoint
    facts = json.loads((bundle / "incident.json").read_text(encoding="utf-8"))
    assert facts["checkpoint"] is not None
    verdict = rerun(bundle, fit.train, trust=["faults"])
    assert verdict.norm == pytest.approx(facts["norm"], rel=1e-6)
    assert verdict.found is None and "the gradient norm is" in verdict.sentence


def test_a_run_of_several_nodes_is_not_replayed_by_one(tmp_path: Path) -> None:
    """Lightning would wait for the others for half an hour."""
    (tmp_path / "incident.json").write_text('{"step": 3}', encoding="utf-8")
    (tmp_path / "config.yaml").write_text("trainer: {num_nodes: 2}", encoding="utf-8")
    with pytest.raises(UserError, match="several nodes.*text-rank"):
        rerun(tmp_path, fit.train)


def test_of_several_ranks_the_one_with_a_reason_speaks() -> None:
    def verdict(kind: str, rank: int) -> Diagnosis:
        return Diagnosis(kind, "", 1.0, None, [], True, rank)

    assert most_telling([verdict("outside", 0), verdict("data", 1), verdict("precision", 2)]).rank == 1
    assert most_telling([verdict("outside", 0), verdict("not reproduced", 1)]).rank == 0


def test_the_run_is_not_touched_but_for_the_verdict(train: Train) -> None:
    folder = train(*SHORT, with_callback(Fault, kind="embedding", steps=[5]))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    verdict = rerun(folder / "nan" / "step-00000005", fit.train, trust=["faults"])
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    written = folder / "nan" / "step-00000005" / "diagnosis.json"
    assert after == before | {written: after[written]}
    assert json.loads(written.read_text(encoding="utf-8"))["sentence"] == verdict.sentence


def test_a_callback_that_spoils_gradients_is_not_taken_for_data(train: Train) -> None:
    folder = train(*SHORT, with_callback(Fault, kind="one gradient", steps=[5]))
    assert rerun(folder / "nan" / "step-00000005", fit.train, trust=["faults"]).kind == "outside"


def test_a_fault_in_the_loss_is_named(train: Train) -> None:
    folder = train(*SHORT, with_callback(Fault, kind="loss", steps=[5]))
    found = rerun(folder / "nan" / "step-00000005", fit.train, trust=["faults"]).found
    assert found is not None and str(found) == "the value of loss (the model's output is finite)"


def test_a_replay_without_a_checkpoint_begins_at_the_beginning(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    verdict = injected(train, "output", "model.norm", 2)
    assert verdict.kind == "data" and "from the beginning" in capsys.readouterr().out


def test_the_command(train: Train, command: Callable) -> None:
    folder = train(*SHORT, with_callback(Injection, module="model.embed_tokens", step=5, kind="output"))
    folders = (PROJECT, HARNESS_TESTS)
    done = command("replay", str(folder), "--trust", "faults", PYTHONPATH=os.pathsep.join(map(str, folders)))
    assert done.returncode == 0, done.stderr
    assert "Step 5 of" in done.stdout and "Data: the output of model.embed_tokens is not finite" in done.stdout


@pytest.mark.parametrize("path", ["nothing", "."])
def test_what_is_no_bundle_is_said(tmp_path: Path, path: str) -> None:
    with pytest.raises(UserError, match="is not the evidence of a skipped step"):
        replay(str(tmp_path / path), "lm.fit:train")


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff\xfe", b"{}", b"null"])
def test_evidence_that_cannot_be_read_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "incident.json").write_bytes(content)
    with pytest.raises(UserError, match=r"incident\.json"):
        bundles.read_facts(tmp_path)


def test_a_run_without_skips_has_nothing_to_replay(tmp_path: Path) -> None:
    (tmp_path / "run.json").touch()
    with pytest.raises(UserError, match="has skipped no step"):
        replay(str(tmp_path), "lm.fit:train")


def test_a_debugger_is_asked_for_only_when_it_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    debugger = SimpleNamespace(is_client_connected=lambda: False, breakpoint=lambda: calls.append("stopped"))
    monkeypatch.setitem(sys.modules, "debugpy", debugger)
    stop_in_debugger(FOUND)
    assert calls == []
    debugger.is_client_connected = lambda: True
    stop_in_debugger(FOUND)
    assert calls == ["stopped"]


FOUND = NonFinite("model.norm", "output")
FINE, BAD = (Trial("32-true", 1.0, 1.0, fine, None) for fine in (True, False))


@pytest.mark.parametrize(
    ("norm", "bad_weights", "trials", "other", "kind", "words"),
    [
        (1.0, [], [FINE, FINE, FINE], FINE, "not reproduced", "the step is fine now"),
        (1e6, ["a.weight"], [BAD, BAD, BAD], BAD, "weights", "bad before this step (a.weight)"),
        (1e6, [], [BAD, BAD, BAD], BAD, "weights", "another batch fails with them too"),
        (1e6, [], [FINE, FINE, BAD], FINE, "precision", "in 16-mixed; the same step is fine in 32-true and 32-true"),
        (1e6, [], [BAD, BAD, BAD], FINE, "data", "the output of model.norm is not finite with this batch"),
        (1e6, [], [FINE, FINE, FINE], FINE, "outside", "a callback, say"),
    ],
)
def test_every_verdict_is_one_sentence(norm, bad_weights, trials, other, kind, words) -> None:
    facts = {"norm": norm, "skipped": not norm <= 100.0, "found": FOUND, "bad_weights": bad_weights}
    verdict = diagnose(precision="16-mixed", trials=trials, other_batch=other, **facts)
    assert verdict.kind == kind and words in verdict.sentence and verdict.sentence.endswith(".")
