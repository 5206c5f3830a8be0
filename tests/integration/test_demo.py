"""The demo: stages that do not depend on how they are cut, and the command from end to end."""

from __future__ import annotations

import argparse
import importlib.util
import io
import math
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import sharedarray as sa
from sharedarray import _demo as demo, _progress
from sharedarray._demo import contest, landscape, stages

CELL = (7.0, 5.5)
needs_extra = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in demo.NEEDED), reason="needs the extra demo"
)
Floats = npt.NDArray[np.float32]


def terrain(rows: int, columns: int) -> Floats:
    rng = np.random.default_rng(7)
    south, east = np.mgrid[0:rows, 0:columns]
    waves = 80 * np.sin(south / 9) * np.cos(east / 7)
    return (500 + waves + rng.normal(scale=3, size=(rows, columns))).astype(np.float32)


class NoBar(contest.Bar):
    def update(self, n: float | None = 1) -> bool | None:
        return None

    def __exit__(self, *exc: object) -> None:
        return None


def no_bar(steps: int, title: str) -> contest.Bar:
    return NoBar()


def arguments(*words: str | Path) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


# -- stages ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block_size", [1, 7, 32, 1000])
@pytest.mark.parametrize(("rows", "columns"), [(97, 61), (40, 131), (8, 8)])
def test_blocks_give_the_bits_of_the_whole(rows: int, columns: int, block_size: int) -> None:
    steps = stages.pipeline(2.3, CELL)
    elevation = terrain(rows, columns)
    whole = contest.whole_arrays(steps, elevation, no_bar)
    cut = contest.in_blocks(steps, elevation, block_size, no_bar)
    assert list(whole) == ["elevation", *(step.name for step in steps)]
    for step in steps:
        assert whole[step.name].shape == elevation.shape
        assert whole[step.name].dtype == step.dtype
        assert np.isfinite(whole[step.name]).all()
        assert whole[step.name].tobytes() == cut[step.name].tobytes(), step.name


@pytest.mark.lingers("descriptor")  # the pipe to the fork server, which the next pool uses again
def test_workers_give_the_bits_of_the_whole() -> None:
    steps = stages.pipeline(2.3, CELL)
    elevation = sa.share(terrain(120, 90))
    whole = contest.whole_arrays(steps, np.array(elevation, subok=False), no_bar)
    with sa.Pool(2) as pool:
        shared = contest.shared_arrays(pool, steps, elevation, 23, no_bar)
    for step in steps:
        assert isinstance(shared[step.name], sa.SharedArray)
        assert whole[step.name].tobytes() == shared[step.name].tobytes(), step.name


@pytest.mark.lingers("descriptor")
def test_no_bar_but_the_contestants_own_appears(monkeypatch: pytest.MonkeyPatch) -> None:
    """A map that takes a while shows one of its own at a terminal, which would stay above the table."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(_progress, "_LATE", 0.0)
    steps = stages.pipeline(2.3, CELL)
    with sa.Pool(2) as pool:
        contest.shared_arrays(pool, steps, sa.share(terrain(120, 90)), 23, no_bar)
    assert terminal.getvalue() == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@needs_extra
@pytest.mark.lingers("thread")
def test_bars_go_from_a_terminal_and_are_not_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stream)
        with demo._bar(3, "one process") as bar:
            for _ in range(3):
                bar.update()
        drawn = stream.getvalue()
        if stream.isatty():
            assert "one process" in drawn
            assert drawn.rpartition("\r")[0].rpartition("\r")[2].strip() == ""  # drawn over with blanks
        else:
            assert drawn == ""


@pytest.mark.parametrize(
    ("whole", "alone"),
    [
        (6.0, "make one process 1.50 times as fast, as temp"),
        (3.8, "leave one process 0.95 times as fast, as the"),
    ],
)
def test_the_sentence_below_the_table(whole: float, alone: str) -> None:
    times = zip(("whole", "in blocks", "pickled", "shared"), (whole, 4.0, 5.0, 2.0), strict=True)
    said = demo._explained([demo.Outcome(way, seconds, None, True) for way, seconds in times], 2)
    assert alone in said
    assert "2 processes on shared arrays make it 2.00 times as fast again" in said
    assert said.count(".") == 3
    assert "\n" not in said


def test_a_cell_sees_the_same_sky_in_every_strip(monkeypatch: pytest.MonkeyPatch) -> None:
    heights = np.random.default_rng(5).random((50, 40), np.float32) * 100
    one_strip = stages.sky_view(heights, cell=(9.0, 7.0), radius=4)
    monkeypatch.setattr(stages, "STRIP_CELLS", 7 * 40)
    np.testing.assert_array_equal(stages.sky_view(heights, cell=(9.0, 7.0), radius=4), one_strip)


def test_all_workers_are_up_before_the_clock_starts() -> None:
    pids = iter([[1, 1, 1], [1, 1, 2], [3, 3, 3], [4]])
    demo._wait_for_workers(lambda *_: next(pids), 3)
    assert next(pids) == [4]


def test_every_halo_is_as_wide_as_its_stage_looks() -> None:
    """One row less changes the result, so that the test above can fail."""
    elevation = terrain(120, 50)
    layers = contest.whole_arrays(stages.pipeline(2.3, CELL), elevation, no_bar)
    for step in stages.pipeline(2.3, CELL):
        if step.halo:
            inputs = [layers[name] for name in step.inputs]
            block = contest.blocks(120, 40, step.halo - 1)[1]
            short = block.trim(step.func(*(array[block.first : block.last] for array in inputs)))
            assert not np.array_equal(short, layers[step.name][block.start : block.stop]), step.name


def plane(south: float, east: float) -> Floats:
    """Return a plane that rises by so much per metre."""
    rows, columns = np.mgrid[0:40, 0:50]
    return (100 + south * rows * CELL[0] + east * columns * CELL[1]).astype(np.float32)


@pytest.mark.parametrize(("south", "east"), [(0, 0), (0.5, 0), (0, -0.5), (0.3, 0.4), (-1.0, 1.0)])
def test_slope_and_hillshade_of_a_plane(south: float, east: float) -> None:
    inside = (slice(1, -1), slice(1, -1))
    elevation = plane(south, east)
    slope = stages.slope(elevation, cell=CELL)[inside]
    np.testing.assert_allclose(slope, math.degrees(math.atan(math.hypot(south, east))), atol=0.01)
    # The angle between the sun in the northwest, 45 degrees up, and the normal (south, east, up).
    normal = np.array([-south, -east, 1.0])
    sun = np.array([-0.5, -0.5, math.sqrt(0.5)])
    expected = max(normal @ sun / np.linalg.norm(normal), 0.0)
    np.testing.assert_allclose(stages.hillshade(elevation, cell=CELL)[inside], expected, atol=1e-3)


def test_a_plane_has_no_position_and_a_known_roughness() -> None:
    elevation = plane(0.0, 0.5)
    inside = (slice(4, -4), slice(4, -4))
    assert np.abs(stages.position(elevation, radius=4)[inside]).max() < 1e-3
    deviation = np.std(np.arange(9) * CELL[1] * 0.5)
    np.testing.assert_allclose(stages.roughness(elevation, radius=4)[inside], deviation, rtol=1e-4)


@pytest.mark.parametrize("radius", [1, 2, 3, 8, 13])
def test_windows_against_plain_means(radius: int) -> None:
    elevation = terrain(30, 41)
    padded = np.pad(elevation.astype(float), radius, mode="edge")
    side = 2 * radius + 1
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side))
    tpi = stages.position(elevation, radius=radius)
    np.testing.assert_allclose(tpi, elevation - windows.mean(axis=(2, 3)), atol=1e-3)
    np.testing.assert_allclose(
        stages.roughness(elevation, radius=radius), windows.std(axis=(2, 3)), atol=1e-3
    )


def test_smoothing_keeps_a_constant_and_spreads_a_peak() -> None:
    flat = np.full((30, 30), 321.5, np.float32)
    np.testing.assert_allclose(stages.smooth(flat, sigma=2.0), flat, rtol=1e-6)
    peak = np.zeros((41, 41), np.float32)
    peak[20, 20] = 1
    spread = stages.smooth(peak, sigma=2.0)
    assert spread.sum() == pytest.approx(1, abs=1e-5)
    assert spread[20, 22] / spread[20, 20] == pytest.approx(math.exp(-0.5), rel=1e-5)


def test_the_sky_over_a_plain_a_pit_and_beside_a_wall() -> None:
    flat = np.zeros((21, 21), np.float32)
    assert (stages.sky_view(flat, cell=(1.0, 1.0), radius=5) == 1).all()
    pit = flat.copy()
    pit[10, 10] = -1
    straight, diagonal = math.sin(math.atan(1)), math.sin(math.atan(1 / math.sqrt(2)))
    expected = 1 - (44 * straight + 20 * diagonal) / 64
    assert stages.sky_view(pit, cell=(1.0, 1.0), radius=5)[10, 10] == pytest.approx(expected, abs=1e-6)
    wall = flat.copy()
    wall[:, 15:] = 1e6
    assert stages.sky_view(wall, cell=(1.0, 1.0), radius=5)[10, 14] == pytest.approx(1 - 29 / 64, abs=1e-3)


def test_landforms() -> None:
    tpi = np.array([[-3, -1.4, 0, 1.4, 3, 0, 0]], np.float32)
    deviation = np.array([[2, 2, 2, 2, 2, 2, 0]], np.float32)
    steepness = np.array([[9, 9, 9, 9, 9, 1, 1]], np.float32)
    found = [stages.LANDFORMS[index] for index in stages.landforms(tpi, deviation, steepness)[0]]
    assert found == ["valley", "lower slope", "mid slope", "upper slope", "ridge", "flat", "flat"]


# -- landscapes -----------------------------------------------------------------------------------------


def test_resampling_passes_through_what_was_measured() -> None:
    heights = terrain(20, 31)
    out = np.empty((19 * 4 + 1, 30 * 4 + 1), np.float32)
    landscape.resample(heights, out)
    np.testing.assert_allclose(out[::4, ::4], heights, atol=1e-3)


def test_resampling_agrees_with_scipy() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    heights = terrain(20, 31)
    out = np.empty((57, 99), np.float32)
    landscape.resample(heights, out)
    where = np.meshgrid(np.linspace(0, 19, 57), np.linspace(0, 30, 99), indexing="ij")
    expected = ndimage.map_coordinates(heights.astype(float), where, order=3, mode="mirror")
    np.testing.assert_allclose(out, expected, atol=1e-3)


def test_a_larger_landscape_is_averaged_down() -> None:
    heights = np.full((400, 300), 12.0, np.float32)
    heights[::2] = 14.0
    out = np.empty((40, 30), np.float32)
    landscape.resample(heights, out)
    np.testing.assert_allclose(out, 13.0, atol=1e-4)


@needs_extra
def test_the_measured_landscape_is_what_the_docstring_says() -> None:
    measured = landscape.measured_landscape()
    assert measured.heights.shape == (344, 403)
    assert measured.heights.min() == 236
    assert measured.heights.max() == 1076
    assert measured.cell == pytest.approx((92.7, 74.4), abs=0.1)


@needs_extra
def test_an_image_becomes_its_luminance(tmp_path: Path) -> None:
    from matplotlib.image import imsave

    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = (0, 255, 0)
    imsave(tmp_path / "green.png", pixels)
    own = landscape.own_landscape(tmp_path / "green.png")
    assert own.heights.shape == (16, 16)
    np.testing.assert_allclose(own.heights[0], 0.7152 * 255, rtol=1e-3)
    np.testing.assert_allclose(own.heights[-1], 0)


def test_cells_without_a_number_are_the_lowest(tmp_path: Path) -> None:
    values = terrain(20, 20)
    values[3, 4] = np.nan
    np.save(tmp_path / "holes.npy", values)
    own = landscape.own_landscape(tmp_path / "holes.npy")
    assert own.heights[3, 4] == np.nanmin(values)


def test_a_file_without_a_landscape_says_what_to_give(tmp_path: Path) -> None:
    path = tmp_path / "several.npz"
    np.savez(path, u=terrain(20, 20), v=np.zeros(3))
    with pytest.raises(
        landscape.DemoError, match=r"an archive of arrays \(u, v\): save .* numpy\.save"
    ) as caught:
        landscape.own_landscape(path)
    exec(
        str(caught.value).partition(", with ")[2].replace("landscape.npy", f"{tmp_path}/u.npy"), {"numpy": np}
    )
    assert landscape.own_landscape(tmp_path / "u.npy").heights.shape == (20, 20)  # the cure works
    with pytest.raises(landscape.DemoError, match=r"missing\.npy: No such file or directory$"):
        landscape.own_landscape(tmp_path / "missing.npy")


# -- the command ----------------------------------------------------------------------------------------


def assert_picture(path: Path) -> None:
    from matplotlib.image import imread

    pixels = imread(path)
    assert pixels.shape[0] > 900
    assert pixels.shape[1] > 1800
    assert pixels[..., :3].std() > 0.1


def assert_all_equal(printed: str) -> None:
    assert printed.count("yes, every bit") == 3
    assert "sharedarray.Pool" in printed
    assert "NO" not in printed


# multiprocessing keeps its forkserver and resource tracker, and tqdm its monitor thread.
lingers = pytest.mark.lingers("child", "thread", "descriptor")


@pytest.mark.slow
@needs_extra
@lingers
def test_quick(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "picture.png"
    assert demo.run(arguments("--quick", "--workers", "2", "--output", output)) == 0
    printed = capsys.readouterr()
    assert_all_equal(printed.out)
    assert "Jacksboro" in printed.out
    assert printed.err == ""  # which is no terminal here
    assert "\r" not in printed.out
    table = printed.out.index("yes, every bit")
    assert table < printed.out.index("Blocks alone") < printed.out.index("start of the pools")
    assert_picture(output)


@needs_extra
@lingers
@pytest.mark.slow
def test_own_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, output = tmp_path / "own.npy", tmp_path / "own.png"
    np.save(file, terrain(150, 90).astype(">i2"))
    assert demo.run(arguments(file, "--size", "0.3", "--workers", "2", "--output", output)) == 0
    printed = capsys.readouterr().out
    assert_all_equal(printed)
    assert "own.npy: 150 × 90 heights" in printed
    assert_picture(output)


@needs_extra
@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.zeros(100), "two dimensions"),
        (np.zeros((3, 100)), "two dimensions"),
        (np.zeros((20, 20), complex), "real numbers"),
        (np.full((20, 20), np.nan), "no finite number"),
    ],
)
def test_what_is_no_landscape_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], values: npt.NDArray[np.generic], reason: str
) -> None:
    np.save(tmp_path / "bad.npy", values)
    assert demo.run(arguments(tmp_path / "bad.npy")) == 2
    assert reason in capsys.readouterr().err


@needs_extra
@pytest.mark.parametrize("name", ["absent.npy", "absent.png", "text.npy", "text.png", "text.txt"])
def test_files_that_cannot_be_read_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    if name.startswith("text"):
        (tmp_path / name).write_text("not a landscape")
    assert demo.run(arguments(tmp_path / name)) == 2
    message = capsys.readouterr().err
    assert name in message
    assert message.count("\n") == 1


@needs_extra
def test_a_picture_that_cannot_be_written_is_refused_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.run(arguments("--output", tmp_path / "missing" / "picture.png")) == 2
    assert demo.run(arguments("--output", tmp_path / "picture.jpg")) == 2
    assert "missing" in capsys.readouterr().err


def test_a_missing_extra_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "NEEDED", ("sys", "a_package_that_is_not_there"))
    assert demo.run(arguments()) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "pip install 'numpy-sharedarray[demo]'" in message


@needs_extra
def test_short_shared_memory_makes_a_smaller_landscape(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make = sa.empty

    def limited(shape: tuple[int, int], dtype: npt.DTypeLike) -> sa.SharedArray:
        if math.prod(shape) > 600_000:
            raise sa.OutOfSharedMemoryError("too much for this test")
        return make(shape, dtype)

    monkeypatch.setattr(sa, "empty", limited)
    measured = landscape.measured_landscape()
    elevation, _, _ = demo._prepare(measured, None, True)
    assert elevation.size == pytest.approx(500_000, rel=0.01)
    message = capsys.readouterr().err
    assert "0.5 instead of 4 million" in message
    assert message.count("\n") == 1
    with pytest.raises(sa.OutOfSharedMemoryError):
        demo._prepare(measured, 2.0, False)


@pytest.mark.parametrize("words", [["--size", "0"], ["--size", "nan"], ["--size", "inf"], ["--workers", "0"]])
def test_bad_numbers_are_usage_errors(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        arguments(*words)
    assert stopped.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_importing_the_package_does_not_import_the_demo() -> None:
    import subprocess

    check = (
        "import sys, sharedarray; sys.exit('sharedarray._demo' in sys.modules or 'matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
