"""What a callback may know of the run that it is part of. Handed on by the entry, not read back from the disk."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True)
class RunFacts:
    """id: 16 hex digits, the same in every attempt. identity: of the experiment, by its config. attempt: 1 for the
    first start. versions: of the libraries that decide what is computed."""

    id: str | None = None
    identity: str | None = None
    attempt: int = 1
    versions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, diary: Mapping[str, Any]) -> Self:
        """Return the facts of the attempt that a run's diary describes last."""
        attempts = diary.get("attempts") or [{}]
        return cls(diary.get("id"), diary.get("identity"), len(attempts), attempts[-1].get("versions", {}))
