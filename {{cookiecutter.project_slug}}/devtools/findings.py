"""One line of a check: ok, warning or failure, and its cure. The form that check_setup and check_data share."""

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal


@dataclass(frozen=True)
class CheckResult:
    """`check` names what was looked at, `message` what was found; `cure` is what to type or to change."""

    level: Literal["ok", "warning", "failure"]
    check: str
    message: str
    cure: str = ""

    def __str__(self) -> str:
        line = f"{self.level:<8} {self.check:<12} {self.message}"
        return f"{line}\n{'':<22}-> {self.cure}" if self.cure else line


def ok(check: str, message: str) -> CheckResult:
    return CheckResult("ok", check, message)


def warning(check: str, message: str, cure: str) -> CheckResult:
    return CheckResult("warning", check, message, cure)


def failure(check: str, message: str, cure: str) -> CheckResult:
    return CheckResult("failure", check, message, cure)


def report(findings: Iterable[CheckResult], *, as_json: bool) -> None:
    """Print each finding when it is made, and exit with 1 if one is a failure."""
    found = []
    for finding in findings:
        found.append(finding)
        if not as_json:
            print(finding, flush=True)
    counts = {level: sum(finding.level == level for finding in found) for level in ("ok", "warning", "failure")}
    if as_json:
        print(json.dumps({**counts, "findings": [asdict(finding) for finding in found]}, indent=2))
    else:
        print(f"{counts['ok']} ok, {counts['warning']} warnings, {counts['failure']} failures")
    sys.exit(1 if counts["failure"] else 0)
