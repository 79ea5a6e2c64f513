"""The one exception for people: what happened, then what to type next. `harness.cli` prints it and exits with its
code."""

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


class Stopped(UserError):
    """Training was asked to stop between two optimizer steps, by `why`, and goes on with the same command."""

    def __init__(self, why: str, *, code: int) -> None:
        super().__init__(f"Stopped by {why}.", cure="The same command goes on from here.", code=code)
        self.why = why
