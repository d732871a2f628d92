"""Worker processes: results, errors and signals reach the parent, and no process is left behind."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from cifm_backends import BackendUnavailableError
from cifm_cli.errors import CifmError, StopRequested
from cifm_cli.processes import LostContactError, Member, WorkerError, WorkerPool, run_group

logger = logging.getLogger("cifm_cli.test_processes")


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    yield
    assert multiprocessing.active_children() == []


def make_pool(start: Callable, num_workers: int = 2, **options: object) -> WorkerPool:
    return WorkerPool(num_workers, start, name="test process", hint="use fewer", **options)


def start_counting(number: int) -> Callable[[int], tuple[int, int, int]]:
    """Return the task's square, the number of the worker and how many tasks it has done."""
    done: list[int] = []

    def work(task: int) -> tuple[int, int, int]:
        done.append(task)
        return task**2, number, len(done)

    return work


def start_raising(_number: int, error: BaseException) -> Callable[[str], str]:
    """Raise the error for the task `bad`."""

    def work(task: str) -> str:
        if task == "bad":
            raise error
        return task.upper()

    return work


def start_dying(_number: int, exit_code: int) -> Callable[[str], str]:
    """End the process for the task `bad`; a negative code is a signal."""

    def work(task: str) -> str:
        if task != "bad":
            return task.upper()
        if exit_code < 0:
            os.kill(os.getpid(), -exit_code)
        os._exit(exit_code)

    return work


def start_failing(_number: int) -> Callable[[str], str]:
    raise CifmError("no model there", "train one")


def start_logging(_number: int) -> Callable[[str], None]:
    def work(task: str) -> None:
        logger.info("%s: first", task)
        logger.warning("%s: second", task)

    return work


def start_sleeping(_number: int) -> Callable[[float], None]:
    return time.sleep


def start_reading_threads(_number: int) -> Callable[[object], tuple[int, bool]]:
    import torch

    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    return lambda _: (torch.get_num_threads(), ignored)


def test_every_task_gets_its_result_and_workers_keep_their_state() -> None:
    with make_pool(start_counting) as pool:
        results = dict(pool.run(range(7)))
        again = dict(pool.run([10]))
    assert {task: square for task, (square, _, _) in results.items()} == {task: task**2 for task in range(7)}
    assert {number for _, number, _ in results.values()} <= {0, 1}
    assert again[10][0] == 100
    assert again[10][2] > 1


def test_without_tasks_there_are_no_results() -> None:
    with make_pool(start_counting, 1) as pool:
        assert list(pool.run([])) == []


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (CifmError("slide a: no cells", "prepare it again"), CifmError),
        (BackendUnavailableError("no backend named x"), BackendUnavailableError),
        (ZeroDivisionError("a bug"), WorkerError),
    ],
)
def test_an_error_in_a_worker_is_raised_in_the_parent(
    error: Exception, raised: type[Exception], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(raised, match=str(error)) as caught, make_pool(partial(start_raising, error=error)) as pool:
        list(pool.run(["good", "bad", "bad", "good"]))
    if isinstance(error, CifmError):
        assert caught.value.hint == "prepare it again"
    if raised is WorkerError:
        assert "raise error" in str(caught.value), "no traceback of the worker"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("exit_code", "end"), [(3, "ended with exit code 3"), (-9, r"was killed \(SIGKILL\)")])
def test_a_worker_that_dies_is_an_error_with_a_hint(exit_code: int, end: str) -> None:
    start = partial(start_dying, exit_code=exit_code)
    with pytest.raises(CifmError, match=f"test process 0 {end}") as caught, make_pool(start, 1) as pool:
        list(pool.run(["bad"]))
    assert caught.value.hint == "use fewer"


def test_other_tasks_continue_after_an_error_on_request() -> None:
    tasks = ["a", "bad", "b", "c"]
    with make_pool(partial(start_raising, error=CifmError("broken", "mend it"))) as pool:
        raised = dict(pool.attempt(tasks))
    with make_pool(partial(start_dying, exit_code=3)) as pool:
        died = dict(pool.attempt(tasks))
    for results in (raised, died):
        assert {task: result for task, result in results.items() if task != "bad"} == {"a": "A", "b": "B", "c": "C"}
        assert isinstance(results["bad"], CifmError)
    assert (raised["bad"].message, raised["bad"].hint) == ("broken", "mend it")
    assert died["bad"].message.endswith("ended with exit code 3")


def test_a_worker_that_cannot_start_is_an_error() -> None:
    with pytest.raises(CifmError, match="no model there"), make_pool(start_failing) as pool:
        list(pool.run(["a", "b", "c"]))


@pytest.mark.parametrize("error", [KeyboardInterrupt, StopRequested, ValueError])
def test_an_exception_in_the_parent_ends_workers_at_once(error: type[BaseException]) -> None:
    def raise_after_first_result(pool: WorkerPool) -> None:
        for _task in pool.run([0.0, 600.0]):
            raise error

    began = time.monotonic()
    with pytest.raises(error), make_pool(start_sleeping) as pool:
        raise_after_first_result(pool)
    assert time.monotonic() - began < 60


def test_leaving_a_pool_early_starts_no_further_tasks() -> None:
    with make_pool(start_sleeping) as pool:
        next(results := pool.run([0.0, 600.0]))
        results.close()
        with pytest.raises(RuntimeError, match="ended"):
            list(pool.run([0.0]))


@pytest.mark.parametrize("level", [logging.ERROR, logging.INFO])
def test_log_records_are_passed_on_only_on_request(
    level: int, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    with make_pool(start_logging, log_level=level) as pool:
        list(pool.run(["a", "b"]))
    lines = [record.getMessage() for record in caplog.records]
    expected = [["a: first", "a: second", "b: first", "b: second"], ["b: first", "b: second", "a: first", "a: second"]]
    assert lines in (expected if level == logging.INFO else [[]])
    assert capfd.readouterr().err == ""


def test_workers_use_the_given_number_of_threads_and_ignore_ctrl_c() -> None:
    with make_pool(start_reading_threads, 1, num_threads=3) as pool:
        assert list(pool.run([None])) == [(None, (3, True))]


def work_in_a_group(folder: Path, ends: dict[str, str]) -> str:
    """End in the way that `ends` gives for the number in the environment."""
    number = os.environ["NUMBER"]
    (folder / number).touch()
    end = ends.get(number, "result")
    if end == "lost":
        raise LostContactError("lost contact", "see above")
    if end == "error":
        raise CifmError("disk full", "empty it")
    if end == "bug":
        raise ZeroDivisionError
    if end == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if end == "wait":
        time.sleep(600)
    return f"result of {number}"


def run_members(folder: Path, *ends: str) -> list[str]:
    members = [Member(f"member {number}", {"NUMBER": str(number)}) for number in range(len(ends))]
    work = partial(work_in_a_group, folder, {str(number): end for number, end in enumerate(ends)})
    return run_group(work, members, hint="start again")


def test_a_group_returns_results_in_the_order_of_its_members(tmp_path: Path) -> None:
    assert run_members(tmp_path, "result", "result") == ["result of 0", "result of 1"]


@pytest.mark.parametrize(
    ("ends", "raised", "message"),
    [
        (("lost", "error"), CifmError, "disk full"),
        (("lost", "kill"), CifmError, r"member 1 was killed \(SIGKILL\)"),
        (("lost", "bug"), WorkerError, "ZeroDivisionError"),
        (("lost", "lost"), LostContactError, "lost contact"),
        (("wait", "error"), CifmError, "disk full"),
    ],
)
def test_a_group_raises_the_first_error(
    ends: tuple[str, ...],
    raised: type[Exception],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cifm_cli.processes.group.GRACE_S", 0.5)
    with pytest.raises(raised, match=message):
        run_members(tmp_path, *ends)


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, StopRequested)])
def test_signals_reach_every_process_of_a_group(
    number: signal.Signals, raised: type[BaseException], tmp_path: Path
) -> None:
    def send_signal(_signal: int, _frame: object) -> None:
        if len(list(tmp_path.iterdir())) < 2:
            signal.setitimer(signal.ITIMER_REAL, 0.1)
        else:
            signal.raise_signal(number)

    before = signal.signal(signal.SIGALRM, send_signal)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(raised):
            run_members(tmp_path, "wait", "wait")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
