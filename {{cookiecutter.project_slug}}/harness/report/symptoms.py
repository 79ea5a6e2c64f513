"""What a rule of a report says: a symptom leads to a cause, a cause to a cure. `docs/troubleshooting.md` has the same
symptoms at length."""

from collections.abc import Callable
from dataclasses import dataclass

from harness.report.record import RunRecord


@dataclass
class Symptom:
    """`level` is good, watch or bad. `page` is the section of docs/troubleshooting.md."""

    level: str
    title: str
    evidence: str
    try_next: str = ""
    page: str = ""


Rule = Callable[[RunRecord], Symptom | None]
RULES: list[Rule] = []


def rule(function: Rule) -> Rule:
    RULES.append(function)
    return function


def first_line(value: object) -> str:
    return (str(value or "").splitlines() or [""])[0]


def steps(found: list[int], most: int = 8) -> str:
    """Return `steps 10, 20 and 35 more` for a sentence."""
    shown = ", ".join(f"{step:,}" for step in found[:most])
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return f"step{'s' * (len(found) > 1)} {shown}{more}"
