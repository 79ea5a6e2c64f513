"""A debugger's client in the tests: starts `python -m debugpy.adapter` and speaks the Debug Adapter Protocol with it.

    with Debugger(config, breakpoints=[Breakpoint(file, line, "math.isnan(loss)")]) as debugger:
        stop = debugger.wait_for_stop()
        assert stop.evaluate("loss") == "nan"
        stop.resume()
        assert debugger.wait_for_exit() == 0

It does what VS Code does: launches or attaches with the configuration's own fields, opens the terminal that the adapter
asks for, and a session for every child process.
"""

import contextlib
import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

from places import PATIENCE

Message = dict[str, Any]


class Breakpoint(NamedTuple):
    file: Path
    line: int
    condition: str | None = None


def line_of(file: Path, text: str) -> int:
    """Return the number of the first line that contains `text`."""
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if text in line:
            return number
    raise ValueError(f"{text!r} is not in {file}")


class Session:
    """One connection to the adapter: that of the launched process, or of one of its children."""

    def __init__(
        self,
        inbox: "queue.Queue[tuple[Session, Message]]",
        incoming: BinaryIO,
        outgoing: BinaryIO,
        connection: socket.socket | None = None,
    ) -> None:
        self.inbox = inbox
        self.incoming = incoming
        self.outgoing = outgoing
        self.connection = connection
        self.sent = 0
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def close(self) -> None:
        if self.connection:
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)  # wakes the reader, which closing does not
        self.reader.join(10)
        for stream in (self.outgoing, self.incoming, self.connection):
            with contextlib.suppress(OSError):  # what could not be sent any more
                if stream:
                    stream.close()

    def send(self, kind: str, **fields: Any) -> int:
        self.sent += 1
        body = json.dumps({"seq": self.sent, "type": kind, **fields}).encode()
        self.outgoing.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        self.outgoing.flush()
        return self.sent

    def _read(self) -> None:
        try:
            while header := self.incoming.readline():
                length = int(header.split(b":")[1])
                self.incoming.readline()  # the empty line after the header
                self.inbox.put((self, json.loads(self.incoming.read(length))))
        except (OSError, ValueError):
            return  # closed under our feet: the session is over


class Terminal:
    """The terminal that the adapter asks for: a program whose output is kept."""

    def __init__(self, wanted: Message) -> None:
        environ = {name: value for name, value in (os.environ | wanted.get("env", {})).items() if value is not None}
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self.process = subprocess.Popen(wanted["args"], cwd=wanted["cwd"], env=environ, **output)
        self.text = ""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def close(self) -> None:
        _end(self.process)
        self.reader.join(10)
        self.process.stdout.close()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.text += line.decode("utf-8", "replace")


def _end(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@dataclass
class Stop:
    """A process that stands still: where, why, and what its variables are."""

    debugger: "Debugger"
    session: Session
    reason: str
    text: str
    thread: int
    frame: Message

    @property
    def place(self) -> tuple[Path, int]:
        return Path(self.frame["source"]["path"]), self.frame["line"]

    def evaluate(self, expression: str) -> str:
        body = self.debugger.request(
            self.session, "evaluate", expression=expression, frameId=self.frame["id"], context="watch"
        )
        return str(body["result"])

    def resume(self) -> None:
        self.debugger.request(self.session, "continue", threadId=self.thread)


def _breakpoints(file: Path, points: Sequence[Breakpoint]) -> Message:
    here = [{"line": point.line, "condition": point.condition} for point in points if point.file == file]
    return {"source": {"path": str(file)}, "breakpoints": here}


class Debugger:
    def __init__(
        self,
        config: Message,
        *,
        breakpoints: Sequence[Breakpoint] = (),
        exceptions: Sequence[str] = (),
        timeout: float = PATIENCE,
    ) -> None:
        self.config = config
        self.breakpoints = breakpoints
        self.exceptions = list(exceptions)
        self.timeout = timeout
        self.inbox: queue.Queue[tuple[Session, Message]] = queue.Queue()
        self.adapter: subprocess.Popen[bytes] | None = None
        self.sessions: list[Session] = []
        self.answers: dict[tuple[Session, int], Message] = {}
        self.halts: list[tuple[Session, Message]] = []  # stops and exits that nobody has asked for yet
        self.terminals: list[Terminal] = []
        self.ended = False
        self.console = ""  # what came through the protocol
        self.refused: list[Message] = []  # breakpoints that cannot be hit, with the debugger's reason

    def __enter__(self) -> Self:
        # As in VS Code: a program that listens has the adapter inside; everything else needs one started here.
        if address := self.config.get("connect"):
            self.main = self._connect(address)
        else:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self.adapter = subprocess.Popen([sys.executable, "-m", "debugpy.adapter"], **pipes)
            self.main = Session(self.inbox, self.adapter.stdout, self.adapter.stdin)
        self._open(self.main, self.config)
        return self

    def __exit__(self, *_: object) -> None:
        if self.adapter:
            with contextlib.suppress(OSError):  # it has gone already
                self.main.send("request", command="disconnect", arguments={"terminateDebuggee": True})
            _end(self.adapter)
        for closing in (*self.sessions, *self.terminals):
            closing.close()

    @property
    def output(self) -> str:
        """All that the program has printed, in whichever console the configuration asks for."""
        return self.console + "".join(terminal.text for terminal in self.terminals)

    def wait_for_stop(self) -> Stop:
        session, event = self._next_halt()
        assert event["event"] == "stopped", f"the program ended instead of stopping:\n{self.output}"
        body = event["body"]
        frames = self.request(session, "stackTrace", threadId=body["threadId"])["stackFrames"]
        return Stop(self, session, body["reason"], body.get("text", ""), body["threadId"], frames[0])

    def wait_for_exit(self) -> int:
        session, event = self._next_halt()
        while session is not self.main and event["event"] == "exited":  # a child's end is not the program's
            session, event = self._next_halt()
        assert event["event"] == "exited", f"the program stopped again: {event['body']}\n{self.output}"
        return int(event["body"]["exitCode"])

    def wait_for_end(self) -> None:
        """Wait until a program that was attached to is over. Only what was launched has an exit code."""
        self._pump(lambda: self.ended)

    def clear_breakpoints(self) -> None:
        files, self.breakpoints = {point.file for point in self.breakpoints}, ()
        for session in self.sessions:
            for file in files:
                session.send("request", command="setBreakpoints", arguments=_breakpoints(file, ()))

    def request(self, session: Session, command: str, **arguments: Any) -> Message:
        number = session.send("request", command=command, arguments=arguments)
        self._pump(lambda: (session, number) in self.answers)
        return dict(self.answers[session, number].get("body") or {})

    def _open(self, session: Session, config: Message) -> None:
        session.send(
            "request",
            command="initialize",
            arguments={"adapterID": "debugpy", "pathFormat": "path", "supportsRunInTerminalRequest": True},
        )
        session.send("request", command=config["request"], arguments=config)

    def _configure(self, session: Session) -> None:
        """Answer `initialized`. Nothing is waited for: the events of several processes come mixed."""
        self.sessions.append(session)
        for file in {point.file for point in self.breakpoints}:
            session.send("request", command="setBreakpoints", arguments=_breakpoints(file, self.breakpoints))
        session.send("request", command="setExceptionBreakpoints", arguments={"filters": self.exceptions})
        session.send("request", command="configurationDone")

    def _next_halt(self) -> tuple[Session, Message]:
        self._pump(lambda: bool(self.halts))
        return self.halts.pop(0)

    def _pump(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + self.timeout
        while not done():
            try:
                self._handle(*self.inbox.get(timeout=max(0.0, deadline - time.monotonic())))
            except queue.Empty:
                raise AssertionError(
                    f"nothing came from the debugger within {self.timeout} s:\n{self.output}"
                ) from None

    def _handle(self, session: Session, message: Message) -> None:
        match message:
            case {"type": "response"}:
                assert message["success"], f"{message['command']}: {message.get('message')}\n{self.output}"
                self.answers[session, message["request_seq"]] = message
                if message["command"] == "setBreakpoints":
                    self.refused += [point for point in message["body"]["breakpoints"] if not point["verified"]]
            case {"type": "request", "command": "runInTerminal"}:
                self._open_terminal(session, message)
            case {"event": "initialized"}:
                self._configure(session)
            case {"event": "debugpyAttach", "body": child}:
                self._follow(child)
            case {"event": "terminated"} if session is self.main:
                self.ended = True
            case {"event": "stopped" | "exited"}:
                self.halts.append((session, message))
            case {"event": "output", "body": {"category": "stdout" | "stderr", "output": text}}:
                self.console += text

    def _open_terminal(self, session: Session, message: Message) -> None:
        terminal = Terminal(message["arguments"])
        self.terminals.append(terminal)
        body = {"processId": terminal.process.pid}
        session.send("response", request_seq=message["seq"], command="runInTerminal", success=True, body=body)

    def _follow(self, child: Message) -> None:
        """Open a session for a child process, which waits for it before its first line."""
        self._open(self._connect(child["connect"]), child)

    def _connect(self, address: Message) -> Session:
        """Open a session with an adapter that listens, or will in a moment."""
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                connection = socket.create_connection((address["host"], address["port"]))
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline, f"nobody listens on {address}"
                time.sleep(0.1)
        stream = connection.makefile("rwb")
        return Session(self.inbox, stream, stream, connection)
