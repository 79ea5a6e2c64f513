"""Text while training: when it is due, where it goes, and that the training does not notice."""

import itertools
import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from harness.telemetry import events
from harness.telemetry.plain import printable
from lm.inference.generate import generate
from lm.inference.samples import Samples

ON = ("callbacks.samples.max_tokens=5", "callbacks.samples.at_epoch_end=false")


def samples(folder: Path) -> list[dict]:
    text = (folder / "samples.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_samples_come_every_n_steps_to_every_place(train: Callable[..., Path], caplog) -> None:
    caplog.set_level(logging.INFO)
    folder = train(*ON, "callbacks.samples.every_n_steps=2", "callbacks.samples.prompts=[def,'']")

    assert [(s["step"], s["prompt"]) for s in samples(folder)] == [(n, p) for n in (2, 4, 6) for p in ("def", "")]
    assert all(s["text"].startswith(s["prompt"]) and len(s["text"]) > len(s["prompt"]) for s in samples(folder))
    logged = [e["data"]["text"] for e in events.read(events.log_path(folder)) if e["event_type"] == "sample"]
    assert logged == [printable(s["text"]) for s in samples(folder)]
    assert caplog.text.count("Step 4, after 'def':\n  | def") == 1
    board = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [event.step for event in board.Tensors("samples/def/text_summary")] == [2, 4, 6]


def test_a_password_in_a_prompt_is_hidden_in_samples(train: Callable[..., Path]) -> None:
    address = "https://me:PLANTED@host/"
    folder = train(*ON, "callbacks.samples.every_n_steps=2", f"data.prompt='{address}'", "trainer.max_steps=2")
    written = [file for file in folder.rglob("*") if file.is_file() and b"PLANTED" in file.read_bytes()]
    assert written == []


def test_a_top_k_of_zero_is_no_limit(train: Callable[..., Path]) -> None:
    folder = train(*ON, "callbacks.samples.every_n_steps=2", "callbacks.samples.top_k=0", "trainer.max_steps=2")
    assert [s["step"] for s in samples(folder)] == [2]


@pytest.mark.slow
def test_the_training_does_not_notice(train: Callable[..., Path]) -> None:
    # With dropout, so that a random number taken away would show.
    dropout = "+model.config.attention_dropout=0.3"
    with_samples = train("run.name=a", *ON, dropout, "callbacks.samples.every_n_steps=1")
    without = train("run.name=b", dropout, "callbacks.samples=null")
    a, b = (load_file(sorted(f.glob("checkpoints/step-*"))[-1] / "model.safetensors") for f in (with_samples, without))
    assert len(samples(with_samples)) == 6
    assert all(torch.equal(a[name], b[name]) for name in b)


@pytest.mark.slow
def test_the_same_weights_say_the_same(train: Callable[..., Path]) -> None:
    first, second = (train(f"run.name={name}", *ON, "callbacks.samples.every_n_steps=3") for name in "ab")
    assert [s["text"] for s in samples(first)] == [s["text"] for s in samples(second)]


class Ticking(Samples):
    """A minute passes at every look at the clock."""

    def __init__(self, **options) -> None:
        minutes = itertools.count()
        super().__init__(**options)
        self.clock = lambda: 60.0 * next(minutes)


def test_minutes_are_counted_by_the_clock(train: Callable[..., Path]) -> None:
    target = "callbacks.samples._target_=test_samples.Ticking"
    folder = train(*ON, target, "callbacks.samples.every_n_steps=null", "callbacks.samples.every_minutes=3")
    assert [s["step"] for s in samples(folder)] == [3, 6]


def test_the_end_of_an_epoch_is_sampled_once(train: Callable[..., Path]) -> None:
    folder = train("callbacks.samples.max_tokens=5", "callbacks.samples.every_n_steps=6")
    assert [s["step"] for s in samples(folder)] == [6]  # the step and the end of the epoch coincide


def test_weights_that_are_not_finite_do_not_stop_the_training(train: Callable[..., Path], monkeypatch, caplog) -> None:
    def broken(*_: object) -> int:
        raise RuntimeError("probability tensor contains either `inf`, `nan` or element < 0")

    monkeypatch.setattr("lm.inference.generate.choose", broken)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lm.fit.print_summary", lambda *_, **__: None)
        folder = train(*ON, "callbacks.samples.every_n_steps=3")
    assert caplog.text.count("No samples at step") == 2
    assert not (folder / "samples.jsonl").exists()


@pytest.mark.slow
def test_what_will_come_again_is_forgotten(train: Callable[..., Path]) -> None:
    options = ("run.name=a", *ON, "callbacks.samples.every_n_steps=1", "checkpoint.every_n_steps=2")
    folder = train(*options, "trainer.max_steps=4")
    file = folder / "samples.jsonl"
    with file.open("a", encoding="utf-8") as handle:  # as if killed at step 5, writing
        handle.write(json.dumps(samples(folder)[-1] | {"step": 5}) + '\n{"step": 5, "te')
    train(*options, "trainer.max_steps=6")
    assert [s["step"] for s in samples(folder)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("prompt", ["a b", ""])
def test_the_prompt_of_the_data_is_what_samples_and_the_last_words_continue(train, capsys, prompt: str) -> None:
    folder = train(*ON, "callbacks.samples.every_n_steps=3", f"data.prompt='{prompt}'", "trainer.max_steps=3")
    assert [s["prompt"] for s in samples(folder)] == list(dict.fromkeys(["", prompt]))
    said = capsys.readouterr().out
    assert f'--prompt "{prompt or "…"}"' in said
    generate(str(folder), None, max_tokens=5, temperature=0, top_k=0, seed=0)
    assert capsys.readouterr().out.startswith(prompt)
