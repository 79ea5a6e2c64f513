"""From text to batches: nothing is lost, nothing is in both splits, and the loss counts what it should."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import CONVERSATIONS

from harness.config.compose import compose
from lm.batch import NO_LABEL
from lm.fit import build_data
from lm.models.build import model_config

Load = Callable[..., Any]


@pytest.fixture
def load(small: list[str]) -> Load:
    """Prepare the data of the smallest run, changed by further overrides."""

    def load(*overrides: str) -> Any:
        cfg = compose([*small, *overrides])
        return build_data(cfg, model_config(cfg.model))

    return load


def text(data: Any, split: str) -> str:
    """Return a split's tokens as text again: windows overlap by one token."""
    windows = {"train": data.train_set, "val": data.val_set}[split]
    rows = [windows[index] for index in range(len(windows))]
    ids = [int(i) for n, row in enumerate(rows) for i in row["input_ids"][row["labels"] != NO_LABEL][n > 0 :]]
    return str(data.tokenizer.decode(ids, skip_special_tokens=False))


def test_every_document_is_in_one_split(load: Load, corpus: Path) -> None:
    data = load()
    documents = Counter(file.read_text(encoding="utf-8") for file in corpus.iterdir())
    train, val = (Counter(text(data, split).split("<|endoftext|>")[:-1]) for split in ("train", "val"))
    assert not train & val
    # Training drops the last tokens, which fill no window: at most one document is incomplete.
    assert sum((documents - train - val).values()) <= 1


def test_a_split_depends_on_text_and_seed_alone(load: Load) -> None:
    assert text(load(), "val") == text(load("data.batch_size=2", "run.name=other"), "val")
    assert text(load(), "val") != text(load("seed=1"), "val")


def test_a_batch_is_tokens_and_the_same_tokens_as_labels(load: Load) -> None:
    batch = next(iter(load().train_dataloader()))
    assert batch["input_ids"].shape == batch["labels"].shape == (4, 16)
    assert (batch["input_ids"] == batch["labels"]).all()
    assert batch["input_ids"].min() >= 0 and batch["input_ids"].max() < 300


def test_an_epoch_has_every_window_once_in_an_order_of_its_own(load: Load) -> None:
    one, other = (
        [tuple(row.tolist()) for batch in load(seed).train_dataloader() for row in batch["input_ids"]]
        for seed in ("data.num_workers=0", "data.batch_size=2")
    )
    windows = load().train_set
    known = Counter(tuple(windows[index]["input_ids"].tolist()) for index in range(len(windows)))
    assert one[:8] != [tuple(windows[index]["input_ids"].tolist()) for index in range(8)]
    assert one[:8] == other[:8]  # the order knows windows, not batches
    assert not Counter(one) - known and sum(known.values()) - len(one) < 4


def test_without_packing_a_row_is_one_document(load: Load) -> None:
    data = load("data.packing=false")
    assert len(data.train_set) + len(data.val_set) == 40


def test_the_loss_of_a_conversation_counts_the_assistant_alone(load: Load) -> None:
    size = "model.config.max_position_embeddings=256"
    data = load("data=chat", f"data.path={CONVERSATIONS}", "data.packing=false", "data.batch_size=1", size)
    row = data.train_set[0]
    counted = row["labels"] != NO_LABEL
    shown = data.tokenizer.decode(row["input_ids"].tolist(), skip_special_tokens=False)
    asked, _, answered = shown.partition("<|im_start|>assistant\n")
    assert asked and answered
    learned = data.tokenizer.decode(row["labels"][counted].tolist(), skip_special_tokens=False)
    assert learned == answered[: len(learned)] and learned.endswith("<|im_end|>")
    assert (row["labels"][counted] == row["input_ids"][counted]).all()
