"""Multiple-choice questions in HellaSwag's format, a JSON object a line: a beginning, its endings, which one is right.

{"ctx": "She strikes a match and", "endings": ["lights the candle.", "peels the pear."], "label": 0}

The answer is the ending with the largest log-likelihood, or with the largest for each of its characters, since a long
one has more to be unlikely in: acc and acc_norm of lm-eval.
"""

import reprlib
from pathlib import Path
from typing import Any, NamedTuple

from harness.data.files import json_rows
from harness.errors import UserError


class Question(NamedTuple):
    """`label` is the index of the right ending."""

    ctx: str
    endings: list[str]
    label: int


class Score(NamedTuple):
    """Shares of `questions` that are answered right. Of `cut` texts, a question with an ending, the beginning was lost
    for being too long."""

    accuracy: float
    accuracy_norm: float
    questions: int
    cut: int

    def __str__(self) -> str:
        cut = f"; {self.cut:,} texts are cut at the context" if self.cut else ""
        shares = f"accuracy {self.accuracy:.1%}, {self.accuracy_norm:.1%} where length does not count"
        return f"{shares}, on {self.questions:,} questions{cut}"


def graded(questions: list[Question], sums: list[float], *, cut: int) -> Score:
    """Grade the log-likelihoods `sums` of all endings, one question's after the other's."""
    right = right_by_length = at = 0
    for question in questions:
        own = sums[at : at + len(question.endings)]
        by_length = [value / len(ending) for value, ending in zip(own, question.endings, strict=True)]
        right += own.index(max(own)) == question.label
        right_by_length += by_length.index(max(by_length)) == question.label
        at += len(own)
    return Score(right / len(questions), right_by_length / len(questions), len(questions), cut)


def read_questions(file: Path) -> list[Question]:
    """Return the questions of a file. Raises UserError with file and line for one that is none."""
    if not file.is_file():
        cure = (
            "devtools/choices.jsonl ships; HellaSwag's own is data/hellaswag_val.jsonl of github.com/rowanz/hellaswag."
        )
        raise UserError(f"There is no file of questions at {file} (looked from {Path.cwd()}).", cure=cure)
    questions = []
    for number, row in json_rows(file):
        try:
            questions.append(_question(row))
        except ValueError as error:
            form = 'Each line is {"ctx": "…", "endings": ["…", "…"], "label": 0}.'
            raise UserError(f"{file}:{number} is not a question: {error}.", cure=form) from error
    if not questions:
        raise UserError(f"{file} has no questions: it is empty.")
    return questions


def _question(row: Any) -> Question:
    if isinstance(row, ValueError):
        raise ValueError(f"it is not JSON ({row})")
    if not isinstance(row, dict):
        raise ValueError(f"it is {reprlib.repr(row)}")
    if missing := [key for key in Question._fields if key not in row]:
        raise ValueError(f"it has no {missing[0]!r}, but {', '.join(map(repr, row)) or 'nothing'}")
    ctx, endings, label = (row[key] for key in Question._fields)
    if (
        not isinstance(ctx, str)
        or not ctx.strip()
        or not isinstance(endings, list)
        or not all(isinstance(e, str) for e in endings)
    ):
        raise ValueError("ctx has to be a text and endings a list of texts")
    if len(endings) < 2 or not all(ending.strip() for ending in endings):
        raise ValueError("endings has to hold two texts or more, none of them empty")
    if any("\ud800" <= character <= "\udfff" for text in (ctx, *endings) for character in text):
        raise ValueError("it has half of a character (a lone surrogate)")
    # HellaSwag's own files have numbers, what the hub has of them "3".
    if isinstance(label, bool) or not str(label).isdecimal() or int(label) >= len(endings):
        raise ValueError(f"label={reprlib.repr(label)} is none of 0 to {len(endings) - 1}")
    return Question(ctx, endings, int(label))
