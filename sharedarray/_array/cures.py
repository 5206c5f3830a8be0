"""Other ways to read a block, or a file, that is no array."""

from __future__ import annotations

from sharedarray import _header as header, _registry as registry
from sharedarray._segment import Mapping

_ZIP = b"PK\x03\x04"


def cure_of(mapping: Mapping) -> str | None:
    """Return how to read a block, or a file, that is no array."""
    if mapping.directory is None:
        return _cure_of_file(mapping)
    record = registry.read_record(mapping.directory, mapping.name, mapping.inode)
    if record is not None and record.kind == "list":
        return f"it is a list: sharedarray.ShareableList(name={mapping.name!r})"
    return f"for its plain bytes, sharedarray.SharedMemory({mapping.name!r})"


def _cure_of_file(mapping: Mapping) -> str | None:
    """Return how to share the data of a file that is no array of plain bytes."""
    start = bytes(mapping[: header.PAGE])
    path = mapping.path
    if start.startswith(_ZIP):
        return f"for all arrays of an .npz file in one block: sharedarray.share_group(name, {path!r})"
    if start[8:9] == b"{" and path.endswith(".safetensors"):
        return f"for all tensors of the file in one block: sharedarray.share_group(name, {path!r})"
    if start.startswith(header.MAGIC):
        if b"'|O'" in start or b"'O'" in start:
            return (
                "store it with a dtype of numbers or text, or share it as an object: "
                f"sharedarray.put(numpy.load({path!r}, allow_pickle=True), name=name)"
            )
        return "make the file again: it was cut off or damaged"
    return "read it with the library for its format, and share the array: sharedarray.share(array, name=name)"
