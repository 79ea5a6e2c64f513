"""Does it look? Scores of documents with their own media and another's, what a report says of them, and answers."""

from pathlib import Path

import pytest
import torch
from test_media_model import ears, eyes, model
from torch import Tensor

from harness.batch import Batch
from harness.report.learning import overlooked
from harness.report.record import RunRecord, validation
from lm.module import logits_of
from media.answers import answered
from media.shown import Shown, answer

CPU = torch.device("cpu")
WORDS = 5


def rows(count: int) -> list[dict[str, Tensor]]:
    """Documents whose picture is the number that their answer names."""
    return [
        {
            "input_ids": torch.tensor([9, number % WORDS, 0]),
            "labels": torch.tensor([-100, number % WORDS, -100]),
            "image": torch.full((1, 1), number % WORDS),
        }
        for number in range(count)
    ]


def looks(batch: Batch) -> Tensor:
    """A model that is nearly sure of what it is shown."""
    logits = torch.zeros(len(batch["image"]), 3, WORDS)
    logits[torch.arange(len(logits)), 0, batch["image"][:, 0, 0]] = 10.0
    return logits


def test_a_model_that_looks_loses_by_another_documents_picture() -> None:
    score = answered(looks, rows(12), "image", CPU)
    assert score.documents == 12 and score.right == 1.0
    assert score.own < 0.01 and score.other > 5


def test_a_model_that_does_not_look_loses_nothing() -> None:
    score = answered(lambda batch: torch.zeros(len(batch["image"]), 3, WORDS), rows(12), "image", CPU)
    assert score.own == pytest.approx(score.other) == pytest.approx(torch.tensor(5.0).log().item())
    assert score.right == pytest.approx(3 / 12)  # who always says the first word


@pytest.mark.parametrize(
    ("losses", "level", "said"),
    [
        ({"image": (0.12, 29.4), "audio": (0.17, 24.5)}, "good", "It uses what it is shown"),
        ({"image": (7.19, 7.25), "audio": (8.35, 8.35)}, "bad", "does not use its image and audio input"),
        ({"image": (0.12, 29.4), "audio": (8.35, 8.35)}, "bad", "does not use its audio input"),
    ],
)
def test_a_report_says_which_kind_is_not_used(losses: dict, level: str, said: str) -> None:
    record = RunRecord(Path("x"), {}, {})
    data = {f"{kind}/{name}": pair[at] for kind, pair in losses.items() for at, name in enumerate(("own", "other"))}
    validation(record, 300, {"loss": 1.0, **data})
    symptom = overlooked(record)
    assert symptom is not None and (symptom.level, said in symptom.title) == (level, True)
    assert overlooked(RunRecord(Path("x"), {}, {})) is None  # of a run of text


def test_an_answer_is_that_of_reading_everything_anew_for_each_token() -> None:
    network = model(image=eyes(), audio=ears()).eval()
    outputs = network.plans["image"].outputs
    ids, at = torch.randint(0, 50, (30,), generator=torch.Generator().manual_seed(0)), torch.full((30,), -1)
    at[1 : 1 + outputs] = torch.arange(outputs)
    picture = torch.randint(0, 256, (1, 3, 28, 28), dtype=torch.uint8)
    labels = torch.where(torch.arange(30) < 12, -100, ids)
    row = {"input_ids": ids, "labels": labels, "image": picture, "image_at": at}

    class Numbers:
        def decode(self, ids: list[int]) -> str:
            return " ".join(map(str, ids))

        def token_to_id(self, name: str) -> None:
            return None

    network.config.eos_token_id = None
    truth, made = answer(network, Numbers(), row, max_tokens=6)
    assert truth == " ".join(map(str, ids[12:].tolist()))
    read = ids[:12].tolist()
    with torch.no_grad():
        for _ in range(6):
            places = torch.nn.functional.pad(at[:12], (0, len(read) - 12), value=-1)
            batch = {"input_ids": torch.tensor([read]), "image": picture[None], "image_at": places[None]}
            read.append(int(logits_of(network, batch)[0, -1].argmax()))
    assert made == " ".join(map(str, read[12:]))


def test_a_cache_is_forgotten_where_another_row_is_read() -> None:
    network = model(image=eyes()).eval()
    shown = Shown(network, {})
    with torch.no_grad():
        for ids in ([[1, 2, 3]], [[1, 2, 3, 4]], [[5, 6]]):
            expected = network(input_ids=torch.tensor(ids)).logits[:, -1]
            torch.testing.assert_close(shown(torch.tensor(ids)).logits[:, -1], expected)
