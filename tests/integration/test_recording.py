"""Streams in ls, info and top; streams in files, and files as streams."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ANSWER, FORKS, Puppet, wait_until
from needs import needs_signals

import sharedarray as sa
from sharedarray import _cli as cli, _recording as recording, _top as top

pytestmark = pytest.mark.skipif(not FORKS, reason="these systems have no wakers")


@pytest.fixture(autouse=True)
def directory(own_directory: str) -> str:
    return own_directory


def run(*arguments: str) -> tuple[int, str, str]:
    """Run the command here; return its exit status and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main(arguments)
    return status, out.getvalue(), err.getvalue()


def status(name: str) -> Any:
    (found,) = [block for block in sa.blocks() if block.name == name]
    assert found.kind == "stream"
    return found.stream


def test_the_state_of_a_stream_is_seen_without_joining_it() -> None:
    producer = sa.Stream("camera", (2, 2), "u1", slots=4)
    fast, slow = sa.Stream("camera"), sa.Stream("camera", lossless=False)
    for number in range(6):
        producer.put(np.full((2, 2), number, "u1"))
        if number < 3:
            slow.get()
        fast.get()
    slow.latest()
    found = status("camera")
    assert (found.slots, found.full, found.published, found.closed) == (4, "wait", 6, False)
    assert (found.producer, found.waits) == (producer_pid := found.consumers[0].pid, False)
    assert [(each.position, each.lag, each.lost, each.lossless) for each in found.consumers] == [
        (6, 0, 0, True),
        (6, 0, 2, False),
    ]
    text = run("info", "camera")[1]
    assert f"6 items published; 4 slots, full='wait'; producer {producer_pid}" in text
    assert "lost 2" in text
    assert json.loads(run("info", "--json", "camera")[1])["stream"]["consumers"][1]["lost"] == 2
    assert json.loads(run("top", "--json")[1])["blocks"][0]["stream"]["published"] == 6
    assert "camera: 6 items published" in run("top", "--once")[1]
    producer.close()
    assert status("camera").closed
    assert status("camera").producer is None
    fast.close()
    slow.close()


def test_top_tells_items_a_second_and_who_waits() -> None:
    times = iter([0.0, 2.0])
    producer = sa.Stream("flow", (), "i8", slots=2)
    consumer = sa.Stream("flow")
    watch = top.Watch(lambda: next(times))
    watch.look()
    producer.put(1)
    producer.put(2)
    blocked = threading.Thread(target=lambda: producer.put(3, timeout=ANSWER))
    blocked.start()
    wait_until(lambda: status("flow").waits, "the producer waits", ANSWER)
    look = watch.look()
    assert [line.items for line in look.lines] == [1.0]
    (line, consumers) = top.streams(top.Screen(look), look.lines)
    assert "1.0 items/s" in line
    assert f"waits for {status('flow').consumers[0].pid}" in line
    assert "lag 2" in consumers
    consumer.get()
    blocked.join(ANSWER)
    consumer.get()
    consumer.get()
    with Puppet("say(1); sa.Stream('flow').get()") as other:
        other.hear()
        wait_until(lambda: any(each.waits for each in status("flow").consumers), "it waits", ANSWER)
        assert "waits for an item" in run("info", "flow")[1]
        producer.put(4)
    producer.close()
    consumer.close()


def test_a_notebook_shows_the_last_item_and_the_parties() -> None:
    producer = sa.Stream("seen", (4, 4), "u1", slots=4)
    html = producer._repr_html_()
    assert "<img" not in html
    assert "parties" in html
    consumer = sa.Stream("seen")
    for number in range(3):
        producer.put(np.full((4, 4), number, "u1"))
    html = consumer._repr_html_()
    assert "<img" in html
    assert html.count("consumer") == 1
    assert "lossless" in html
    producer.close()
    assert "closed" in consumer._repr_html_()
    consumer.close()
    assert "closed" in consumer._repr_html_()
    rows = sa.Stream("rows", {"a": ((2,), "f4"), "b": ((), "i8")})
    with rows.put() as item:
        item["a"][:], item["b"] = 1, 2
    assert "rows" in rows._repr_html_()
    rows.close()


def test_a_dead_consumer_is_not_shown() -> None:
    producer = sa.Stream("left", (), "i8")
    with Puppet("stream = sa.Stream('left'); say(1); hear()") as other:
        other.hear()
        assert len(status("left").consumers) == 1
        other.kill()
        assert status("left").consumers == ()
    producer.close()


@pytest.mark.parametrize("dtype", ["f4", [("t", "f8"), ("xy", "i2", 2)]])
def test_a_stream_is_recorded_and_replayed(tmp_path: Path, dtype: Any) -> None:
    path = tmp_path / "run.npy"
    items = np.zeros((20, 3), dtype)
    items.view(np.uint8)[:] = np.random.default_rng(0).integers(0, 100, items.view(np.uint8).shape)
    producer = sa.Stream("source", items.shape[1:], items.dtype, slots=4)
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(recording.record("source", path)))
    thread.start()
    wait_until(lambda: len(status("source").consumers) == 1, "the recorder has joined", ANSWER)
    for item in items:
        producer.put(item)
    producer.close()
    thread.join(ANSWER)
    assert results == [(20, 0)]
    assert (np.load(path) == items).all()
    assert (np.load(path, mmap_mode="r") == items).all()
    stamps = np.load(recording.times_path(path))
    assert stamps.shape == (20,)
    assert (np.diff(stamps) >= 0).all()

    # A recorder that was killed in between has written one time more than items.
    np.save(recording.times_path(path), np.append(stamps, stamps[-1]))
    waited: list[float] = []
    thread = threading.Thread(
        target=lambda: results.append(recording.replay(path, "again", wait=waited.append))
    )
    thread.start()
    consumer = sa_stream("again")
    found = [item.copy() for item in consumer]
    thread.join(ANSWER)
    assert results[-1] == 20
    assert (np.array(found) == items).all()
    consumer.close()


def sa_stream(name: str) -> Any:
    wait_until(lambda: sa.exists(name), "the stream is made", ANSWER)
    return sa.Stream(name)


def test_the_commands(tmp_path: Path) -> None:
    path = tmp_path / "run.npy"
    np.save(path, np.arange(12).reshape(6, 2))
    statuses: list[Any] = []
    command = ["replay", str(path), "played", "--rate", "500", "--consumers", "2"]
    thread = threading.Thread(target=lambda: statuses.append(cli.main(command)))
    thread.start()
    consumer = sa_stream("played")
    copy = tmp_path / "copy.npy"
    script = "from sharedarray import _cli\nsys.stdout = sys.stderr\nos._exit(_cli.main(sys.argv[1:]))"
    with Puppet(script, "record", "played", copy, "--count", 2) as other:
        assert len(list(consumer)) == 6
        thread.join(ANSWER)
        assert statuses == [0]
        assert other.process.wait(ANSWER) == 0
    assert np.load(copy).tolist() == [[0, 1], [2, 3]]
    consumer.close()
    assert run("record", "none", str(copy.with_name("new.npy")))[0] == 1
    assert "start its producer" in run("record", "none", str(copy.with_name("new.npy")))[2]
    assert run("record", "none", "run.txt")[0] == 2
    assert run("replay", str(path), "played", "--rate", "-1")[0] == 2
    assert not copy.with_name("new.npy").exists()


@needs_signals
def test_ctrl_c_ends_a_recording_which_says_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "run.npy"
    producer = sa.Stream("endless", (2,), "i8")
    script = """
        import signal
        from sharedarray import _cli
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job ignores
        sys.exit(_cli.main(sys.argv[1:]))
    """

    def recorded() -> int:
        try:
            return len(np.load(path))
        except (OSError, EOFError, ValueError):  # it is being made
            return 0

    with Puppet(script, "record", "endless", path) as recorder:
        wait_until(lambda: len(status("endless").consumers) == 1, "the recorder has joined", ANSWER)
        for number in range(3):
            producer.put([number, number])
        wait_until(lambda: recorded() == 3, "all items are in the file", ANSWER)
        recorder.process.send_signal(signal.SIGINT)
        said = recorder.process.communicate(timeout=ANSWER)[0]
        assert recorder.process.returncode == 0
    assert said.startswith(b"3 items in ")
    assert np.load(path).tolist() == [[0, 0], [1, 1], [2, 2]]
    producer.close()


def test_a_replay_says_that_it_waits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.npy"
    np.save(path, np.arange(6).reshape(3, 2))
    thread = threading.Thread(target=cli.main, args=[["replay", str(path), "awaited"]])
    thread.start()
    consumer = sa_stream("awaited")
    assert len(list(consumer)) == 3
    thread.join(ANSWER)
    consumer.close()
    assert cli.main(["replay", str(path), "alone", "--consumers", "0"]) == 0
    said = capsys.readouterr().err
    assert said.startswith("sharedarray: replay: waiting for 1 consumer of awaited; ")
    assert "alone" not in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("record s x.npy --count -1", "argument --count: a whole number of at least 0, not '-1'"),
        ("record s x.npy --seconds -1", "argument --seconds: a positive number, not '-1'"),
        ("record s x.npy --seconds nan", "argument --seconds: a positive number, not 'nan'"),
        ("replay x.npy s --rate 0", "argument --rate: a positive number, not '0'"),
        ("replay x.npy s --slots 0", "argument --slots: a whole number of at least 1, not '0'"),
        ("replay x.npy s --slots 70000", "a stream has 1 to 65535 slots, not 70000"),
        ("replay x.npy s --consumers -1", "argument --consumers: a whole number of at least 0, not '-1'"),
    ],
)
def test_numbers_out_of_range_are_refused(
    words: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.arange(6).reshape(3, 2))
    code, _, text = run(*words.split())
    assert (code, said in text) == (2, True), text


def test_a_recording_replaces_no_file_unasked(tmp_path: Path) -> None:
    path = tmp_path / "run.npy"
    path.write_bytes(b"mine")
    producer = sa.Stream("careful", (), "i8", full="drop_oldest")
    status_, _, text = run("record", "careful", str(path), "--count", "0")
    assert (status_, "--force" in text) == (1, True)
    assert path.read_bytes() == b"mine"
    path.unlink()
    recording.times_path(path).write_bytes(b"mine too")
    assert run("record", "careful", str(path), "--count", "0")[0] == 1
    assert recording.times_path(path).read_bytes() == b"mine too"
    assert not path.exists()
    assert run("record", "careful", str(path), "--count", "0", "--force")[0] == 0
    assert np.load(path).shape == (0,)
    assert run("record", "careful", str(path), "--seconds", "0.01", "--force", "--lossy")[0] == 0
    producer.close()
    array = sa.zeros(3, name="array")
    assert run("record", "array", str(tmp_path / "x.npy"))[0] == 1
    array.close()
