"""The display of arrays, blocks and pools in a notebook: true, escaped, and from a sample."""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import Puppet, blocks_are_files

import sharedarray as sa
from sharedarray import _display as display
from sharedarray._display import text, timeline_text
from sharedarray._display.spans import Span
from sharedarray._display.timeline import Timeline
from sharedarray._platform import platform

HOSTILE = "<img src=x onerror=alert(1)>\"'&amp;"


class Page(HTMLParser):
    """The page as a browser parses it: tags with their attributes, and the text; tags must be balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "img":
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data}\n"

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page(thing: Any) -> Page:
    return Page(thing._repr_html_())


def pixels(shown: Page) -> np.ndarray[Any, Any]:
    """Return the picture, decoded from its PNG by hand."""
    (image,) = shown.all("img")
    data = base64.b64decode(str(image["src"]).removeprefix("data:image/png;base64,"), validate=True)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    at, chunks = 8, {}
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert int.from_bytes(data[at + 8 + length : at + 12 + length], "big") == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + length
    wide, high = int.from_bytes(chunks[b"IHDR"][:4], "big"), int.from_bytes(chunks[b"IHDR"][4:8], "big")
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(high, 1 + 4 * wide)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(high, wide, 4)


# -- the facts ------------------------------------------------------------------------------------------


def test_an_array_tells_its_facts() -> None:
    with sa.share(np.arange(6, dtype="f4").reshape(2, 3), name="told") as a:
        text = page(a).text
        for fact in (
            "SharedArray",
            "told",
            "(2, 3)",
            "float32",
            "24 B",
            "r+",
            f"1: {os.getpid()} (this process)",
        ):
            assert fact in text
        assert "told" in repr(a)
        assert repr(a).startswith("SharedArray([[0., 1., 2.]")
        assert "r (read-only)" in page(sa.attach("told", "r")).text
        assert "12 B (12 bytes), of 24 B in all" in page(a[0]).text
        if blocks_are_files():
            a.persist()
            assert "persists" in page(a).text
        a.unlink()
    assert "closed" in page(a).text


def test_holders_are_counted_over_processes() -> None:
    a = sa.zeros(4, name="held_by_two")
    with Puppet("b = sa.attach('held_by_two'); say(); hear()") as other:
        other.hear()
        shown = page(a).text
        assert "2: " in shown
        assert str(other.pid) in shown
        other.end()
    assert "1: " in page(a).text


def test_a_file_and_memory_that_is_not_shared(tmp_path: Path) -> None:
    on_disk = sa.zeros(3, file=tmp_path / "x.npy")
    assert str(tmp_path / "x.npy") in page(on_disk).text
    assert "it is a file" in page(on_disk).text
    alone = np.zeros(3).view(sa.SharedArray)
    assert "not shared" in page(alone).text


# -- nothing gets into the page -------------------------------------------------------------------------


def test_names_dtypes_and_values_cannot_inject_html() -> None:
    dtype = np.dtype([((HOSTILE.replace("/", ""), "x"), "U80")])
    name = None if platform.name_problem(HOSTILE) else HOSTILE  # some systems know no such names
    a = sa.share(np.array([(HOSTILE + "</td><script>",)] * 3, dtype), name=name)
    for shown in (page(a), page(sa.blocks())):
        assert {tag for tag, _ in shown.tags} <= {
            "div",
            "table",
            "caption",
            "b",
            "tr",
            "th",
            "td",
            "pre",
            "details",
            "summary",
            "p",
        }
        assert all(set(attributes) <= {"class", "style"} for _, attributes in shown.tags)
        assert str(a.name) in shown.text
    assert HOSTILE.partition('"')[0] in page(a).text
    assert "</td><script>" in page(a).text


def test_what_steers_is_spelled_out() -> None:
    text = "a\u202eb\x1b[2Jc\ud800"
    assert display.escaped(text) == r"a\u202eb\x1b[2Jc\ud800"
    assert len(display.escaped("x" * 10_000)) <= 400
    wide = np.dtype([(f"field_{number}", "f8") for number in range(2000)])
    assert len(sa.zeros(2, wide)._repr_html_()) < 20_000


# -- pictures -------------------------------------------------------------------------------------------


def test_an_image_shows_its_data() -> None:
    data = np.zeros((40, 60))
    data[10:20, 30:40] = 5.0
    data[0, 0] = np.nan
    data[39, 59] = -np.inf
    found = pixels(page(sa.share(data))).astype(int)
    assert found.shape == (40, 60, 4)
    dark, bright = found[30, 5], found[15, 35]
    assert bright[:3].sum() > 2 * dark[:3].sum()
    assert (found[10:20, 30:40] == bright).all()
    assert found[0, 0, 3] == found[39, 59, 3] == 0  # what is not finite is clear
    assert "0 to 5" in page(sa.share(data)).text


@pytest.mark.parametrize("dtype", ["u1", "f4"])
def test_a_picture_keeps_its_colours(dtype: str) -> None:
    data = np.zeros((20, 30, 3), dtype)
    data[:, :, 1] = 255 if dtype == "u1" else 1.0
    assert (pixels(page(sa.share(data))) == (0, 255, 0, 255)).all()


def test_a_large_image_keeps_its_corners_and_its_shape() -> None:
    data = np.zeros((3000, 1000), "f4")
    data[:1500] = 1
    shown = page(sa.share(data))
    found = pixels(shown)
    assert found.shape[0] * found.shape[1] <= 96 * 160
    assert (found[: len(found) // 2] == found[0, 0]).all()
    assert (found[-1] != found[0]).any()
    (image,) = shown.all("img")
    assert int(str(image["height"])) == pytest.approx(3 * int(str(image["width"])), abs=3)
    assert "in a sample of" in shown.text


def test_a_line_shows_a_single_peak() -> None:
    """Up to some 16,000 elements, all are looked at."""
    data = np.zeros(10_000)
    data[4567] = 1.0
    shown = page(sa.share(data))
    (path,) = shown.all("path")
    points = [tuple(map(float, point)) for point in re.findall(r"[ML]([\d.]+) ([\d.]+)", str(path["d"]))]
    x, _ = min(points, key=lambda point: point[1])
    assert x == pytest.approx(0.4567 * 260, abs=2)
    assert "line: 0 to 1" in shown.text
    assert len(page(sa.zeros((3, 50))).all("path")) == 3
    assert len(page(sa.zeros((50, 4))).all("path")) == 4


def test_a_histogram_counts() -> None:
    data = np.zeros((10, 10, 10))
    data[0] = 1
    bars = page(sa.share(data)).all("rect")
    heights = [float(str(bar["height"])) for bar in bars]
    assert len(heights) == 2
    assert heights[0] == pytest.approx(9 * heights[1], rel=0.02)


@pytest.mark.parametrize(
    "data",
    [
        np.zeros(()),
        np.zeros((0, 5)),
        np.zeros((3, 0, 5)),
        np.full((5, 40), np.nan),
        np.full((9, 40, 3, 2), np.inf),
        np.array([1e308, -1e308] * 20),
        np.full((20, 20), 7),
        np.array([[True, False] * 10] * 10),
        np.linspace(0, 1j, 30),
        np.arange(40).astype(">i2"),
        np.array([2**64 - 1, 0] * 9, "u8"),
        np.arange(100).astype("M8[s]").reshape(10, 10),
        np.array(["NaT", "NaT"] * 5, "m8[ms]"),
        np.array(["a", "<b>"]),
        np.zeros(3, "V4"),
        np.zeros(3, [("x", "f4"), ("y", "U3")]),
        np.zeros((1, 1, 500)),
        np.zeros((500, 1)),
        np.zeros(20, "f2"),
        np.zeros((8, 8), "g"),
        np.zeros((6, 6, 4), "f4"),
        np.full((6, 6, 3), np.nan),
        np.asfortranarray(np.arange(600.0).reshape(20, 30))[::-2, 3:],
        np.broadcast_to(np.arange(30.0), (20, 30)),
        np.arange(1, 5),
    ],
    ids=lambda data: f"{data.dtype}-{data.shape}",
)
def test_every_kind_of_array_shows_itself(data: np.ndarray[Any, Any]) -> None:
    assert str(data.dtype) in page(sa.share(data)).text or data.dtype.names
    Page(display.picture(data))


def test_showing_looks_at_few_pages_only(tmp_path: Path) -> None:
    """Of a sparse file of 10 GiB, less than one page in a hundred is brought into memory."""
    path = tmp_path / "huge.npy"
    for shape in ((10 << 27,), (1 << 15, 10 << 12), (1 << 10, 10 << 7, 1 << 10)):
        header = sa._header.encode(np.dtype("f8"), shape, fortran=False)
        path.write_bytes(header)
        os.truncate(path, len(header) + (10 << 30))
        a = sa.open(path)
        shown = page(a).text
        assert "10 GiB" in shown
        assert "in a sample of" in shown
        assert _in_memory(path) < 100 << 20
        del a
        path.unlink()


def _in_memory(path: Path) -> int:
    """Return bytes of a file that are in the system's cache."""
    fincore = shutil.which("fincore")
    if fincore is None:
        pytest.skip("needs fincore (util-linux)")
    command = [fincore, "--bytes", "--noheadings", "--output", "RES", str(path)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


# -- blocks and pools -----------------------------------------------------------------------------------


def test_blocks_show_themselves() -> None:
    held = sa.zeros(1000, name="shown_1")
    with sa.Segment.create(50, "shown_2", persist=True) as kept:
        found = sa.blocks()
        assert isinstance(found, list)
        shown = page(found)
        assert len(shown.all("tr")) == 1 + len(found)
        for fact in (
            "2 blocks",
            "shown_1",
            "(1000,)",
            "float64",
            f"1: {os.getpid()}",
            "shown_2",
            "persists",
            "free in",
        ):
            assert fact in shown.text
        kept.unlink()
    del held
    assert "0 blocks" in page(sa._listing.BlockList()).text


def test_at_the_prompt_blocks_are_a_table() -> None:
    with sa.zeros((1000, 2), name="shown_1"), sa.put([1], name="shown_2", persist=True) as kept:
        found = sa.blocks()
        assert repr(found) == str(found) == f"{found}"
        title, first, second, total, *legend = repr(found).splitlines()
        assert title.split()[:4] == ["NAME", "KIND", "SHAPE", "DTYPE"]
        assert first.startswith("shown_1  array")
        for fact in ("(1000, 2)", "float64", f"1: {os.getpid()} ", "s  "):
            assert fact in first
        assert second[title.index("KIND") :].startswith("object  -")
        assert second.endswith("persist")
        assert re.fullmatch(r"2 blocks, \d+ KiB", total)
        assert legend[0].startswith("  persist  ")
        assert isinstance(found, list)
        assert found[0].shape == (1000, 2)
        assert repr(found[:1]).splitlines()[1].split() == first.split()
        kept.unlink()
    assert repr(sa.blocks()) == "no blocks"


def test_ages_are_relative_and_local() -> None:
    with sa.zeros(3, name="x"):
        (block,) = sa.blocks()
        shown = page(sa.blocks()).text
        assert re.search(r"\b\d+s ago, ", shown)
        assert f"{block.created.astimezone():%Y-%m-%d %H:%M:%S}" in shown
        assert "UTC" not in shown


def test_a_handle_of_an_object_shows_how_to_get_it() -> None:
    with sa.put({"a": np.arange(100)}, name="model") as held:
        for shown in (held, sa.attach("model")):
            assert repr(shown) == str(shown) == f"{shown}"
            assert re.fullmatch(r"<object 'model', 5\.\d KiB: sa\.get\('model'\) returns it>", repr(shown))
            seen = page(shown)
            assert "sa.get('model')" in seen.text
            assert re.search(r"\b5\.\d KiB \(", seen.text)  # the block's, as in the text and in `ls`
            assert "in all" not in seen.text
            assert f"1: {os.getpid()} (this process)" in seen.text
            assert not {"svg", "img", "pre", "details"} & {tag for tag, _ in seen.tags}
        assert "SharedArray([" in repr(held[:10])  # a part of it is bytes
        assert "SharedArray" in repr(sa.share(np.frombuffer(b"\x93SAOBJ1\n", np.uint8)))
    assert "closed" in repr(held)


@pytest.mark.lingers("descriptor")  # the pipe to the pool's fork server, which the next pool uses again
def test_columns_keep_their_alignment_on_any_page() -> None:
    """Rules of the page for cells and preformatted text do not apply: the elements say what they need."""
    with sa.zeros((3, 4), name="x"), sa.Pool(1) as pool:
        pool.submit(np.sum, np.ones(1000)).result()
        for shown in (sa.blocks(), pool.stats(), pool.copy_report()):
            cells = [attributes for tag, attributes in page(shown).tags if tag in ("th", "td", "caption")]
            assert cells
            assert all("text-align:" in str(cell.get("style")) for cell in cells)
        (text,) = page(sa.attach("x")).all("pre")
        assert "white-space:pre" in str(text["style"])
        assert "monospace" in str(text["style"])


def test_many_blocks_are_cut() -> None:
    held = sa.zeros(1)
    (one,) = sa.blocks()
    shown = page(sa._listing.BlockList([one] * 500))
    assert len(shown.all("tr")) == 201
    assert "300 more" in shown.text
    del held


@pytest.mark.lingers("descriptor")  # the pipe to the pool's fork server, which the next pool uses again
def test_at_the_prompt_reports_of_a_pool_are_tables() -> None:
    with sa.Pool(1) as pool:
        future = pool.submit(np.sum, np.ones(1000))
        assert future.result() == 1000
        for report in (pool.stats(), pool.copy_report(future), pool.timeline()):
            assert repr(report) == str(report)
            assert len(repr(report).splitlines()) > 2
        assert pool.stats().done == 1
        assert isinstance(pool.timeline()[0], tuple)


def test_the_timeline_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    spans = [Span(n, 1, "abs", f"worker-{n % 2}", 1, 0, n * 10, n * 10 + 10, "done") for n in range(9)]
    for window, most in ((200, 100), (80, 80), (20, 60)):
        monkeypatch.setattr(timeline_text, "terminal_columns", lambda default, window=window: window)
        lines = str(Timeline(spans)).splitlines()
        assert max(map(len, lines)) <= most
        assert len(lines[1]) == most
    for stream in (None, io.StringIO()):
        monkeypatch.setattr(sys, "stdout", stream)
        assert text.terminal_columns(123) == 123


@pytest.mark.lingers("descriptor")  # the pipe to the pool's fork server, which the next pool uses again
def test_the_timeline_follows_the_theme() -> None:
    with sa.Pool(1) as pool:
        pool.submit(abs, 1).result()
        svg = pool.timeline().to_svg()
    style = svg[svg.index("<style>") : svg.index("</style>")]
    for word in ("prefers-color-scheme:dark", "--jp-layout-color0", "--jp-content-font-color1", "fill:var("):
        assert word in style
    # In every theme, the colours of paper and ink differ: light in one is dark in the other.
    assert re.search(r"--sa-paper:[^;]*#fff.*--sa-paper:[^;]*#111", style)


@pytest.mark.lingers("descriptor")  # the pipe to the pool's fork server, which the next pool uses again
def test_a_pool_shows_its_figures_and_its_timeline() -> None:
    with sa.Pool(2) as pool:
        assert "0 done" in page(pool).text
        assert list(pool.map(abs, range(5))) == [0, 1, 2, 3, 4]
        assert "5 done" in page(pool).text
        assert page(pool).all("svg")
        assert "5 done" in page(pool.stats()).text
        assert page(pool.timeline()).all("svg")
        assert "overflow-x:auto" in pool.timeline()._repr_html_().partition("<svg")[0]  # on a narrow page
    assert "5 done" in page(pool).text  # and when it has ended
