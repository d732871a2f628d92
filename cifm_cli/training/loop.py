"""The training loop: `train` opens a run, `fit` steps, `look` validates. Meant to be read, and edited, top to bottom."""

from __future__ import annotations

import math
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from cifm_cli import keys
from cifm_cli.errors import CifmError, StopRequested
from cifm_cli.model.objective import loss
from cifm_cli.model.smoother import LeastSquares
from cifm_cli.report.terminal import progress, say
from cifm_cli.training import schedule
from cifm_cli.training.run import RECIPE_FILE, Run, Setup, open_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from cifm_cli.training.corpus import Example

EXPLODED = 100.0  # times the validation loss before the first step
SMOOTHER_TILES = 24  # tiles the smoother is fitted on
AHEAD = 2  # steps whose tiles are made while the network works


def train(setup: Setup) -> dict[str, Any]:
    """Train a model.

    Args:
        setup: What to train, on what, and where to.

    Returns:
        Where the run stands and its folder, for `--json`.

    Raises:
        CifmError: Data, recipe or folder don't do, or the loss is no longer a sensible number.
        BackendUnavailableError: There is no such backend here.
    """
    run = open_run(setup)
    parameters = sum(weight.numel() for weight in run.network.parameters())
    say(f"training {parameters:,} parameters on {run.corpus.num_cells:,} cells of {len(run.corpus.slides)} slide(s)")
    say(
        f"backend {run.backend.name} ({run.backend.version()}), {run.device}, {torch.get_num_threads()} threads: {run.folder}"
    )
    looks = run.corpus.validation(run.seed)
    if run.position.step == 0:
        if setup.init is None:
            fit_smoother(run)
        keep_if_better(run, looks)
    fit(run, looks)
    best = run.position
    say(f"best validation loss {best.best_loss:.4f} at step {best.best_step}, in {run.folder}")
    return {
        "run": str(run.folder),
        "steps": best.step,
        "seconds": round(best.seconds, 1),
        "parameters": parameters,
        "first_loss": best.first_loss,
        "best_loss": best.best_loss,
        "best_step": best.best_step,
    }


def fit(run: Run, looks: list[Example]) -> None:
    """Step until the recipe's steps, minutes or patience are used up, or until somebody stops us.

    Args:
        run: The run; its position moves on.
        looks: Examples of the validation region.
    """
    recipe, position = run.recipe.train, run.position
    with progress("training", recipe.steps) as advance, stop_between_steps() as stopped:
        advance(position.step)
        last = time.monotonic()
        for examples in examples_ahead(run):
            done = schedule.progress(recipe, position.step, position.seconds)
            if done >= 1 or position.looks_since_best >= recipe.patience:
                break
            step_loss = step(run, examples, schedule.learning_rate(recipe, position.step, done))
            position.step += 1
            position.seconds, last = position.seconds + time.monotonic() - last, time.monotonic()
            run.log(loss=step_loss, seconds=round(position.seconds, 2))
            advance(1, f"loss {step_loss:.3f}, best {position.best_loss:.3f}")
            if position.step % recipe.validate_every == 0:
                keep_if_better(run, looks)
            if reason := stopped():
                run.save_state()
                again = f"cifm train {run.folder / RECIPE_FILE} --resume --out {run.folder}"
                say(f"stopped after step {position.step}; go on with: {again}")
                raise reason
    if position.step % recipe.validate_every:
        keep_if_better(run, looks)


def step(run: Run, examples: list[Example], learning_rate: float) -> float:
    """Take one optimiser step.

    Args:
        run: Network and optimiser are changed.
        examples: Masked tiles, each weighing the same.
        learning_rate: Of this step.

    Returns:
        Mean loss.

    Raises:
        CifmError: The loss is not finite, or exploded; the weights are still the ones before the step.
    """
    run.network.train()
    for group in run.optimiser.param_groups:
        group["lr"] = learning_rate
    run.optimiser.zero_grad(set_to_none=True)
    total = 0.0
    for example in examples:
        ready = example.to(run.device)
        value = loss(run.network(run.backend, ready.tile), ready.target, run.recipe.objective) / len(examples)
        value.backward()
        total += value.item()
    norm = torch.nn.utils.clip_grad_norm_(run.network.parameters(), run.recipe.train.clip_norm)
    refuse_nonsense(run, total, norm.item())
    run.optimiser.step()
    return total


def refuse_nonsense(run: Run, value: float, norm: float) -> None:
    """Stop before a loss or gradient that is not finite, or a loss far above the first one, does harm."""
    limit = EXPLODED * run.position.first_loss
    if math.isfinite(value) and math.isfinite(norm) and value <= limit:
        return
    what = "is not finite" if not (math.isfinite(value) and math.isfinite(norm)) else f"exploded beyond {limit:.3g}"
    raise CifmError(
        f"{run.folder}: the loss {what} at step {run.position.step + 1} (loss {value:.3g}, gradient norm {norm:.3g})",
        f"the best model so far, of step {run.position.best_step}, is kept; try a lower train.learning_rate",
    )


@torch.no_grad()
def look(run: Run, looks: list[Example]) -> float:
    """Mean loss on the validation region.

    Args:
        run: Its network is only read.
        looks: The examples, always the same.

    Returns:
        The loss.
    """
    run.network.eval()
    total = 0.0
    for example in looks:
        ready = example.to(run.device)
        total += loss(run.network(run.backend, ready.tile), ready.target, run.recipe.objective).item()
    return total / len(looks)


def keep_if_better(run: Run, looks: list[Example]) -> None:
    """Look at the validation region, keep the model if it is the best so far, and save the state."""
    position, value = run.position, look(run, looks)
    if position.step == 0:
        position.first_loss = value
    position.looks_since_best += 1
    if value < position.best_loss:
        position.best_loss, position.best_step, position.looks_since_best = value, position.step, 0
        run.save_best()
    run.log(validation_loss=value)
    run.save_state()


@torch.no_grad()
def fit_smoother(run: Run) -> None:
    """Fit the blend that the `residual` objective starts from, on training cells: training begins at a baseline."""
    smoother = getattr(run.network.head, "smoother", None)
    if smoother is None:
        return
    smoother.to("cpu")
    smoother.mean_profile[:], smoother.share_profile[:] = run.corpus.profiles()
    num_terms = len(smoother.mean_weights)
    means, shares = (LeastSquares(num_terms, len(run.corpus.vocabulary)) for _ in range(2))
    for number in range(SMOOTHER_TILES):
        example = run.corpus.draw(keys.TRAIN, run.seed, "smoother", number)
        mean_terms, share_terms = smoother.terms(example.tile.around, example.tile.genes)
        means.add(mean_terms, example.target, example.tile.genes)
        shares.add(share_terms, (example.target > 0).float(), example.tile.genes)
    smoother.mean_weights[:], smoother.share_weights[:] = means.solve(), shares.solve()
    smoother.to(run.device)


def examples_ahead(run: Run) -> Iterator[list[Example]]:
    """The tiles of every step from here on, made in a thread while the network works on the ones before."""

    def draw(number: int) -> list[Example]:
        return [
            run.corpus.draw(keys.TRAIN, run.seed, "step", number, tile)
            for tile in range(run.recipe.train.tiles_per_step)
        ]

    first, last = run.position.step, run.recipe.train.steps
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="tiles") as maker:
        waiting = [maker.submit(draw, number) for number in range(first, min(first + AHEAD, last))]
        try:
            for number in range(first, last):
                if number + AHEAD < last:
                    waiting.append(maker.submit(draw, number + AHEAD))
                yield waiting.pop(0).result()
        finally:
            maker.shutdown(wait=True, cancel_futures=True)


@contextmanager
def stop_between_steps() -> Iterator[Callable[[], BaseException | None]]:
    """Hold Ctrl-C and SIGTERM back until a step is whole.

    Yields:
        What to raise, once somebody asked us to stop.
    """
    asked: list[BaseException] = []

    def remember(number: int, frame: FrameType | None) -> None:
        del frame
        asked.append(KeyboardInterrupt() if number == signal.SIGINT else StopRequested())

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked[0] if asked else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
