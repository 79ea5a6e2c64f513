"""Sources of text that can hold media, read with them: Image and Audio columns of data=hf, parts of data=chat."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.data.documents import MARK, Document, Medium
from harness.data.tables import HfSource
from lm.data.chat import ChatSource
from media.files import NamesFiles, from_base64, from_cell, from_file, json_table, plain
from media.kinds import KINDS

FEATURES = {"Image": "image", "Audio": "audio"}  # of `datasets`
SPELLED = re.compile("<(image|audio)>")
NAMED = {"image": ("images", "image"), "audio": ("audios", "audio")}  # columns beside a conversation


class HfMedia(HfSource):
    """Each row's media, in the order of the columns, in front of its text."""

    def chosen(self, table: Any) -> Any:
        import datasets  # takes seconds, and `check` is asked before anything heavy may be imported

        self.columns: dict[str, str] = {}
        for name, feature in table.features.items():
            inner: Any = getattr(feature, "feature", feature[0] if isinstance(feature, list) else feature)
            if kind := FEATURES.get(type(inner).__name__):
                self.columns[name] = kind
                raw = type(inner)(decode=False)  # decoded here: `datasets` would want torchcodec
                table = table.cast_column(name, raw if inner is feature else datasets.List(raw))
        return table.select_columns([name for name in (self.column, *self.columns) if name in table.column_names])

    def document(self, name: str, row: Any) -> Document:
        text, folder = super().document(name, row).text, Path(self.path).expanduser()
        folder = folder if folder.is_dir() else folder.parent
        media = [m for column, kind in self.columns.items() for m in from_cell(kind, row[column], folder, column)]
        return Document(name, MARK * len(media) + plain(text), media=tuple(media)) if media else Document(name, text)


class ChatMedia(NamesFiles, ChatSource):
    """OpenAI's content parts, those of the hub beside `images` or `audios`, and LLaVA's <image> beside `image`."""

    def rows(self, file: Path) -> Iterator[tuple[int, Any]]:
        self.folder = file.parent
        return json_table(file)

    def document(self, name: str, row: Any) -> Document:
        if not isinstance(row, dict):
            return super().document(name, row)
        turns, media = self._read(row)
        found = super().document(name, {"messages": turns})
        return Document(name, found.text, found.loss_spans, media)

    def media_of(self, row: Any) -> tuple[Medium, ...]:
        """Return the media of a row. Raises ValueError."""
        return self._read(row)[1] if isinstance(row, dict) else ()

    def _read(self, row: dict[str, Any]) -> tuple[list[Any], tuple[Medium, ...]]:
        media: list[Medium] = []
        beside = {kind: iter(self._beside(kind, row)) for kind in KINDS}
        turns = [self._turn(turn, beside, media) for turn in row.get("messages") or row.get("conversations") or ()]
        if left := [kind for kind in KINDS if next(beside[kind], None)]:
            raise ValueError(f"has more in {NAMED[left[0]][0]!r} than places for them")
        return turns, tuple(media)

    def _beside(self, kind: str, row: dict[str, Any]) -> list[Medium]:
        return [m for name in NAMED[kind] for m in from_cell(kind, row.get(name), self.folder, name)]

    def _turn(self, turn: Any, beside: dict[str, Iterator[Medium]], media: list[Medium]) -> Any:
        """Return a turn whose content is text with a MARK for each medium, which is appended to `media`."""
        if not isinstance(turn, dict):
            return turn
        key = "content" if "content" in turn else "value"
        content = turn.get(key)
        if isinstance(content, list):
            content = "".join(self._part(part, beside, media) for part in content)
        elif isinstance(content, str):
            content = self._spelled(plain(content), beside, media)
        return {**turn, key: content}

    def _part(self, part: Any, beside: dict[str, Iterator[Medium]], media: list[Medium]) -> str:
        if not isinstance(part, dict):
            raise ValueError(f"{part!r} is not a part of a content")
        kind = str(part.get("type"))
        if kind == "text":
            return plain(str(part.get("text", "")))
        if kind == "image_url":
            url = part.get("image_url")
            media.append(from_file(str(url.get("url") if isinstance(url, dict) else url), self.folder, "image"))
        elif kind == "input_audio" and isinstance(part.get("input_audio"), dict):
            media.append(from_base64("audio", part["input_audio"].get("data"), "an input_audio"))
        elif kind in KINDS:
            given = from_cell(kind, part.get(kind) or part.get("path") or part.get("url"), self.folder, kind)
            media += given or [_next(kind, beside)]
        else:
            raise ValueError(f"a part of type {kind!r} is neither text nor a picture or a sound")
        return MARK

    def _spelled(self, text: str, beside: dict[str, Iterator[Medium]], media: list[Medium]) -> str:
        """Let <image> stand for the next of the pictures beside the conversation; without one it stays text."""

        def placed(found: re.Match[str]) -> str:
            medium = next(beside[found[1]], None)
            media.extend([medium] if medium else [])
            return MARK if medium else found[0]

        return SPELLED.sub(placed, text)


def _next(kind: str, beside: dict[str, Iterator[Medium]]) -> Medium:
    medium = next(beside[kind], None)
    if medium is None:
        raise ValueError(f"has a place for a {kind} that is nowhere")
    return medium


def with_media(source: Any) -> Any:
    """Return a source of text as one that reads its media, too; one of another class as it is."""
    readers: dict[type[Any], type[Any]] = {HfSource: HfMedia, ChatSource: ChatMedia}
    reader = readers.get(type(source))
    if reader is None:
        return source
    reading = object.__new__(reader)
    vars(reading).update(vars(source))
    return reading
