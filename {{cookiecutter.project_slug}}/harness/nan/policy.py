"""What to do about skipped steps: go on, leave fp16, go back to a checkpoint, or stop. Numbers in, a decision out."""

from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any


class Action(Enum):
    GO_ON = "go on"
    FALL_BACK = "fall back"  # from fp16 to a wider format
    ROLL_BACK = "roll back"
    STOP = "stop"


@dataclass
class Policy:
    """Counts bad steps; good ones are forgotten slowly, so that one bad step in a hundred never adds up.

    patience: bad steps that are too many. forgive: what one good step takes off their count.
    """

    patience: int = 3
    forgive: float = 0.1
    max_rollbacks: int = 3
    count: float = 0.0
    first_bad: int | None = None  # the step with which the present trouble began
    rollbacks: int = 0

    def good(self) -> None:
        self.count = max(0.0, self.count - self.forgive)
        if self.count == 0:
            self.first_bad = None

    def bad(self, step: int, *, weights_finite: bool, can_fall_back: bool) -> Action:
        """Judge a skipped step. A non-finite weight spoils every later step: there patience is no help, nor is bf16."""
        self.count += 1
        self.first_bad = step if self.first_bad is None else self.first_bad
        if weights_finite and self.count < self.patience:
            return Action.GO_ON
        if weights_finite and can_fall_back:
            return Action.FALL_BACK
        return Action.STOP if self.rollbacks >= self.max_rollbacks else Action.ROLL_BACK

    def acted(self, action: Action) -> None:
        """Begin to count anew after acting."""
        self.count, self.first_bad = 0.0, None
        self.rollbacks += action is Action.ROLL_BACK

    def state_dict(self) -> dict[str, Any]:
        return {key: asdict(self)[key] for key in ("count", "first_bad", "rollbacks")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count, self.first_bad, self.rollbacks = state["count"], state["first_bad"], state["rollbacks"]
