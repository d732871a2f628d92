"""Evaluation in several processes: each takes the next predictor when it is done with one.

The result of a predictor depends on no other, so the numbers do not depend on the number of processes.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch

from cifm_cli.data.slide import open_slide
from cifm_cli.evaluation.predictors.base import MODEL, ModelPredictor, is_model
from cifm_cli.evaluation.setup import set_up
from cifm_cli.inference.loaded_model import choose_device, load_model
from cifm_cli.processes import WorkerPool

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from cifm_cli.evaluation.evaluator import Evaluator, PredictorResult
    from cifm_cli.evaluation.setup import EvaluateConfig, SlideSetup


class EvaluationTask(NamedTuple):
    """One predictor on one slide and geometry."""

    path: Path  # the prepared slide
    geometry: str  # name of the geometry
    predictor: str  # name of the predictor


def load_models(config: EvaluateConfig, device: str | None = None) -> list[ModelPredictor]:
    """Load the models that a config names.

    Args:
        config: The user's choices.
        device: Device in place of the config's.

    Returns:
        The models; the first is called `model`, the others `model:RUN`.

    Raises:
        CifmError: A checkpoint can't be used, or there is no such device.
        BackendUnavailableError: There is no such backend here.
    """
    return [
        ModelPredictor(
            MODEL if position == 0 else f"{MODEL}:{run.name}",
            load_model(run, config.backend, device or config.device, config.precision),
            config.adapt,
        )
        for position, run in enumerate(config.models)
    ]


def evaluation_pool(config: EvaluateConfig) -> WorkerPool[EvaluationTask, PredictorResult]:
    """Processes that evaluate predictors, not yet started; `config` is completed."""
    return WorkerPool(
        config.num_processes,
        partial(start_worker, config),
        name="evaluation process",
        hint="the reason is above; where there is none, memory was exhausted: use fewer --devices",
        num_threads=max(1, torch.get_num_threads() // config.num_processes),
    )


def order_tasks(path: Path, geometry: str, predictors: Sequence[str]) -> list[EvaluationTask]:
    """Order the predictors, the slowest first: models, then baselines from the last, which learn, to the first."""
    models = [name for name in predictors if is_model(name)]
    ordered = [*models, *reversed(predictors[len(models) :])]
    return [EvaluationTask(path, geometry, name) for name in ordered]


def start_worker(config: EvaluateConfig, number: int) -> Callable[[EvaluationTask], PredictorResult]:
    """Load the models in a process; the result evaluates tasks."""
    return _Worker(config, number)


class _Worker:
    """State of a process: the models, one slide, and one geometry."""

    def __init__(self, config: EvaluateConfig, number: int) -> None:
        self._config = config
        self._models = load_models(config, _device_of_process(config.device, number))
        self._setup: tuple[Path, SlideSetup] | None = None
        self._evaluator: tuple[str, Evaluator] | None = None

    def __call__(self, task: EvaluationTask) -> PredictorResult:
        """Evaluate one predictor."""
        # Tasks come slide by slide and geometry by geometry, so one of each in memory is enough.
        if self._setup is None or self._setup[0] != task.path:
            self._setup = task.path, set_up(self._config, open_slide(task.path), self._models)
            self._evaluator = None
        setup = self._setup[1]
        if self._evaluator is None or self._evaluator[0] != task.geometry:
            self._evaluator = task.geometry, setup.evaluator(task.geometry, setup.planner.plan(task.geometry))
        return self._evaluator[1].evaluate(setup.predictor(task.predictor))


def _device_of_process(name: str, number: int) -> str:
    """Distribute the GPUs over the processes where the user did not name one of them."""
    device = choose_device(name)
    if device.type != "cuda" or device.index is not None:
        return str(device)
    return f"cuda:{number % torch.cuda.device_count()}"
