"""The training loop: `train` opens a run, `begin` fits what is not learned, `fit` steps, `look` validates.

Meant to be read, and edited, top to bottom. Several processes may run it side by side, each on its share of the tiles of
a step: what they have to agree on goes through `run.processes`, and the first alone writes.
"""

from __future__ import annotations

import copy
import math
import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from cifm_cli import provenance
from cifm_cli.data.prefetch import prefetch
from cifm_cli.errors import POLITE_KILLS, CifmError, StopRequested
from cifm_cli.model.dropout import drawing_from
from cifm_cli.model.objective import loss
from cifm_cli.model.precision import computing_in
from cifm_cli.report.terminal import progress, say
from cifm_cli.training import schedule
from cifm_cli.training.distributed import join
from cifm_cli.training.initialise import fit_head
from cifm_cli.training.session import RECIPE_FILE, Run, Setup, open_run
from cifm_cli.training.threads import side_by_side

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from cifm_cli.training.corpus import Example

EXPLODED = 100.0  # times the validation loss before the first step
MAKERS = 4  # threads that make tiles for a GPU
STOPS = (signal.SIGINT, *POLITE_KILLS)


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
    with join() as processes:
        run = open_run(setup, processes)
        parameters = sum(weight.numel() for weight in run.network.parameters())
        say(
            f"training {parameters:,} parameters on {run.corpus.num_cells:,} cells of {len(run.corpus.slides)} slide(s)"
        )
        say(
            f"backend {run.backend.name} ({run.backend.version()}), {run.device}, {describe_machine(run)}: {run.folder}"
        )
        if not setup.resume:
            begin(run, untrained=setup.init is None)
        fit(run)
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


def begin(run: Run, *, untrained: bool) -> None:
    """Prepare the first step: the first process fits what is fitted instead of learned, all get its weights.

    Args:
        run: At step 0.
        untrained: Whether the weights are fresh ones, not those of another run.
    """
    if untrained:
        if run.processes.first:
            fit_head(run)
        run.processes.copy_first(run.network)
    else:
        adapt(run)
    run.start_average()
    run.save_state()


def adapt(run: Run) -> None:
    """Begin fine-tuning: fit profiles and blends to the new slides, and keep them if that infers validation tiles better.

    Args:
        run: At step 0, with the weights of another run.
    """
    if run.recipe.objective.name != "residual":
        return  # nothing is fitted
    given = copy.deepcopy(run.network.state_dict())
    before = look(run)
    if run.processes.first:
        fit_head(run, trained=True)
    run.processes.copy_first(run.network)
    after = look(run)
    say(f"validation loss {before:.4f}; {after:.4f} with profiles and blends of these slides")
    if not after < before:  # nor where it is not a number
        run.network.load_state_dict(given)


def fit(run: Run) -> None:
    """Step until the recipe's steps, minutes or patience are used up, or until somebody stops us.

    Args:
        run: The run; its position moves on.
    """
    recipe, position = run.recipe.train, run.position
    with progress("training", recipe.steps) as advance, stop_between_steps() as asked:
        advance(position.step)
        last = saved = time.monotonic()
        for examples in examples_ahead(run):
            if position.step % recipe.validate_every == 0 and position.looked < position.step:
                keep_if_better(run)
            done = schedule.progress(recipe, position.step, position.seconds)
            if done >= 1 or position.looks_since_best >= recipe.patience:
                break
            step_loss = step(run, examples, schedule.learning_rate(recipe, position.step, done))
            position.step += 1
            if run.average:
                run.average.follow(run.network, position.step)
            elapsed, last = time.monotonic() - last, time.monotonic()
            position.seconds += run.processes.largest(elapsed)  # all must see one clock: the schedule reads it
            run.log(loss=step_loss, seconds=round(position.seconds, 2))
            advance(1, f"loss {step_loss:.3f}, best {position.best_loss:.3f}")
            if number := int(run.processes.largest(asked())):
                stop(run, number)
            if time.monotonic() - saved > 60 * recipe.save_minutes:
                run.save_state()
                saved = time.monotonic()
        if position.looked < position.step:
            keep_if_better(run)


def step(run: Run, examples: list[Example], learning_rate: float) -> float:
    """Take one optimiser step.

    Args:
        run: Network and optimiser are changed.
        examples: This process's share of the step's masked tiles, each weighing the same.
        learning_rate: Of this step.

    Returns:
        Mean loss of all tiles of the step.

    Raises:
        CifmError: The loss is not finite, or exploded; the weights are still the ones before the step.
    """
    run.network.train()
    for group in run.optimiser.param_groups:
        group["lr"] = learning_rate
    run.optimiser.zero_grad(set_to_none=True)
    total = 0.0
    tiles_per_step = run.recipe.train.tiles_per_step
    for tile, example in zip(run.processes.share(tiles_per_step), examples, strict=True):
        total += learn(run, example.to(run.device), run.position.step * tiles_per_step + tile)
    total = run.processes.sum_gradients(run.network, total)
    norm = torch.nn.utils.clip_grad_norm_(run.network.parameters(), run.recipe.train.clip_norm)
    refuse_nonsense(run, total, norm.item())
    run.optimiser.step()
    return total


def learn(run: Run, example: Example, number: int) -> float:
    """Add the gradients of a tile to those of the step; the members of the network learn side by side.

    Args:
        run: The gradients of its network are changed.
        example: The tile, on the run's device.
        number: Of the tile, counted from the start of training.

    Returns:
        The tile's share of the step's loss, a mean over members.
    """
    members, recipe = run.network.members(), run.recipe
    share = 1 / (len(members) * recipe.train.tiles_per_step)

    def teach(member: int) -> float:
        draws = provenance.torch_generator(run.seed, "dropout", number, member)
        with drawing_from(draws), computing_in(recipe.train.precision, run.device):
            output = members[member].infer(run.backend, example.tile)
        value = share * loss(output, example.target, recipe.objective)
        value.backward()
        return value.item()

    return sum(side_by_side(teach, range(len(members)), run.device))


def refuse_nonsense(run: Run, value: float, norm: float) -> None:
    """Stop before a loss or gradient that is not finite, or a loss far above the first one, does harm."""
    limit = EXPLODED * run.position.first_loss
    if math.isfinite(value) and math.isfinite(norm) and value <= limit:
        return
    kept = ""
    if run.position.best_loss < float("inf"):
        kept = f"the best model so far, of step {run.position.best_step}, is kept; "
    what = "is not finite" if not (math.isfinite(value) and math.isfinite(norm)) else f"exploded beyond {limit:.3g}"
    raise CifmError(
        f"{run.folder}: the loss {what} at step {run.position.step + 1} (loss {value:.3g}, gradient norm {norm:.3g})",
        f"{kept}try a lower train.learning_rate",
    )


@torch.no_grad()
def look(run: Run) -> float:
    """Mean loss on the validation region, on tiles that are always the same.

    Args:
        run: What it keeps is only read.

    Returns:
        The loss.
    """
    run.kept.eval()
    total = 0.0
    for example in prefetch(run.corpus.look_example, run.processes.share(run.corpus.num_looks)):
        ready = example.to(run.device)
        with computing_in(run.recipe.train.precision, run.device):
            output = run.kept(run.backend, ready.tile)
        total += loss(output, ready.target, run.recipe.objective).item()
    return run.processes.sum(total) / run.corpus.num_looks


def keep_if_better(run: Run) -> None:
    """Look at the validation region, keep the model if it is the best so far, and save the state."""
    position, value = run.position, look(run)
    if position.step == 0:
        position.first_loss = value
    position.looked = position.step
    position.looks_since_best += 1
    if value < position.best_loss:
        position.best_loss, position.best_step, position.looks_since_best = value, position.step, 0
        run.save_best()
    run.log(validation_loss=value)
    run.save_state()


def examples_ahead(run: Run) -> Iterator[list[Example]]:
    """This process's tiles of every step from here on, made while the network works on the ones before."""
    tiles_per_step = run.recipe.train.tiles_per_step
    mine = run.processes.share(tiles_per_step)

    def make(number: int) -> list[Example]:
        return [run.corpus.train_example(number * tiles_per_step + tile) for tile in mine]

    makers = 1 if run.device.type == "cpu" else MAKERS  # on a CPU the network needs the cores itself
    return prefetch(make, range(run.position.step, run.recipe.train.steps), makers, ahead=2 * makers)


def describe_machine(run: Run) -> str:
    """How many threads and processes work on a run."""
    threads = f"{torch.get_num_threads()} threads"
    return threads if run.processes.size == 1 else f"{run.processes.size} processes of {threads}"


@contextmanager
def stop_between_steps() -> Iterator[Callable[[], int]]:
    """Hold Ctrl-C, SIGTERM and SIGUSR1 back until a step is whole.

    Yields:
        The signal with which somebody asked us to stop, or zero.
    """
    asked: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        del frame
        asked.append(number)

    before = {number: signal.signal(number, remember) for number in STOPS}
    try:
        yield lambda: asked[0] if asked else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop(run: Run, number: int) -> NoReturn:
    """Save the state, say how to go on, and leave as the signal wants it."""
    run.save_state()
    again = f"cifm train {run.folder / RECIPE_FILE} --resume --out {run.folder}"
    say(f"stopped after step {run.position.step}; go on with: {again}")
    raise KeyboardInterrupt if number == signal.SIGINT else StopRequested
