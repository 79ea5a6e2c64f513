"""What the files of media had, and what was changed of them, as preparation has written it down: a count a sentence."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.data.split import SPLITS
from media.kinds import NAMES

CHANGES = {
    "moving": "{} move: their first frame was taken",
    "turned": "{} were turned as their EXIF orientation says",
    "16 bit": "{} had 16 bits a pixel, which were scaled to 8",
    "transparent": "{} were transparent and were put on white",
    "colours": "{} had other colours than RGB (grey, a palette, CMYK) and were converted",
    "size": "{} had another size, {range}, and were made {wanted}",
    "rate": "{} had another rate, {range}, and were resampled to {wanted}",
    "channels": "{} had several channels, which were mixed into one",
}


@dataclass
class Facts:
    """Of one kind: how many media there are, how many were changed how, and how many have which `size` (width and
    height), `rate` or `seconds` (in tenths)."""

    total: int = 0
    changed: Counter[str] = field(default_factory=Counter)
    values: dict[str, Counter[Any]] = field(default_factory=dict)

    def add(self, medium: Mapping[str, Any]) -> None:
        self.total += 1
        self.changed.update(medium["changes"])
        for name in {"size", "rate", "seconds"} & set(medium):
            value = medium[name]
            value = tuple(value) if name == "size" else round(value, 1)
            self.values.setdefault(name, Counter())[value] += 1


def read(folder: Path) -> dict[str, Facts]:
    """Return the facts of each kind in a prepared folder."""
    facts: dict[str, Facts] = {}
    for split in SPLITS:
        for line in _lines(folder / f"{split}.documents.jsonl"):
            for medium in json.loads(line)["media"]:
                facts.setdefault(medium["kind"], Facts()).add(medium)
    return facts


def said(facts: Mapping[str, Facts], processors: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each kind of change."""
    for kind, found in facts.items():
        processor = processors[kind]
        wanted = (processor.shape[2], processor.shape[1]) if kind == "image" else processor.rate
        for change, count in found.changed.items():
            values = {value for value in found.values.get(change, ()) if value != wanted}
            who = f"{count:,} of {found.total:,} {NAMES[kind][1]}"
            yield CHANGES[change].format(who, range=span(values), wanted=shown(wanted)) + "."


def described(facts: Mapping[str, Facts]) -> Iterator[str]:
    """Yield a sentence for each kind: how many there are, how large, at which rates, how long."""
    for kind, found in facts.items():
        values, many = found.values, f"{found.total:,} {NAMES[kind][found.total != 1]}"
        if kind == "image":
            (size, count), *_ = values["size"].most_common(1)
            yield f"{many} of {span(values['size'])}; {count / found.total:.0%} are {shown(size)}"
        else:
            rates = ", ".join(f"{shown(rate)} ({n / found.total:.0%})" for rate, n in values["rate"].most_common(5))
            seconds = sorted(values["seconds"].elements())
            half = seconds[len(seconds) // 2]
            yield f"{many} of {seconds[0]:g} to {seconds[-1]:g} s, half of them up to {half:g} s; at {rates}"


def left_out(folder: Path) -> str:
    """Return the sentence about documents whose media cannot be used, "" where there are none."""
    count = sum(1 for split in SPLITS for _ in _lines(folder / f"{split}.skipped.jsonl"))
    place = (folder / "*.skipped.jsonl").as_posix()
    return f"{count:,} documents with media that cannot be used were left out; {place} lists them." if count else ""


def span(values: Any) -> str:
    """Return the least and the most of sizes or rates."""
    ordered = sorted(values, key=lambda value: (math.prod(value), value) if isinstance(value, tuple) else value)
    return " to ".join(dict.fromkeys(map(shown, (*ordered[:1], *ordered[-1:]))))


def shown(value: Any) -> str:
    return f"{value[0]}x{value[1]}" if isinstance(value, tuple) else f"{value:,} Hz"


def _lines(file: Path) -> Iterator[str]:
    if file.is_file():
        with file.open(encoding="utf-8", errors="surrogatepass") as lines:
            yield from lines
