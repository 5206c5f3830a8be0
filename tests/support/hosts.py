"""Hosts on one machine: each with a ``/dev/shm`` and, where that is allowed, a network of its own.

A host is a process in a mount namespace of its own, whose ``/dev/shm`` is a fresh tmpfs. With `ip`, it is in
a network namespace of its own too, joined to the others by a bridge; without, all hosts share the machine's
addresses. Everything that is started on it is in its namespaces, so the test can end it as a power cut would.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from helpers import alive, environment, wait_until

SIZE = "1500m"  # of a host's /dev/shm


def why_not() -> str | None:
    """Return why there can be no hosts here, by name; None if there can."""
    for tool in ("unshare", "nsenter", "mount"):
        if shutil.which(tool) is None:
            return f"the command {tool} is not here (util-linux)"
    command = ["unshare", "--mount", "sh", "-c", f"mount -t tmpfs -o size={SIZE} tmpfs /dev/shm"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return f"unshare --mount with a tmpfs on /dev/shm is not allowed: {done.stderr.strip()}"
    return None


def why_no_networks() -> str | None:
    """Return why hosts share the machine's network; None if each can have its own."""
    if shutil.which("ip") is None:
        return "the command ip is not here (iproute2)"
    name = f"sa{os.getpid() % 100000}t"
    done = subprocess.run(["ip", "link", "add", name, "type", "bridge"], capture_output=True, text=True)
    if done.returncode:
        return f"ip link add is not allowed: {done.stderr.strip()}"
    subprocess.run(["ip", "link", "del", name], check=True)
    return None


class Network:
    """A bridge of the machine's that hosts are joined to; a context manager."""

    def __init__(self, name: str = "") -> None:
        self.name = name or f"sa{os.getpid() % 100000}"
        self.prefix = f"10.{os.getpid() % 200 + 20}.{os.getpid() // 200 % 250}"
        self.own = why_no_networks() is None
        self.address = f"{self.prefix}.1" if self.own else "127.0.0.1"
        self._count = 1

    def __enter__(self) -> Network:
        if self.own:
            ip("link", "add", self.name, "type", "bridge")
            ip("addr", "add", f"{self.address}/24", "dev", self.name)
            ip("link", "set", self.name, "up")
        return self

    def __exit__(self, *exception: object) -> None:
        if self.own:
            ip("link", "del", self.name)

    def next_address(self) -> str:
        self._count += 1
        return f"{self.prefix}.{self._count}" if self.own else "127.0.0.1"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


class Host:
    """A host; a context manager, at whose end nothing of it is left."""

    def __init__(self, network: Network, name: str) -> None:
        self.name = name
        self.network = network
        self.address = network.next_address()
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Host:
        spaces = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        if self.network.own:
            spaces.append("--net")
        setup = f"mount -t tmpfs -o size={SIZE} tmpfs /dev/shm && echo ready && exec sleep infinity"
        self.keeper = subprocess.Popen(
            ["unshare", *spaces, "sh", "-c", setup], stdout=subprocess.PIPE, start_new_session=True
        )
        assert self.keeper.stdout is not None
        assert self.keeper.stdout.readline() == b"ready\n"
        self.first = int(
            Path(f"/proc/{self.keeper.pid}/task/{self.keeper.pid}/children").read_text().split()[0]
        )
        if self.network.own:
            self._join()
        return self

    def _join(self) -> None:
        inside, outside = f"{self.network.name}{self.name}i", f"{self.network.name}{self.name}"
        ip("link", "add", outside, "type", "veth", "peer", "name", inside)
        ip("link", "set", outside, "master", self.network.name, "up")
        ip("link", "set", inside, "netns", str(self.first))
        for words in (
            ("addr", "add", f"{self.address}/24", "dev", inside),
            ("link", "set", inside, "up"),
            ("link", "set", "lo", "up"),
        ):
            subprocess.run([*self.enter, "ip", *words], check=True)

    @property
    def enter(self) -> list[str]:
        """The command that runs another one on this host."""
        spaces = ["--mount", "--pid", "--net"] if self.network.own else ["--mount", "--pid"]
        return ["nsenter", "--target", str(self.first), *spaces]

    def start(self, *words: str, **changes: str) -> subprocess.Popen[bytes]:
        """Start a Python program here, given as the interpreter's arguments."""
        made = subprocess.Popen(
            [*self.enter, sys.executable, *words],
            env=environment(SHAREDARRAY_DIR="/dev/shm", **changes),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.processes.append(made)
        return made

    @property
    def shm(self) -> Path:
        """Its ``/dev/shm``, as this process sees it."""
        return Path(f"/proc/{self.first}/root/dev/shm")

    def used(self) -> int:
        """Return bytes that its ``/dev/shm`` has in use."""
        found = os.statvfs(self.shm)
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def blocks(self) -> set[str]:
        """Return the names of the blocks there."""
        return {name for name in os.listdir(self.shm) if not name.startswith(".")}

    def empty(self) -> bool:
        """Return whether there is neither a block, a record nor a pin."""
        return not self.blocks() and not [
            path
            for path in self.shm.glob(".sharedarray-*/*")
            if not path.name.startswith(("janitor.", "locks."))
        ]

    def pids(self) -> list[int]:
        """Return all processes on it, but the one that keeps it."""
        spaces = os.readlink(f"/proc/{self.first}/ns/pid")
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) != self.first and alive(int(entry)):
                try:
                    if os.readlink(f"/proc/{entry}/ns/pid") == spaces:
                        found.append(int(entry))
                except OSError:
                    continue  # it has just ended
        return found

    def cut(self) -> None:
        """End everything on it at once, janitors too, as a power cut does; its memory file system stays."""
        for pid in self.pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for process in self.processes:
            process.wait(60)
        wait_until(lambda: not self.pids(), f"all processes of host {self.name} are gone")

    def __exit__(self, *exception: object) -> None:
        self.cut()
        os.kill(self.first, signal.SIGKILL)
        self.keeper.wait(60)
        if self.keeper.stdout is not None:
            self.keeper.stdout.close()
