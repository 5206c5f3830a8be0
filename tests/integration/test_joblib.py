"""``joblib.parallel_config(backend="sharedarray")``: joblib and scikit-learn on a pool."""

from __future__ import annotations

import gc
import mmap
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import array_classes
import numpy as np
import pytest
from helpers import FORKS, KILL, SIGNALS, Puppet, alive, answer, janitors, nothing_left, run, wait_until

import sharedarray as sa
from sharedarray._bench import memory
from sharedarray._segment import mapping_of

joblib = pytest.importorskip("joblib")
from joblib import Parallel, delayed, parallel_config  # noqa: E402

from sharedarray.integrations.joblib import SharedArrayBackend, end_idle_workers  # noqa: E402

# Workers stay for the next call that wants the same, and their fork server stays as well.
pytestmark = pytest.mark.lingers("thread", "child", "descriptor")
MB = 1 << 20


@pytest.fixture(autouse=True)
def ours() -> Iterator[None]:
    with parallel_config(backend="sharedarray", n_jobs=2):
        yield


@pytest.fixture(autouse=True, scope="module")
def afterwards() -> Iterator[None]:
    yield
    end_idle_workers()
    assert not [each for each in threading.enumerate() if "sharedarray" in each.name]


def raises(error: BaseException, item: int) -> int:
    if item == 3:
        raise error
    return item


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (StopIteration("end"), RuntimeError("the task raised StopIteration")),
        (SystemExit(3), SystemExit(3)),
        (GeneratorExit("end"), GeneratorExit("end")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_no_ordinary_exception_ends_a_call(error: BaseException, seen: BaseException) -> None:
    with pytest.raises(type(seen), match=f"^{seen}$"):
        Parallel()(delayed(raises)(error, item) for item in range(6))
    assert Parallel()(delayed(abs)(-item) for item in range(3)) == [0, 1, 2]


# -- being known ----------------------------------------------------------------------------------------

PROGRAM = """
    import sys
    {imports}
    assert "sharedarray.integrations.joblib" not in sys.modules
    with joblib.parallel_config(backend="sharedarray", n_jobs=2):
        print(joblib.Parallel()(joblib.delayed(lambda x: x + 1)(i) for i in range(5)))
    print(joblib.Parallel(2, backend="sharedarray")(joblib.delayed(abs)(-i) for i in range(3)))
"""


@pytest.mark.parametrize(
    "imports",
    ["import sharedarray, joblib", pytest.param("import joblib, sharedarray", marks=pytest.mark.slow)],
)
def test_it_is_known_whichever_is_imported_first(imports: str) -> None:
    assert run(PROGRAM.format(imports=imports)).stdout == "[1, 2, 3, 4, 5]\n[0, 1, 2]\n"


def test_importing_sharedarray_does_not_import_joblib() -> None:
    script = "import sys, sharedarray as sa; from helpers import say; sa.Pool; say('joblib' in sys.modules)"
    assert answer(script) is False


def test_a_missing_joblib_is_one_clear_line() -> None:
    done = run("import sys; sys.modules['joblib'] = None; import sharedarray.integrations.joblib", status=1)
    last = done.stderr.strip().splitlines()[-1]
    assert last.endswith("needs joblib: pip install 'numpy-sharedarray[joblib]'")


# -- arguments and results ------------------------------------------------------------------------------


def seen(array: Any) -> tuple[str, bool, tuple[int, int] | None, float]:
    found = mapping_of(array)
    block = None if found is None else (found.device, found.inode)
    return type(array).__name__, array.flags.writeable, block, float(np.asarray(array, float).sum())


def test_shared_arrays_are_the_same_memory() -> None:
    with sa.zeros((4, 1000)) as array:
        found = mapping_of(array)
        assert found is not None
        block = found.device, found.inode
        assert Parallel()(delayed(seen)(row) for row in array) == [("SharedArray", True, block, 0.0)] * 4
        Parallel()(delayed(np.copyto)(array[i], i) for i in range(4))
        assert (array == np.arange(4.0)[:, None]).all()


def test_a_plain_large_array_is_shared_once_for_all_tasks() -> None:
    array, order = np.ones((1000, 200)), np.asfortranarray(np.ones((1000, 200)))
    found = Parallel(batch_size=1)(delayed(seen)(a) for a in [array, order] * 4)
    assert {(kind, writable, total) for kind, writable, _, total in found} == {("ndarray", False, 200_000.0)}
    blocks = [block for _, _, block, _ in found]
    assert len(set(blocks[::2])) == len(set(blocks[1::2])) == 1
    assert len(set(blocks)) == 2
    assert sa.blocks() == []


def test_wherever_in_the_arguments_it_is() -> None:
    pandas = pytest.importorskip("pandas")
    array = np.ones(MB // 4)
    frame = pandas.DataFrame({"a": array, "b": array})

    def inside(thing: Any) -> list[bool]:
        return [mapping_of(thing["x"][0]) is not None, mapping_of(thing["frame"]["b"].to_numpy()) is not None]

    assert Parallel()(delayed(inside)({"x": [array], "frame": frame}) for _ in range(2)) == [[True, True]] * 2


def write(array: Any, i: int, seen: int) -> bool:
    """Write, if it is allowed, once others are seen to have written so often."""
    wait_until(lambda: int(array[:8].sum()) == seen, "others have written")
    if array.flags.writeable:
        array[i] = 1
    return bool(array.flags.writeable)


@pytest.mark.parametrize(
    ("options", "writable"),
    [
        ({"mmap_mode": "r"}, False),
        ({"mmap_mode": "c"}, True),
        ({"mmap_mode": "r+"}, True),
        ({"mmap_mode": None}, True),
        ({"max_nbytes": None}, True),
        ({"max_nbytes": "2M"}, True),
    ],
)
def test_modes_are_joblibs(options: dict[str, Any], writable: bool) -> None:
    array = np.zeros(MB // 8)
    shared = options.get("mmap_mode") == "r+"
    with parallel_config(backend="sharedarray", n_jobs=2, **options):
        calls = (delayed(write)(array, i, i if shared else 0) for i in range(4))
        assert Parallel(batch_size=1)(calls) == [writable] * 4
    assert not array.any()


def test_what_comes_back_belongs_to_the_caller() -> None:
    array = np.ones(MB // 4)
    results = Parallel()(delayed(lambda a: a[: MB // 8])(array) for _ in range(3))
    assert all(type(r) is np.ndarray and r.flags.writeable and r.sum() == MB // 8 for r in results)
    made = Parallel()(delayed(np.full)(MB // 4, i) for i in range(3))
    assert all(r.flags.writeable and isinstance(_memory(r), mmap.mmap) for r in made)  # as it came
    shared = Parallel()(delayed(lambda i: sa.share(np.full(10, i)))(i) for i in range(3))
    assert [type(r) is sa.SharedArray and int(r.sum()) for r in shared] == [0, 10, 20]
    del results, made, shared
    gc.collect()
    wait_until(nothing_left, "nothing is left of the results")


def _memory(array: Any) -> Any:
    while not isinstance(array, mmap.mmap | None):
        array = array.obj if isinstance(array, memoryview) else getattr(array, "base", None)
    return array


def test_a_map_of_a_file_stays_one(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(50_000.0).reshape(500, 100))
    array = np.load(tmp_path / "a.npy", mmap_mode="r")
    private = np.load(tmp_path / "a.npy", mmap_mode="c")
    private[:] = 0
    writable = np.load(tmp_path / "a.npy", mmap_mode="r+")

    def look(a: Any) -> tuple[str, bool, float]:
        return type(a).__name__, a.flags.writeable, float(a.sum())

    part = array[100:200:3, ::-2]
    assert Parallel()(delayed(look)(a) for a in (array, part, private)) == [
        ("memmap", False, float(array.sum())),
        ("memmap", False, float(part.sum())),
        ("ndarray", True, 0.0),
    ]
    Parallel()(delayed(np.copyto)(writable[i], -1) for i in range(2))
    assert (array[:2] == -1).all()


def test_what_the_caller_changes_between_calls_is_seen() -> None:
    array = np.zeros(MB // 8)
    with Parallel() as parallel:
        for value in range(3):
            array[:] = value
            assert parallel(delayed(np.max)(array) for _ in range(2)) == [value] * 2


def test_objects_that_no_block_can_hold_are_pickled() -> None:
    words = np.array(["x"] * 200_000, dtype=object)
    ragged = np.zeros(40_000, [("a", "f8"), ("b", "O")])
    masked = np.ma.array(np.ones(200_000), mask=False)
    assert Parallel()(delayed(len)(a) for a in (words, ragged, masked)) == [200_000, 40_000, 200_000]


@pytest.mark.slow
def test_masked_arrays_and_other_subclasses() -> None:
    """The attributes of a subclass arrive; memory in a block by reference, other memory as a copy."""
    for size in (8, MB):
        for hold in (array_classes.in_block, array_classes.private):
            for name in ("masked", "masked, hard", "recarray", "its own reduction", "an attribute"):
                sent = array_classes.CASES[name](size, hold)
                for found in Parallel()(delayed(array_classes.identity)(each) for each in (sent, sent)):
                    assert array_classes.facts(found) == array_classes.facts(sent)
                    assert array_classes.is_in_block(found) == array_classes.is_in_block(sent)
                assert (
                    Parallel()(delayed(array_classes.is_writable)(each) for each in (sent, sent))
                    == [True] * 2
                )


def test_a_masked_array_over_a_map_of_a_file(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "data", "f8", "w+", shape=(8,))
    mapped[:] = np.arange(8)
    sent = array_classes.masked(mapped, np.arange(8) > 3)
    assert Parallel()(delayed(np.ma.sum)(each) for each in (sent, sent)) == [6, 6]


def test_large_arrays_that_no_block_can_hold_go_with_the_batch() -> None:
    dtype = pytest.importorskip("ml_dtypes").bfloat16
    sent = np.ones(MB).astype(dtype)
    for found in Parallel()(delayed(np.copy)(each) for each in (sent, sent)):
        assert (found.dtype, found.tobytes()) == (sent.dtype, sent.tobytes())


# -- what happens ---------------------------------------------------------------------------------------


def fail(i: int) -> int:
    if i == 7:
        raise KeyError(i)
    return i


def test_what_cannot_be_sent_is_named(tmp_path: Path) -> None:
    lock = threading.Lock()

    def locked(item: int) -> int:
        with lock:
            return item

    with pytest.raises(sa.NotPicklableError, match=r"the variable 'lock', which .*locked uses"):
        Parallel()(delayed(locked)(item) for item in range(4))
    found = r"an open file .* as argument .*, at .*\['file'\]"
    with open(tmp_path / "log", "w") as file, pytest.raises(sa.NotPicklableError, match=found):
        Parallel()(delayed(raises)({"file": file}, item) for item in range(3))
    assert Parallel()(delayed(abs)(-item) for item in range(4)) == [0, 1, 2, 3]


def test_exceptions_come_out_and_the_next_call_works() -> None:
    with pytest.raises(KeyError) as caught:
        Parallel()(delayed(fail)(i) for i in range(20))
    assert "in fail" in str(caught.value.__cause__)
    assert Parallel()(delayed(fail)(i) for i in range(5)) == list(range(5))
    with pytest.raises(Exception, match="pickle"):
        Parallel()(delayed(id)(threading.Lock()) for _ in range(3))
    with pytest.raises(sa.WorkerDied, match="SIGKILL" if SIGNALS else "exit code"):
        Parallel()(delayed(os.kill)(os_pid, KILL) for os_pid in [WorkersOwn()])
    assert Parallel()(delayed(abs)(i) for i in range(3)) == [0, 1, 2]


class WorkersOwn:
    """Is the pid of the process that it arrives in."""

    def __reduce__(self) -> Any:
        return os.getpid, ()


def test_a_worker_that_died_is_replaced_where_retries_are_asked_for(tmp_path: Path) -> None:
    def once(i: int) -> int:
        mark = tmp_path / str(i)
        if i == 3 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), KILL)
        return i

    with parallel_config(backend="sharedarray", n_jobs=2, retries=1):
        assert Parallel()(delayed(once)(i) for i in range(6)) == list(range(6))


def test_a_timeout_ends_what_runs(tmp_path: Path) -> None:
    with pytest.raises(multiprocessing.TimeoutError):
        Parallel(timeout=0.1)(delayed(_begin_and_sleep)(tmp_path) for _ in range(2))
    pids = [int(path.name) for path in tmp_path.iterdir()]
    assert not any(map(alive, pids))


def _begin_and_sleep(where: Path) -> None:
    (where / str(os.getpid())).touch()
    time.sleep(60)


def test_workers_are_kept_for_the_next_call() -> None:
    first = set(Parallel()(delayed(os.getpid)() for _ in range(20)))
    assert set(Parallel()(delayed(os.getpid)() for _ in range(20))) & first
    end_idle_workers()
    assert not set(Parallel()(delayed(os.getpid)() for _ in range(20))) & first


def inherited() -> tuple[str | None, str, str]:
    return os.environ.get("SA_LATER"), os.getcwd(), sys.path[-1]


@pytest.mark.slow  # each change starts new workers
def test_workers_that_have_inherited_something_else_are_not_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def both() -> set[tuple[str | None, str, str]]:
        return set(Parallel()(delayed(inherited)() for _ in range(2)))

    both()
    monkeypatch.setenv("SA_LATER", "1")
    assert both() == {inherited()}
    monkeypatch.chdir(tmp_path)
    assert both() == {inherited()}
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert both() == {inherited()}
    monkeypatch.delenv("SA_LATER")
    assert both() == {inherited()}


def nested(i: int) -> list[int]:
    with parallel_config(backend="sharedarray", n_jobs=2):
        return list(Parallel()(delayed(pow)(i, j) for j in range(3)))


@pytest.mark.slow
def test_workers_with_workers_of_their_own_end() -> None:
    assert Parallel()(delayed(nested)(i) for i in range(4)) == [[1, i, i * i] for i in range(4)]
    end_idle_workers()  # which waits for them


@pytest.mark.slow
def test_unneeded_workers_end() -> None:
    with parallel_config(backend="sharedarray", n_jobs=2, idle_worker_timeout=0.05):
        (pid,) = Parallel(batch_size=1)(delayed(os.getpid)() for _ in range(1))
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the idle worker ends")


@pytest.mark.slow
def test_calls_in_several_threads_have_workers_of_their_own() -> None:
    found: dict[int, list[int]] = {}
    meet = threading.Barrier(3)

    def call(number: int) -> None:
        with parallel_config(backend="sharedarray", n_jobs=2), Parallel() as parallel:
            meet.wait(60)
            found[number] = parallel(delayed(os.getpid)() for _ in range(8))
            meet.wait(60)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(3)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not set(found[0]) & set(found[1])
    assert not set(found[1]) & set(found[2])
    end_idle_workers()


def inner() -> tuple[str, int]:
    return type(joblib.parallel.get_active_backend()[0]).__name__, os.getpid()


def outer() -> tuple[str, list[tuple[str, int]], int]:
    return (*inner()[:1], Parallel(n_jobs=2)(delayed(inner)() for _ in range(2)), os.getpid())


def test_calls_within_calls_are_threads() -> None:
    for kind, within, pid in Parallel()(delayed(outer)() for _ in range(2)):
        assert kind == "ThreadingBackend"
        assert within == [("SequentialBackend", pid)] * 2


def test_options(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TypeError, match="colour"):
        Parallel(colour="red")(delayed(abs)(i) for i in range(3))
    with parallel_config(backend="sharedarray", n_jobs=2, inner_max_num_threads=3):
        assert Parallel()(delayed(os.getenv)("OMP_NUM_THREADS") for _ in range(2)) == ["3", "3"]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # what the user has set holds, of each variable
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "5")
    with parallel_config(backend="sharedarray", n_jobs=2):
        assert Parallel()(delayed(os.getenv)(f"{name}_NUM_THREADS") for name in ("OMP", "OPENBLAS")) == [
            "1",
            "5",
        ]
    backend = SharedArrayBackend(nesting_level=0)
    assert backend.effective_n_jobs(-1) == joblib.cpu_count()
    assert [backend.effective_n_jobs(n) for n in (None, 1, 3)] == [1, 1, 3]
    with pytest.raises(ValueError, match="n_jobs == 0"):
        backend.effective_n_jobs(0)


def loaded(name: str) -> bool:
    return name in sys.modules


@pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="no fork server")
def test_modules_are_loaded_once_for_all_workers() -> None:
    with sa.Pool(1) as pool, sa.Pool(1, preload=["wave"]) as prepared:
        assert [each.submit(loaded, "wave").result() for each in (pool, prepared)] == [False, True]
    assert all(Parallel()(delayed(loaded)("sharedarray.integrations.joblib") for _ in range(2)))
    with pytest.raises(TypeError, match=r"write \['wave'\]"):
        sa.Pool(1, preload="wave")


# -- scikit-learn ---------------------------------------------------------------------------------------


def _searched(x: Any, y: Any) -> tuple[Any, ...]:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    search = GridSearchCV(model, {"logisticregression__C": [0.01, 0.1, 1]}, cv=3, n_jobs=2).fit(x, y)
    forest = RandomForestClassifier(20, n_jobs=2, random_state=0).fit(x, y)
    scores = search.cv_results_["mean_test_score"]
    return search.best_params_, scores, search.predict_proba(x), forest.predict_proba(x)


@pytest.mark.slow
def test_grid_search_and_forest_are_as_with_loky() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_breast_cancer(return_X_y=True)
    ours = _searched(x, y)
    with sa.share(x) as shared:
        from_shared = _searched(shared, y)
    with parallel_config(backend="loky"):
        theirs = _searched(x, y)
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True)
    for found in (ours, from_shared):
        assert found[0] == theirs[0]
        for one, other in zip(found[1:], theirs[1:], strict=True):
            np.testing.assert_array_equal(one, other)


FITS = """
    import time, warnings
    import joblib, numpy as np
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    warnings.simplefilter("ignore")  # that it has not converged
    x, y = load_digits(return_X_y=True)
    x, y = np.tile(x, (10, 1)), np.tile(y, 10)
    with joblib.parallel_config(backend=sys.argv[1]):
        forest = RandomForestClassifier(10, max_depth=8, n_jobs=2, random_state=0).fit(x, y)
        model = LogisticRegression(max_iter=5, tol=1)
        search = GridSearchCV(model, {"C": [0.1, 1.0]}, cv=2, n_jobs=2).fit(x, y)
        joblib.Parallel(2)(joblib.delayed(time.sleep)(0.1) for _ in range(4))  # both workers are there
    forest.set_params(n_jobs=1)  # threads add up in any order
    say((forest.predict_proba(x[:50]).tolist(), search.cv_results_["mean_test_score"].tolist()))
    hear()
"""


@pytest.mark.slow
@pytest.mark.skipif(memory.why_not() is not None, reason=str(memory.why_not()))
def test_the_processes_of_a_fit_have_less_memory_than_lokys() -> None:
    pytest.importorskip("sklearn")
    results, sizes = {}, {}
    for backend in ("sharedarray", "loky"):
        with Puppet(FITS, backend) as program:
            results[backend] = program.hear()
            sizes[backend] = sum(map(proportional, {*memory.process_tree(program.pid), *janitors()}))
            program.end()
    assert results["sharedarray"] == results["loky"]
    assert sizes["sharedarray"] < sizes["loky"]


def proportional(pid: int) -> int:
    """Return bytes of a process, of what several have mapped its part, memory files included."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:  # it has just ended
        return 0
    return int(text.split("Pss:", 1)[1].split()[0]) << 10


@pytest.mark.skipif(not FORKS, reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning", "ignore:.*still being processed")
def test_results_that_a_forked_child_drops_come_in_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    ignored: list[Any] = []
    with parallel_config("sharedarray", n_jobs=2):
        results = Parallel(return_as="generator")(delayed(abs)(-number) for number in range(8))
        assert next(results) == 0
        child = os.fork()
        if not child:
            code = 1
            try:
                monkeypatch.setattr(sys, "unraisablehook", ignored.append)
                del results
                gc.collect()
                code = 2 if ignored else 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert list(results) == list(range(1, 8))
