"""A row of pieces of text for people: which of them the loss counts, and where a label is another."""

from collections.abc import Iterable

from rich.text import Text

# Coloured behind the letters, so that spaces show; two shades, so that neighbours can be told apart.
COUNTED = ("white on green4", "white on dark_green")
READ = ("dim", "dim italic")


def painted(pieces: Iterable[tuple[str, bool, str]], end: str = "") -> Text:
    """Return pieces, each a text, whether the loss counts it and, where it is another, its label, in colour, and
    between « and » for terminals without. `end` is said after them."""
    text, inside = Text(), False
    for position, (piece, counts, label) in enumerate(pieces):
        if counts != inside:
            text.append("«" if counts else "»", style="bold green")
            inside = counts
        text.append(piece, style=(COUNTED if counts else READ)[position % 2])
        if label:
            text.append(f"(label {label})", style="bold red")
    text.append("»" if inside else "", style="bold green")
    return text.append(end, style="dim")
