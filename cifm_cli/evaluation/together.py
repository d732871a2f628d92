"""Several processes judge together: each takes the next predictor when it is done with one, the first collects.

What is found of a predictor depends on no other, so who finds it changes no number.
"""

from __future__ import annotations

import signal
from collections import deque
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass, field
from io import StringIO
from multiprocessing import connection, get_context
from typing import TYPE_CHECKING, NamedTuple

import torch

from cifm_cli.errors import CifmError
from cifm_cli.evaluation.board import is_model
from cifm_cli.evaluation.stage import set_stage
from cifm_cli.inference.loaded_model import choose_device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.connection import Connection
    from pathlib import Path

    from cifm_cli.evaluation.predictors import Predictor
    from cifm_cli.evaluation.stage import Request, Stage
    from cifm_cli.evaluation.trial import Finding, Trial


class Task(NamedTuple):
    """What a process is asked to do.

    Args:
        path: The prepared slide.
        geometry: How cells are hidden.
        predictor: Who is tuned and scored.
    """

    path: Path
    geometry: str
    predictor: str


class Answer(NamedTuple):
    """What it says to that.

    Args:
        task: What was asked.
        finding: What was found; None where that failed.
        error: Message and hint for the user, then.
    """

    task: Task
    finding: Finding | None
    error: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Crew:
    """Processes that wait for tasks.

    Args:
        pipes: One to each.
    """

    pipes: Sequence[Connection]
    _waiting: deque[Task] = field(default_factory=deque)
    _found: dict[Task, Finding] = field(default_factory=dict)

    def begin(self, path: Path, geometries: Sequence[str], predictors: Sequence[str]) -> None:
        """Give out the work on a slide, as far as there are processes for it.

        Args:
            path: The prepared slide.
            geometries: All of them.
            predictors: Models first; they and the last of the baselines take longest and are begun first.
        """
        models = [name for name in predictors if is_model(name)]
        names = [*models, *reversed(predictors[len(models) :])]
        self._waiting.extend(Task(path, geometry, name) for geometry in geometries for name in names)
        for pipe in self.pipes:
            self._give_next(pipe)

    def examine(self, path: Path, trial: Trial, predictor: Predictor, advance: Callable[[float], None]) -> Finding:
        """Wait for what is found of a predictor; as `Trial.examine`.

        Raises:
            CifmError: A task failed, or a process did not come to its end.
        """
        task = Task(path, trial.verdict.geometry, predictor.name)
        while task not in self._found:
            ready = connection.wait(self.pipes)
            for pipe in self.pipes:
                if pipe in ready:
                    self._hear(pipe)
        advance(len(trial.rounds))
        return self._found.pop(task)

    def _hear(self, pipe: Connection) -> None:
        try:
            task, finding, error = pipe.recv()
        except (EOFError, ConnectionResetError) as lost:
            raise CifmError(
                "an evaluation process ended before its time",
                "the reason is above; where there is none, memory was used up: use fewer --devices",
            ) from lost
        if finding is None:
            raise CifmError(*error)
        self._found[task] = finding
        self._give_next(pipe)

    def _give_next(self, pipe: Connection) -> None:
        if self._waiting:
            with suppress(BrokenPipeError):  # that it is gone is seen when it is waited for
                pipe.send(self._waiting.popleft())


@contextmanager
def assemble(request: Request) -> Iterator[Crew | None]:
    """Start the processes that are asked for; they end with the block.

    Args:
        request: What they judge.

    Yields:
        All of them; None where this process is enough.
    """
    if request.devices == 1:
        yield None
        return
    context = get_context("spawn")  # a fork of a process with threads may hang
    threads = max(1, torch.get_num_threads() // request.devices)
    processes, pipes = [], []
    try:
        for number in range(request.devices):
            mine, theirs = context.Pipe()
            process = context.Process(target=_work, args=(request, number, threads, theirs))
            process.start()
            theirs.close()
            processes.append(process)
            pipes.append(mine)
        yield Crew(pipes)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _work(request: Request, number: int, threads: int, pipe: Connection) -> None:
    """What a process does. A bug keeps its traceback, which multiprocessing prints."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    torch.set_num_threads(threads)
    desk = _Desk(request, number)
    with suppress(EOFError, BrokenPipeError):  # it is gone itself
        while True:
            pipe.send(desk.answer(pipe.recv()))


class _Desk:
    """What a process has in hand: the models, one slide, and one geometry."""

    def __init__(self, request: Request, number: int) -> None:
        self._request = request
        self._models = request.load_models(_own_device(request.device, number))
        self._stage: tuple[Path, Stage] | None = None
        self._trial: tuple[str, Trial] | None = None

    def answer(self, task: Task) -> Answer:
        """Do what is asked."""
        try:
            stage, trial = self._prepare(task)
            return Answer(task, trial.examine(stage.predictor(task.predictor)))
        except CifmError as error:
            return Answer(task, None, (error.message, error.hint))

    def _prepare(self, task: Task) -> tuple[Stage, Trial]:
        """Take up the task's slide and geometry, unless they are in hand."""
        with redirect_stderr(StringIO()):  # the process that started this one says it
            if self._stage is None or self._stage[0] != task.path:
                self._stage, self._trial = (task.path, set_stage(self._request, task.path, self._models)), None
            stage = self._stage[1]
            if self._trial is None or self._trial[0] != task.geometry:
                self._trial = task.geometry, stage.open_trial(self._request, task.geometry)
            return stage, self._trial[1]


def _own_device(name: str, number: int) -> str:
    """The GPUs in turn, where the user named none of them."""
    device = choose_device(name)
    if device.type != "cuda" or device.index is not None:
        return str(device)
    return f"cuda:{number % torch.cuda.device_count()}"
