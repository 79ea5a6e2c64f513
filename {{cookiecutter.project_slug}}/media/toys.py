"""Pictures and sounds that need no download, made by numpy. Each answer is four words that only its medium can tell:
guessing costs 4 ln 6 nats for colours and 4 ln 8 for notes.
"""

import io
import wave
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw

from harness.data.documents import MARK, Document, Medium
from harness.errors import UserError
from media.kinds import NAMES

COLOURS = {
    "red": (220, 40, 40), "green": (40, 160, 60), "blue": (40, 70, 220),
    "yellow": (240, 210, 40), "black": (20, 20, 20), "white": (250, 250, 250),
}  # fmt: skip
NOTES = ("do", "re", "mi", "fa", "sol", "la", "ti", "high do")
HERTZ = (261.63, 293.66, 329.63, 349.23, 392.00, 440.00, 493.88, 523.25)
SIDE, RATE, SECONDS = 224, 16_000, 2.0


class Toy:
    """`count` documents, a function of their number alone: a medium and the four words that name what is in it. With
    `shuffled` the words are of another document: a run on these must be told not to look."""

    kinds: tuple[str, ...]

    def __init__(self, count: int = 1000, shuffled: bool = False) -> None:
        self.count, self.shuffled = count, shuffled

    def check(self) -> None:
        if self.count < 1:
            raise UserError(f"data.source.count={self.count} documents are too few.")

    def fingerprint(self) -> str:
        return f"{type(self).__name__} {self.count} {self.shuffled} 1"

    def documents(self) -> Iterator[Document]:
        for number in range(self.count):
            document = self.document(number)
            other = self.document((number + 2) % self.count) if self.shuffled else document  # of the same kind
            yield replace(document, text=other.text)

    def document(self, number: int) -> Document:
        raise NotImplementedError


class Colours(Toy):
    """A coloured shape in each quarter of a grey picture: top left, top right, bottom left, bottom right."""

    kinds = ("image",)

    def document(self, number: int) -> Document:
        generator = np.random.default_rng([number, 1])
        shade = int(generator.integers(100, 156))
        image = Image.new("RGB", (SIDE, SIDE), (shade, shade, shade))
        canvas, half, words = ImageDraw.Draw(image), SIDE // 2, []
        for left, top in ((0, 0), (half, 0), (0, half), (half, half)):
            words.append(str(generator.choice(list(COLOURS))))
            size = int(generator.integers(half // 2, half - 16))
            x, y = (int(generator.integers(4, half - size - 4)) for _ in range(2))
            box = (left + x, top + y, left + x + size, top + y + size)
            (canvas.ellipse if generator.random() < 0.5 else canvas.rectangle)(box, fill=COLOURS[words[-1]])
        stream = io.BytesIO()
        image.save(stream, "PNG", compress_level=1)
        return _answered("image", f"picture {number}", stream.getvalue(), words)


class Notes(Toy):
    """Four notes of half a second each."""

    kinds = ("audio",)

    def document(self, number: int) -> Document:
        generator = np.random.default_rng([number, 2])
        chosen = generator.integers(0, len(NOTES), 4)
        time = np.arange(int(RATE * SECONDS / 4)) / RATE
        fade = np.minimum(1, np.minimum(time, time[::-1]) / 0.02)
        tones = [
            fade * sum(np.sin(2 * np.pi * HERTZ[note] * n * time + generator.uniform(0, 6.28)) / n for n in (1, 2, 3))
            for note in chosen
        ]
        samples = np.concatenate(tones) * generator.uniform(0.1, 0.4) + generator.normal(0, 0.003, 4 * len(time))
        stream = io.BytesIO()
        with wave.open(stream, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())
        return _answered("audio", f"melody {number}", stream.getvalue(), [NOTES[note] for note in chosen])


class Both(Toy):
    """Pictures and melodies in turn."""

    kinds = ("image", "audio")

    def document(self, number: int) -> Document:
        return (Notes if number % 2 else Colours)().document(number // 2)


def _answered(kind: str, name: str, data: bytes, words: list[str]) -> Document:
    return Document(name, MARK + " ".join(words), media=(Medium(kind, data, f"its {NAMES[kind][0]}"),))
