"""Access lists, if the kernel keeps them: only this user may use our blocks and files.

Where files have modes, `test_lifetime` looks at those.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import directory, files_have_modes, open_to_all, registry

import sharedarray as sa
from sharedarray._platform import platform

security = pytest.importorskip("win32security", reason="files have modes here, no access lists")
pytestmark = pytest.mark.skipif(files_have_modes(), reason="files have modes here, no access lists")

OWNER_AND_LIST = 1 | 4  # OWNER_SECURITY_INFORMATION, DACL_SECURITY_INFORMATION
MAP_READ, READ_CONTROL = 4, 0x20000
READ, WRITE, ALL = 0x1, 0x2, 0x10000000  # of files, directories and sections alike
EVERYBODY = "S-1-1-0"
THE_SYSTEM = "S-1-5-18"  # which may do everything in any case; Wine adds it to the list of every file


def allowed(descriptor: Any) -> dict[str, int]:
    """Return which rights each user has, by this descriptor; None if every user has all."""
    entries = descriptor.GetSecurityDescriptorDacl()
    assert entries is not None, "every user may do everything"
    found = {}
    for index in range(entries.GetAceCount()):
        (kind, _), rights, who = entries.GetAce(index)
        assert kind == security.ACCESS_ALLOWED_ACE_TYPE
        found[security.ConvertSidToStringSid(who)] = rights
    return found


def assert_ours_alone(descriptor: Any) -> None:
    me = platform.user()
    assert security.ConvertSidToStringSid(descriptor.GetSecurityDescriptorOwner()) == me
    found = allowed(descriptor)
    assert set(found) - {THE_SYSTEM} == {me}
    assert found[me] & (READ | ALL)
    assert found[me] & (WRITE | ALL)


def of_file(path: str | Path) -> Any:
    return security.GetNamedSecurityInfo(os.path.normpath(path), security.SE_FILE_OBJECT, OWNER_AND_LIST)


@pytest.fixture
def of_memory() -> Iterator[Callable[[str], Any]]:
    """Return the security descriptor of memory by the kernel's name for it, opened as others would."""
    from sharedarray._platform.windows_kernel import kernel32  # it is there where there are access lists
    from sharedarray._platform.windows_sections import close_handle

    handles = []

    def ask(name: str) -> Any:
        handle = kernel32.OpenFileMappingW(MAP_READ | READ_CONTROL, False, name)
        assert handle, f"there is no memory of the name {name}"
        handles.append(handle)
        return security.GetSecurityInfo(handle, security.SE_KERNEL_OBJECT, OWNER_AND_LIST)

    yield ask
    for handle in handles:
        close_handle(handle)


@pytest.mark.parametrize(
    "make",
    [
        lambda name: sa.zeros(3, name=name),
        lambda name: sa.share([1, 2, 3], name=name),
        lambda name: sa.Segment.create(10, name),
        lambda name: sa.SharedMemory(name, create=True, size=10),
        lambda name: sa.put([1, 2], name=name),
    ],
)
def test_memory_is_this_users_alone(make: Callable[[str], Any], of_memory: Callable[[str], Any]) -> None:
    from sharedarray._platform.windows_names import kernel_name

    held = make("mine")
    assert_ours_alone(of_memory(kernel_name(f"{directory()}/mine")))
    held.close()


def test_files_are_this_users_alone(tmp_path: Path) -> None:
    """Whatever the directory that they are in hands down, and so are the records of blocks."""
    shared = tmp_path / "shared"
    shared.mkdir()
    open_to_all(str(shared))
    plain = shared / "plain"
    plain.touch()
    assert EVERYBODY in allowed(of_file(plain))  # so that the next lines prove something
    with sa.zeros(3, file=shared / "x.npy"):
        assert_ours_alone(of_file(shared / "x.npy"))
    with sa.zeros(3, name="kept", persist=True) as kept, sa.zeros(3, name="held"):
        assert_ours_alone(of_file(f"{directory()}/kept"))
        assert_ours_alone(of_file(registry()))
        records = [name for name in os.listdir(registry()) if name.startswith("b.")]
        assert len(records) == 2
        for name in records:
            assert_ours_alone(of_file(f"{registry()}/{name}"))
        kept.unlink()


def test_what_others_may_use_is_told_of(tmp_path: Path) -> None:
    """The look that `get` takes before it loads a pickle, at a file that every user may write."""
    ours, theirs = tmp_path / "ours.npy", tmp_path / "theirs.npy"
    for path in (ours, theirs):
        sa.zeros(3, file=path).close()
    open_to_all(str(theirs))
    for path, found in ((ours, False), (theirs, True)):
        handle = platform.open(str(path), writable=False)
        assert bool(platform.others(handle)) is found
        platform.close(handle)
