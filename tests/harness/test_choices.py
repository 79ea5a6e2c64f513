"""Multiple-choice questions: while training and after, and what is no question."""

import csv
import json
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from places import PROJECT
from safetensors.torch import load_file

from harness.data.choices import Question, graded, read_questions
from harness.errors import UserError
from harness.telemetry import events
from lm.inference.evaluate import evaluate
from lm.inference.load import load

SHIPPED = PROJECT / "devtools" / "choices.jsonl"
ON = ("callbacks=[default,choices]",)


def answers(folder: Path, file: Path, capsys) -> dict:
    capsys.readouterr()
    evaluate(str(folder), None, [], as_json=True, choices=str(file))
    return json.loads(capsys.readouterr().out)


def by_hand(folder: Path, questions: list[Question]) -> tuple[int, int]:
    """Return how many questions are answered right, a text at a time, and how many where length does not count."""
    trained = load(str(folder))
    right, right_by_length = 0, 0
    for ctx, endings, label in questions:
        sums = []
        for ending in endings:
            before = len(trained.tokenizer.encode(ctx).ids)
            ids = torch.tensor(trained.tokenizer.encode(f"{ctx} {ending}").ids)
            with torch.no_grad():
                says = trained.model(ids[None]).logits[0].log_softmax(-1)
            sums.append(sum(says[at - 1, ids[at]].item() for at in range(before, len(ids))))
        right += max(range(len(sums)), key=sums.__getitem__) == label
        shares = [value / len(ending) for value, ending in zip(sums, endings, strict=True)]
        right_by_length += max(range(len(sums)), key=shares.__getitem__) == label
    return right, right_by_length


def test_the_answers_while_training_and_after_are_those_computed_by_hand(train: Callable[..., Path], capsys) -> None:
    folder = train(*ON, "model.config.max_position_embeddings=128", "optimizer.lr=1e-2")
    questions = read_questions(SHIPPED)
    found = answers(folder, SHIPPED, capsys)
    right, by_length = by_hand(folder, questions)
    assert (found["accuracy"], found["accuracy_norm"]) == (right / 20, by_length / 20)
    assert found["questions"] == len(questions) == 20 and found["cut"] == 0

    said = [e for e in events.read(events.log_path(folder)) if e["event_type"] == "validation"]
    assert said[-1]["step"] == found["step"] == 6
    assert said[-1]["data"]["choices_acc"] == pytest.approx(found["accuracy"])
    assert said[-1]["data"]["choices_acc_norm"] == pytest.approx(found["accuracy_norm"])
    rows = csv.DictReader((folder / "metrics.csv").read_text(encoding="utf-8").splitlines())
    assert float([row["val/choices_acc"] for row in rows if row["val/choices_acc"]][-1]) == pytest.approx(right / 20)


def test_neither_length_nor_place_gives_a_shipped_answer_away() -> None:
    questions = read_questions(SHIPPED)
    places = Counter(sorted(q.endings, key=len).index(q.endings[q.label]) for q in questions)
    assert places == Counter(q.label for q in questions) == dict.fromkeys(range(4), 5)


def test_the_length_of_an_ending_decides_where_it_should() -> None:
    two = [Question("x", ["yes", "certainly"], 1), Question("x", ["a", "b"], 0)]
    assert graded(two, [-3.0, -4.0, -1.0, -2.0], cut=0)[:2] == (0.5, 1.0)


@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback")
def test_the_training_does_not_notice(train: Callable[..., Path], caplog) -> None:
    caplog.set_level(logging.INFO)
    # With dropout, so that a random number taken away would show; with an average, which is what answers.
    often = ("+model.config.attention_dropout=0.3", "trainer.val_check_interval=2", "trainer.max_steps=4")
    asked = train("run.name=a", "callbacks=[default,ema,choices]", *often)
    without = train("run.name=b", "callbacks=[default,ema]", *often)
    a, b = (
        load_file(sorted(folder.glob("checkpoints/step-*"))[-1] / "model.safetensors") for folder in (asked, without)
    )
    assert all(torch.equal(a[name], b[name]) for name in b)
    assert "Step 2: accuracy " in caplog.text and "texts are cut at the context" in caplog.text


def test_the_questions_do_not_name_a_run(compose) -> None:
    assert compose(*ON).run.name == compose().run.name


def test_weights_that_are_not_finite_are_a_sentence(train: Callable[..., Path], monkeypatch, capsys) -> None:
    folder = train("trainer.max_steps=1")
    monkeypatch.setattr(
        "lm.inference.evaluate.logits_of", lambda _, batch: torch.full((*batch["input_ids"].shape, 300), torch.nan)
    )
    with pytest.raises(UserError, match="not finite"):
        answers(folder, SHIPPED, capsys)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "is not a question: it is not JSON"),
        ("[]", r"is not a question: it is \[\]"),
        ('{"ctx": "a", "endings": ["b", "c"]}', "it has no 'label', but 'ctx', 'endings'"),
        ('{"ctx": "a", "endings": ["b", "c"], "label": 2}', "label=2 is none of 0 to 1"),
        ('{"ctx": "a", "endings": ["b", "c"], "label": ""}', "label='' is none of 0 to 1"),
        (
            '{"ctx": "a", "endings": ["b", " "], "label": 0}',
            "endings has to hold two texts or more, none of them empty",
        ),
        ('{"ctx": "", "endings": ["b", "c"], "label": 0}', "ctx has to be a text"),
    ],
)
def test_a_line_that_is_no_question_is_a_sentence_with_its_place(tmp_path: Path, line: str, sentence: str) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text(f'{{"ctx": "a", "endings": ["b", "c"], "label": "1"}}\n\n{line}\n', encoding="utf-8")
    with pytest.raises(UserError, match=f"q.jsonl:3 .*{sentence}"):
        read_questions(file)


def test_a_file_that_is_missing_or_empty_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no file of questions at"):
        read_questions(tmp_path / "nowhere.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(UserError, match="has no questions"):
        read_questions(tmp_path / "empty.jsonl")


def test_a_run_without_validation_is_told_so(train: Callable[..., Path], caplog) -> None:
    train(*ON, "data.val_fraction=0", "trainer.max_steps=1")
    assert "Choices measures at validations, and this run has none." in caplog.text
