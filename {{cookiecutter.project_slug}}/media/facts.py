"""What the files of media had, and what was changed of them, as preparation has written it down: a count a sentence."""

import json
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
    "size": "{} had another size, {range}, and were made {shape}",
    "rate": "{} had another rate, {range}, and were resampled to {shape}",
    "channels": "{} had several channels, which were mixed into one",
}


@dataclass
class Facts:
    """Of one kind: how many media there are, how many were changed how, and the least and the most of what changed."""

    total: int = 0
    changed: Counter[str] = field(default_factory=Counter)
    ranges: dict[str, list[Any]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    def add(self, medium: Mapping[str, Any]) -> None:
        self.total += 1
        self.changed.update(medium["changes"])
        if "seconds" in medium:
            self.seconds.append(medium["seconds"])
        for change in {"size", "rate"} & set(medium["changes"]):
            value = medium[change]
            least, most = self.ranges.setdefault(change, [value, value])
            self.ranges[change] = [min(least, value, key=_amount), max(most, value, key=_amount)]


def read(folder: Path) -> tuple[dict[str, Facts], int]:
    """Return the facts of each kind in a prepared folder, and how many documents were left out."""
    facts: dict[str, Facts] = {}
    left_out = 0
    for split in SPLITS:
        for line in _lines(folder / f"{split}.documents.jsonl"):
            for medium in json.loads(line)["media"]:
                facts.setdefault(medium["kind"], Facts()).add(medium)
        left_out += sum(1 for _ in _lines(folder / f"{split}.skipped.jsonl"))
    return facts, left_out


def said(folder: Path, processors: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each kind of change, and one for what was left out."""
    found, left_out = read(folder)
    for kind, facts in found.items():
        for change, count in facts.changed.items():
            least, most = (_shown(value) for value in facts.ranges.get(change, ("", "")))
            shape = (
                f"{processors[kind].shape[2]}x{processors[kind].shape[1]}"
                if kind == "image"
                else f"{processors[kind].rate:,} Hz"
            )
            who = f"{count:,} of {facts.total:,} {NAMES[kind][1]}"
            yield CHANGES[change].format(who, range=least if least == most else f"{least} to {most}", shape=shape) + "."
    if left_out:
        place = (folder / "train.skipped.jsonl").as_posix().replace("train.", "*.")
        yield f"{left_out:,} documents with media that cannot be used were left out; {place} lists them."


def _lines(file: Path) -> Iterator[str]:
    if file.is_file():
        with file.open(encoding="utf-8", errors="surrogatepass") as lines:
            yield from lines


def _amount(value: Any) -> float:
    return float(value[0] * value[1]) if isinstance(value, list) else float(value)


def _shown(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list) else f"{value:,} Hz" if value else ""
