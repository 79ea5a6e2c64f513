"""Print what the model is given: windows of tokens, decoded, with the label of every token in colour."""

from itertools import islice

from rich.console import Console
from tokenizers import Tokenizer

from harness.batch import Batch
from harness.data.painted import painted
from harness.sequences import padding
from lm.batch import NO_LABEL
from lm.data.datamodule import LmData

LEGEND = "«green»: the loss counts these tokens. Dim: the model reads them and is not asked to predict them."


def show(data: LmData, *, windows: int, console: Console | None = None) -> None:
    """Print the first windows of both splits, as training and validation will see them."""
    console = console or Console(soft_wrap=True, highlight=False)
    console.print(LEGEND)
    for split, loader in (("train", data.train_dataloader()), ("val", data.val_dataloader())):
        rows = ({name: batch[name][at] for name in batch} for batch in loader or () for at in range(data.batch_size))
        for number, row in enumerate(islice(rows, windows)):
            # The first has none before it that could predict it.
            counted = f"the loss counts {int((row['labels'][1:] != NO_LABEL).sum())} of them"
            console.print(f"\n{split} window {number}: {len(row['labels'])} tokens, {counted}", style="bold")
            console.print(painted(*getattr(data, "pieces_of", pieces_of)(data.tokenizer, row)))


def pieces_of(tokenizer: Tokenizer, row: Batch) -> tuple[list[tuple[str, bool, str]], str]:
    """Return the tokens of one row (T,) as `painted` takes them, and what is said after them."""
    filler = int(padding({name: values[None] for name, values in row.items()}).sum())
    pieces = []
    for position, (token, label) in enumerate(zip(row["input_ids"].tolist(), row["labels"].tolist(), strict=True)):
        counts = position > 0 and label != NO_LABEL
        # The loss shifts: a label is the token of its own position, or they are wrong.
        wrong = _written(tokenizer, label) if counts and label != token else ""
        pieces.append((_written(tokenizer, token), counts, wrong))
    return pieces[: len(pieces) - filler], f" and {filler} tokens of padding" if filler else ""


def _written(tokenizer: Tokenizer, token: int) -> str:
    """Return a token's text; where it is only a part of a character, its name in the vocabulary."""
    text = str(tokenizer.decode([token], skip_special_tokens=False))
    return f"<{tokenizer.id_to_token(token)}>" if "\ufffd" in text else text
