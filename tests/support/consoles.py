"""Consoles that a test can have: a program runs at one, and the test presses its keys and reads its screen.

Where there are pseudo-terminals, a console is one, the program leads the session that it controls, and an
emulator (pyte) keeps the screen. On Windows it is a console of the program's own, without a window, and an
*attendant*, a second interpreter, is attached to it as well: it types, reads the screen, and has the kernel
send Ctrl-C to every process of the console, as a keyboard does; it does not end of it itself.

Keys are given as terminals send them, with escape sequences for those that are no characters.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import select
import signal
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import pytest
from helpers import ANSWER, TERMINALS, Puppet, environment, wait_until

ATTENDED = hasattr(ctypes, "WinDLL") and importlib.util.find_spec("win32console") is not None
CONSOLES = TERMINALS or ATTENDED
CTRL_C_STATUS = -signal.SIGINT if TERMINALS else 0xC000013A  # of a program that Ctrl-C has ended

SCREENS = ATTENDED or (TERMINALS and importlib.util.find_spec("pyte") is not None)

needs_consoles = pytest.mark.skipif(not CONSOLES, reason="a test cannot have a console here")
needs_screens = pytest.mark.skipif(
    not SCREENS,
    reason="a test cannot read a screen here; with pyte it may: pip install 'numpy-sharedarray[test]'",
)

_ATTENDANT = textwrap.dedent(
    r"""
    import ctypes, json, re, sys
    import win32console, win32file

    SPECIAL = dict(zip("A B H F 5~ 6~ 3~".split(), [38, 40, 36, 35, 33, 34, 46]))

    def opened(name):
        handle = win32file.CreateFile(name, 0xC0000000, 3, None, 3, 0, None)
        return win32console.PyConsoleScreenBufferType(handle)

    def strike(char, code):
        for down in (True, False):
            record = win32console.PyINPUT_RECORDType(win32console.KEY_EVENT)
            record.KeyDown, record.RepeatCount, record.Char, record.VirtualKeyCode = down, 1, char, code
            keyboard.WriteConsoleInput([record])

    def type_keys(text):
        for special, char in re.findall(r"\x1b\[([0-9;]*[A-Z~])|(.)", text, re.DOTALL):
            strike("\0" if special else char, SPECIAL[special] if special else ord(char.upper()))

    def resize(columns, lines):
        size = win32console.PyCOORDType(columns, lines)
        now = screen.GetConsoleScreenBufferInfo()["Window"]
        least = min(columns, now.Right + 1) - 1, min(lines, now.Bottom + 1) - 1
        screen.SetConsoleWindowInfo(True, win32console.PySMALL_RECTType(0, 0, *least))
        screen.SetConsoleScreenBufferSize(size)
        screen.SetConsoleWindowInfo(True, win32console.PySMALL_RECTType(0, 0, columns - 1, lines - 1))

    def rows():
        shown = screen.GetConsoleScreenBufferInfo()["Window"]
        width = shown.Right - shown.Left + 1
        at = [win32console.PyCOORDType(shown.Left, line) for line in range(shown.Top, shown.Bottom + 1)]
        return [screen.ReadConsoleOutputCharacter(width, place).rstrip() for place in at]

    def state():
        return [screen.GetConsoleMode(), screen.GetConsoleCursorInfo()[1]]

    def interrupt():
        win32console.GenerateConsoleCtrlEvent(win32console.CTRL_C_EVENT, 0)

    win32console.FreeConsole()
    win32console.AttachConsole(int(sys.argv[1]))
    kernel = ctypes.WinDLL("kernel32")
    heard = ctypes.WINFUNCTYPE(ctypes.c_int, ctypes.c_uint32)(lambda event: 1)
    kernel.SetConsoleCtrlHandler(heard, True)
    screen, keyboard = opened("CONOUT$"), opened("CONIN$")
    print("null", flush=True)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(globals()[name](*arguments)), flush=True)
    """
)


class _Attendant:
    """Actions on a console of Windows, from a process that is attached to it."""

    def __init__(self, pid: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _ATTENDANT, str(pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env=environment(PYTHONIOENCODING="utf-8"),
            creationflags=subprocess.__dict__["CREATE_NO_WINDOW"],
        )
        self._heard()

    def __call__(self, *request: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._heard()

    def _heard(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the attendant ended with {self._process.wait()}"
        return json.loads(line)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(ANSWER)


class Console:
    """A console and the program that runs at it.

    Parameters
    ----------
    command : sequence of str
        The program. It is at the console with all of its streams, unless the test has them in `streams`.
    columns, lines : int
        Size of the screen.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        columns: int = 110,
        lines: int = 24,
        env: dict[str, str] | None = None,
        **streams: Any,
    ) -> None:
        self.raw = b""
        self._attendant: _Attendant | None = None
        if not TERMINALS:
            flag = subprocess.__dict__["CREATE_NO_WINDOW"]
            self.process = subprocess.Popen(command, env=env, creationflags=flag, **streams)
            self._attendant = _Attendant(self.process.pid)
            self._attendant("resize", columns, lines)
            return
        import pty

        self._ours, self._theirs = pty.openpty()
        self._screen, self._stream = self._emulated(columns, lines)
        self._set_size(columns, lines)
        self._before = self._modes()
        everything = dict.fromkeys(("stdin", "stdout", "stderr"), self._theirs)
        self.process = subprocess.Popen(
            command,
            env=env,
            start_new_session=True,
            preexec_fn=self._control,  # noqa: PLW1509  (it takes no lock)
            **{**everything, **streams},
        )

    @staticmethod
    def _emulated(columns: int, lines: int) -> tuple[Any, Any]:
        if importlib.util.find_spec("pyte") is None:
            return None, None
        import pyte

        screen = pyte.Screen(columns, lines)
        return screen, pyte.ByteStream(screen)

    def _control(self) -> None:
        """Make the terminal that of the session, in the child."""
        import fcntl
        import termios

        fcntl.ioctl(self._theirs, termios.TIOCSCTTY, 0)

    def _set_size(self, columns: int, lines: int) -> None:
        import fcntl
        import termios

        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def _modes(self) -> Any:
        import termios

        return termios.tcgetattr(self._theirs)

    def resize(self, columns: int, lines: int) -> None:
        """Give the screen another size."""
        if self._attendant is not None:
            self._attendant("resize", columns, lines)
            return
        if self._screen is not None:
            self._screen.resize(lines, columns)
        self._set_size(columns, lines)  # of which the kernel tells the session

    def type(self, keys: str) -> None:
        """Press keys."""
        if self._attendant is not None:
            self._attendant("type_keys", keys)
        else:
            os.write(self._ours, keys.encode())

    def interrupt(self) -> None:
        """Press Ctrl-C: the kernel tells every process that is at the console."""
        if self._attendant is not None:
            self._attendant("interrupt")
        else:
            os.write(self._ours, b"\x03")

    def rows(self) -> list[str]:
        """Return what stands on the screen now."""
        if self._attendant is not None:
            found: list[str] = self._attendant("rows")
            return found
        self._read()
        return [line.rstrip() for line in self._screen.display]

    def _read(self) -> None:
        while select.select([self._ours], [], [], 0)[0]:
            try:
                data = os.read(self._ours, 1 << 16)
            except OSError:
                break
            self.raw += data
            if self._stream is not None:
                self._stream.feed(data)

    def shows(self, condition: Callable[[list[str]], Any], what: str) -> list[str]:
        """Wait until the screen is as it should be."""
        found: list[str] = []

        def look() -> bool:
            found[:] = self.rows()
            return bool(condition(found))

        try:
            wait_until(look, what, every=0.02)
        except AssertionError as late:
            raise AssertionError(f"{late}; the screen:\n" + "\n".join(found)) from None
        return found

    def ended(self) -> int:
        """Wait for the program's end; its status. What it still writes is read, or it would wait for that."""

        def over() -> bool:
            if TERMINALS:
                self._read()
            return self.process.poll() is not None

        wait_until(over, "the program ends", ANSWER, 0.01)
        if TERMINALS:
            self._read()
        return self.process.wait()

    def output(self, timeout: float = ANSWER) -> tuple[str, str]:
        """Wait for the program's end, and return what it has written for the test to read."""
        self.process.wait(timeout)
        self.leave()
        out, err = self.process.communicate(timeout=ANSWER)
        return out, err

    def leave(self) -> None:
        """Let the console end with the program; its own process has inherited the ends of pipes."""
        if self._attendant is not None:
            self._attendant.close()

    def restored(self) -> bool:
        """Return whether the console is as it was before the program."""
        if self._attendant is not None:
            mode, cursor = self._attendant("state")
            return cursor == 1 and not mode & 4  # it shows one, and writes escape sequences onto the screen
        return (
            self._modes() == self._before
            # Back from the other screen, and the cursor is seen again.
            and self.raw.rindex(b"\x1b[?1049l") > self.raw.rindex(b"\x1b[?1049h")
            and self.raw.rindex(b"\x1b[?25h") > self.raw.rindex(b"\x1b[?25l")
        )

    def close(self) -> None:
        """End the program, if it has not ended, and give up the console."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(ANSWER)
        # A puppet's output is closed by who listens there.
        for stream in (self.process.stdin, self.process.stdout if TERMINALS else None, self.process.stderr):
            if stream is not None:
                stream.close()
        if self._attendant is not None:
            self._attendant.close()
        else:
            os.close(self._ours)
            os.close(self._theirs)

    def __enter__(self) -> Console:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AtConsole(Puppet):
    """A puppet at a console, at which Ctrl-C is pressed; what is written to stderr is read in the end."""

    def _start(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        self.console = Console(command, stderr=subprocess.PIPE, **options)
        return self.console.process

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.console.interrupt()

    def complaints(self) -> str:
        """Wait for its end; what was written to standard error."""
        assert self.process.stderr is not None
        self.process.wait(ANSWER)
        self.console.leave()
        return self.process.stderr.read().decode()

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self.console.close()
