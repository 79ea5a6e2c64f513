"""The one exception for people: what happened, then what to type next. `harness.cli` prints it and exits with its
code."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

BAD_INPUT = 2
STOPPED_BY_NAN = 3


class UserError(Exception):
    """A failure that its reader can cure.

    `what` says what happened and where the evidence is, `cure` what to type next; both are whole sentences and repeat
    the user's own spelling. `code` is the exit code of the command.
    """

    def __init__(self, what: str, *, cure: str = "", code: int = BAD_INPUT) -> None:
        super().__init__(what if not cure else f"{what} {cure}")
        self.what = what
        self.cure = cure
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        # Python would copy and unpickle it as `type(self)(message)`, which is not how these are made.
        return _again, (type(self), self.args, self.__dict__)


@contextmanager
def said_of(key: str) -> Iterator[None]:
    """Make a sentence about `key` of what a library raises for its values."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        what = " ".join(str(error).split())
        raise UserError(f"{key} cannot be built: {type(error).__name__}: {what}") from error


class Stopped(UserError):
    """Training was asked to stop between two optimizer steps, by `why`; `cure` says how it goes on."""

    def __init__(self, why: str, *, code: int, cure: str = "The same command goes on from here.") -> None:
        super().__init__(f"Stopped by {why}.", cure=cure, code=code)
        self.why = why


def _again(kind: type[UserError], args: tuple[Any, ...], state: dict[str, Any]) -> UserError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error
