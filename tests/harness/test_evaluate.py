"""evaluate.py beyond today's windows: sliding ones."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from harness.data.layout import read_ends
from harness.errors import UserError
from lm.data.prepare import Prepared
from lm.inference.evaluate import evaluate, validation_data
from lm.inference.load import Trained, load

CONTEXT = 16


def slid(trained: Trained, tokens: torch.Tensor, stride: int) -> tuple[float, int]:
    """Return (nats, tokens) by the loop of transformers' page on perplexity, a window at a time."""
    nats, counted, until = 0.0, 0, 0
    for begin in range(0, len(tokens), stride):
        end = min(begin + CONTEXT, len(tokens))
        window = tokens[begin:end]
        with torch.no_grad():
            logits = trained.model(window[None]).logits[0]
        new = max(1, until - begin)  # the first token of all is predicted by nothing
        nats += cross_entropy(logits[new - 1 : -1], window[new:], reduction="sum").item()
        counted, until = counted + len(window) - new, end
        if end == len(tokens):
            break
    return nats, counted


def documents(prepared: Prepared) -> list[torch.Tensor]:
    numbers = torch.from_numpy(np.fromfile(prepared.numbers("val"), dtype=prepared.dtype).astype(np.int64))
    return list(numbers.tensor_split(read_ends(prepared.ends("val"))[:-1].tolist()))


@pytest.mark.parametrize("packing", ["true", "document", "false"])
def test_a_sliding_window_is_that_of_a_loop_written_by_hand(train: Callable[..., Path], capsys, packing: str) -> None:
    folder = train(f"data.packing={packing}", "trainer.max_steps=2", "trainer.log_every_n_steps=1")
    capsys.readouterr()
    evaluate(str(folder), None, [], as_json=True, stride=5)
    found = json.loads(capsys.readouterr().out)

    trained = load(str(folder))
    texts = documents(validation_data(trained)[""])
    sums = [slid(trained, text, 5) for text in ([torch.cat(texts)] if packing == "true" else texts)]
    nats, tokens = (sum(numbers) for numbers in zip(*sums, strict=True))
    assert found["sliding"]["tokens"] == tokens == sum(map(len, texts)) - len(sums)
    assert found["sliding"]["loss"] == pytest.approx(nats / tokens, rel=1e-5)
    assert found["sliding"]["loss"] != found["loss"] and found["sliding"]["stride"] == 5


def test_the_largest_stride_is_todays_window(train: Callable[..., Path], capsys) -> None:
    folder = train("trainer.max_steps=1")
    capsys.readouterr()
    evaluate(str(folder), None, [], as_json=True, stride=CONTEXT - 1)
    found = json.loads(capsys.readouterr().out)
    assert found["sliding"]["loss"] == pytest.approx(found["loss"], rel=1e-6)
    evaluate(str(folder), None, [], as_json=False, stride=4)
    assert "each token after at least 12 others (--stride 4):\n  loss " in capsys.readouterr().out
    with pytest.raises(UserError, match="--stride 16 is too large for a context of 16 tokens"):
        evaluate(str(folder), None, [], as_json=False, stride=CONTEXT)


def test_each_set_of_a_mixture_is_scored_both_ways(train: Callable[..., Path], corpus: Path, capsys) -> None:
    sets = f"{{a:{{data:text,path:'{corpus}',weight:1}},b:{{data:text,path:'{corpus}',weight:2}}}}"
    folder = train("data=mixture", f"data.sets={sets}", "trainer.max_steps=1")
    capsys.readouterr()
    evaluate(str(folder), None, [], as_json=True, stride=8)
    found = json.loads(capsys.readouterr().out)
    for way in (found, found["sliding"]):
        assert way["tokens"] == sum(numbers["tokens"] for numbers in way["sets"].values())
        assert all(numbers["bits_per_byte"] > 0 for numbers in way["sets"].values())
