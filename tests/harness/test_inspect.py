import logging

import pytest
import torch
from tokenizers import Tokenizer, models

from harness.errors import UserError
from lm.batch import TokenBatch


def looking(vocab_size: int = 10) -> TokenBatch:
    return TokenBatch(Tokenizer(models.WordLevel()), vocab_size)


IDS = torch.tensor([[5, 6, 7, 8], [9, 0, 0, 0]])


def batch(labels: list[list[int]]) -> dict[str, torch.Tensor]:
    return {"input_ids": IDS, "labels": torch.tensor(labels)}


MASKED = batch([[5, 6, -100, 6], [9, -100, -100, -100]])


def test_composition_counts_after_the_shift():
    assert looking().describe(MASKED) == {
        "rows": 2, "positions": 4, "ids": [0, 9], "labels": [5, 9], "distinct_labels": 3,
        "common_labels": {6: 2, 5: 1, 9: 1}, "without_label": 4, "valid": 2,
        "rows_without_label": 1, "padding_share": 3 / 8,
    }  # fmt: skip


def test_composition_of_a_batch_without_labels():
    facts = looking().describe(batch([[-100] * 4] * 2) | {"attention_mask": IDS != 0})
    assert facts["labels"] is None and facts["valid"] == 0 and facts["padding_share"] == 3 / 8


def test_a_row_without_a_label_is_said_once_and_counted(caplog):
    inspector = looking(10)
    with caplog.at_level(logging.WARNING):
        for step in range(3):
            inspector.check(MASKED, step)
    (message,) = caplog.messages
    assert "1 of 2 rows have no label" in message
    assert "Of the batch's 8 positions 4 say -100 and the loss counts 2; its ids go from 0 to 9" in message
    assert inspector.rows_without_label == 3


def test_a_row_whose_only_label_is_its_first_token_has_none(caplog):
    inspector = looking(10)
    inspector.check(batch([[5, 6, 7, 8], [9, -100, -100, -100]]), 0)
    assert inspector.rows_without_label == 1


@pytest.mark.parametrize(
    ("labels", "where"),
    [
        ([[5, 6, 7, 8], [9, 10, 0, 0]], r"labels\[1, 1\] is 10"),
        ([[5, 6, 7, -1], [9, 0, 0, 0]], r"labels\[0, 3\] is -1,"),
    ],
)
def test_an_id_outside_the_vocabulary_is_named(labels, where):
    with pytest.raises(UserError, match=where):
        looking(10).check(batch(labels), 0)
    with pytest.raises(UserError, match=r"input_ids\[1, 0\] is 9, but the model's vocabulary has 9 tokens"):
        looking(9).check({"input_ids": IDS, "labels": torch.zeros(2, 4, dtype=torch.long)}, 0)


def test_a_good_batch_passes_in_silence(caplog):
    looking(10).check(batch([[5, 6, 7, 8], [9, 0, -100, -100]]), 0)
    assert not caplog.messages
