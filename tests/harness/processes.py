"""Training as its own process, to be killed, signalled and started again as a user or a cluster would."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from places import NO_USER_HAS, PATIENCE, PROJECT


class Started:
    """`python WORDS`, started; its output goes to a file, for a pipe that nobody reads would block it."""

    def __init__(self, folder: Path, words: list[str], **environment: str) -> None:
        clean = {name: value for name, value in os.environ.items() if name not in NO_USER_HAS}
        clean |= {"PYTHONUTF8": "1", "COLUMNS": "200", "OMP_NUM_THREADS": "1", **environment}
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"output-{time.monotonic_ns()}.txt"
        with self.log.open("wb") as output:
            if words[0].endswith(".py"):
                words = [str(PROJECT / words[0]), *words[1:]]
            self.popen = subprocess.Popen(
                [sys.executable, *words], cwd=folder, env=clean, stdout=output, stderr=subprocess.STDOUT
            )

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def send(self, number: int) -> None:
        self.popen.send_signal(number)

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()

    def ended(self) -> int:
        """Wait for the end and return the exit code, negative for a signal that nobody handled."""
        try:
            return self.popen.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.popen.send_signal(signal.SIGABRT)  # faulthandler writes the stacks
            self.popen.wait(10)
            raise AssertionError(f"It did not end:\n{self.output[-4000:]}") from None

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; fail when the process ends before."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self.popen.poll() is None, f"It ended with {self.popen.returncode}:\n{self.output[-4000:]}"
            assert time.monotonic() < deadline, f"It did not get there:\n{self.output[-4000:]}"
            time.sleep(0.005)


class Process(Started):
    """`python train.py OVERRIDES`, or `python -m lm COMMAND OVERRIDES`."""

    def __init__(self, folder: Path, overrides: list[str], *, command: str = "", **environment: str) -> None:
        super().__init__(folder, [*(["-m", "lm", command] if command else ["train.py"]), *overrides], **environment)


def without_traceback(output: str) -> bool:
    return "Traceback" not in output
