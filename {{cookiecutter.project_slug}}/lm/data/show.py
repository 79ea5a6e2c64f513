"""Print what the model is given: windows of tokens, decoded, with the label of every token in colour."""

from itertools import islice

from rich.console import Console
from rich.text import Text
from tokenizers import Tokenizer
from torch import Tensor

from harness.sequences import padding
from lm.batch import NO_LABEL
from lm.data.datamodule import LmData

# Coloured behind the letters, so that spaces show; two shades, so that neighbouring tokens can be told apart.
LEARNED = ("white on green4", "white on dark_green")
CONTEXT = ("dim", "dim italic")
LEGEND = "«green»: the loss counts these tokens. Dim: the model reads them and is not asked to predict them."


def show(data: LmData, *, windows: int, console: Console | None = None) -> None:
    """Print the first windows of both splits, as training and validation will see them."""
    console = console or Console(soft_wrap=True, highlight=False)
    console.print(LEGEND)
    for split, loader in (("train", data.train_dataloader()), ("val", data.val_dataloader())):
        rows = (row for batch in loader or () for row in zip(batch["input_ids"], batch["labels"], strict=True))
        for number, (ids, labels) in enumerate(islice(rows, windows)):
            counted = f"the loss counts {learned(labels)} of them"
            console.print(f"\n{split} window {number}: {len(ids)} tokens, {counted}", style="bold")
            console.print(painted(data.tokenizer, ids, labels))


def learned(labels: Tensor) -> int:
    """Return how many positions of a row (T,) the loss counts. The first has none before it that could predict it."""
    return int((labels[1:] != NO_LABEL).sum())


def painted(tokenizer: Tokenizer, ids: Tensor, labels: Tensor) -> Text:
    """Return one row (T,) as text with its labels in colour, and between « and » for terminals without."""
    text, inside = Text(), False
    filler = int(padding({"input_ids": ids[None], "labels": labels[None]}).sum())
    row = zip(ids.tolist(), labels.tolist(), strict=True)
    for position, (token, label) in enumerate(islice(row, len(ids) - filler)):
        counts = position > 0 and label != NO_LABEL
        if counts != inside:
            text.append("«" if counts else "»", style="bold green")
            inside = counts
        text.append(_written(tokenizer, token), style=(LEARNED if counts else CONTEXT)[position % 2])
        if counts and label != token:  # the loss shifts: a label is the token of its own position, or they are wrong
            text.append(f"(label {_written(tokenizer, label)})", style="bold red")
    text.append("»" if inside else "", style="bold green")
    return text.append(f" and {filler} tokens of padding" if filler else "", style="dim")


def _written(tokenizer: Tokenizer, token: int) -> str:
    """Return a token's text; where it is only a part of a character, its name in the vocabulary."""
    text = str(tokenizer.decode([token], skip_special_tokens=False))
    return f"<{tokenizer.id_to_token(token)}>" if "\ufffd" in text else text
