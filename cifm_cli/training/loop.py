"""The training loop: `train` opens a session, `initialise` fits what gradients do not train, `fit` takes the steps.

The functions are in the order in which they are called. With several processes, each of them runs this loop on its own
tiles of every step. Numbers that must be equal in all of them are reduced by `session.processes`, and only the first
process writes files.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

import torch

from cifm_cli.data.prefetch import prefetch
from cifm_cli.errors import STOP_SIGNALS, CifmError, StopRequested, handling_signals
from cifm_cli.inference.loaded_model import LoadedModel
from cifm_cli.model.checkpoint import MODEL_FILE, load_checkpoint
from cifm_cli.model.objective import loss
from cifm_cli.model.precision import computing_in, precision_note
from cifm_cli.processor_time import one_thread
from cifm_cli.report.terminal import progress
from cifm_cli.training import schedule
from cifm_cli.training.config import TrainResult
from cifm_cli.training.device_transfer import prefetch_on_device
from cifm_cli.training.distributed import join_processes
from cifm_cli.training.fit_linear import fit_linear_correction
from cifm_cli.training.fit_readout import fit_readout
from cifm_cli.training.gradients import add_gradients
from cifm_cli.training.initialise import fit_slides
from cifm_cli.training.learning_curve import describe_end
from cifm_cli.training.optimiser import set_learning_rate
from cifm_cli.training.session import RECIPE_FILE, locking_folder, open_session
from cifm_cli.training.slide_state import restore_slides, slide_tensors
from cifm_cli.training.threads import between_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cifm_cli.model.example import Example
    from cifm_cli.training.config import TrainConfig
    from cifm_cli.training.session import Session

logger = logging.getLogger(__name__)

MAX_LOSS_RATIO = 100.0  # training stops when the loss is this many times the validation loss before the first step
NUM_GPU_LOADERS = 4  # threads that make tiles while a GPU works


def train(config: TrainConfig) -> TrainResult:
    """Train a model in this process, or as one of the processes that torchrun, srun or `launch` have started.

    Args:
        config: Settings of the run.

    Returns:
        The result of the run.

    Raises:
        CifmError: Slides, recipe or folder can't be used, or the loss is not finite or has exploded.
        BackendUnavailableError: The backend is not available here.
    """
    with join_processes(alone=config.single_process) as processes, locking_folder(config, processes):
        session = open_session(config, processes)
        num_parameters = sum(weight.numel() for weight in session.network.parameters())
        log_start(session, num_parameters)
        if not config.resume:
            initialise(session)
        fit(session)
        add_readout(session)
        state = session.state
        logger.info(f"best validation loss {state.best_loss:.4f} at step {state.best_step}, in {session.folder}")
        logger.info(describe_end(session.recipe.train, state, session.folder))
    return TrainResult(
        folder=session.folder,
        steps=state.step,
        seconds=state.seconds,
        num_parameters=num_parameters,
        first_loss=state.first_loss,
        best_loss=state.best_loss,
        best_step=state.best_step,
    )


def initialise(session: Session) -> None:
    """Prepare the first step: fit the slides in the first process, and copy them and the network to the others.

    Args:
        session: At step 0. Its weights may come from another run: the parameters of slides are not among them.
    """
    if session.processes.is_first:
        with progress("fitting means of neighbours to the slides, before the first step", None):
            fit_slides(session)
            # Weights of another run belong to the correction that they were trained with.
            if not session.provenance.get("init"):
                fit_linear_correction(session)
    session.processes.copy_from_first(session.network)
    restore_slides(session.corpus, session.processes.send_from_first(slide_tensors(session.corpus)))
    session.start_ema()
    # From here on the run can be resumed, so that a long fit of the slides is not lost.
    session.save_state()


def fit(session: Session) -> None:
    """Take steps until the recipe's steps, minutes or patience are used up, or a signal to stop arrives.

    Args:
        session: Its network, optimiser and state are changed.
    """
    recipe, state = session.recipe.train, session.state
    limit_s = 60 * recipe.max_minutes - state.seconds if recipe.max_minutes else None
    with progress("training", recipe.steps, limit_s) as advance, holding_signals() as received_signal:
        advance(state.step)
        last_step = last_save = time.monotonic()
        for examples in prefetch_examples(session):
            # A run that was saved after a validation and resumed must not validate the same step twice.
            if state.step % recipe.validate_every == 0 and state.last_validated < state.step:
                validate_and_save(session)
            fraction = schedule.fraction_done(recipe, state.step, state.seconds)
            if fraction >= 1 or state.validations_since_best >= recipe.patience:
                break
            step_loss = train_step(session, examples, schedule.learning_rate(recipe, state.step, fraction))
            state.step += 1
            if session.ema:
                with between_parts(shares_cores=session.optimiser.shares_cores):
                    session.ema.update(session.network, state.step)
            elapsed, last_step = time.monotonic() - last_step, time.monotonic()
            # The learning rate may depend on the time, so that all processes need the same time.
            state.seconds += session.processes.max(elapsed)
            session.log_metrics(loss=step_loss, seconds=round(state.seconds, 2))
            advance(1, f"training loss {step_loss:.3f}, best validation loss {state.best_loss:.3f}")
            # A scheduler may send its signal to one process only.
            if number := int(session.processes.max(received_signal())):
                stop(session, number)
            if time.monotonic() - last_save > 60 * recipe.save_minutes:
                session.save_state()
                last_save = time.monotonic()
        # The last steps since a validation may have made the best model.
        if state.last_validated < state.step:
            validate_and_save(session)


def add_readout(session: Session) -> None:
    """Fit the readout of the best model to the training cells, and store it with the model.

    Args:
        session: After its last step.
    """
    # No model was saved if no validation loss was finite.
    if not session.processes.is_first or not (session.folder / MODEL_FILE).is_file():
        return
    checkpoint = load_checkpoint(session.folder)
    checkpoint.network.to(session.device)
    model = LoadedModel(checkpoint, session.backend, session.device, session.precision)
    session.save_checkpoint(checkpoint.network, fit_readout(model, session.corpus, session.seed))


def train_step(session: Session, examples: list[Example], learning_rate: float) -> float:
    """Take one optimiser step.

    Args:
        session: Its network and optimiser are changed.
        examples: The tiles of this process, all with the same weight in the loss.
        learning_rate: Learning rate of this step.

    Returns:
        Mean loss over the tiles of all processes.

    Raises:
        CifmError: The loss is not finite or has exploded; the weights are those before the step.
    """
    recipe = session.recipe.train
    session.network.train()
    # A resumed run has no scheduler to restore: the rate is a function of step and time.
    set_learning_rate(session.optimiser, learning_rate)
    session.optimiser.zero_grad(set_to_none=True)
    # Read after the last tile: reading a number waits for the GPU, which would have no work until the next tile.
    step_loss = sum(value.item() for value in add_gradients(session, examples))
    # Sums, not means: the loss of each tile is divided by the number of all tiles of the step.
    step_loss = session.processes.sum_gradients(session.network, step_loss)
    # After the sum over processes, so that all of them clip by the same norm.
    with between_parts(shares_cores=session.optimiser.shares_cores):
        norm = torch.nn.utils.clip_grad_norm_(session.network.parameters(), recipe.clip_norm)
    check_finite(session, step_loss, norm.item())
    session.optimiser.step()
    return step_loss


def check_finite(session: Session, step_loss: float, norm: float) -> None:
    """Check loss and gradient before they change the weights.

    Args:
        session: Gives the step, and the first loss to compare with.
        step_loss: Loss of the step.
        norm: Norm of the gradient.

    Raises:
        CifmError: One of them is not finite, or the loss is above `MAX_LOSS_RATIO` times the first one.
    """
    state = session.state
    # All processes have the same numbers here, so that all of them stop.
    limit = MAX_LOSS_RATIO * state.first_loss
    is_finite = math.isfinite(step_loss) and math.isfinite(norm)
    if is_finite and step_loss <= limit:
        return
    problem = f"exploded beyond {limit:.3g}" if is_finite else "is not finite"
    saved = f"the best model so far, of step {state.best_step}, is kept; " if state.best_loss < float("inf") else ""
    raise CifmError(
        f"{session.folder}: the loss {problem} at step {state.step + 1}"
        f" (loss {step_loss:.3g}, gradient norm {norm:.3g})",
        f"{saved}try a lower train.learning_rate",
    )


@torch.no_grad()
def validate(session: Session) -> float:
    """Mean loss of `ema_network` over the validation tiles, which are the same every time."""
    network, corpus, recipe = session.ema_network, session.corpus, session.recipe
    # Without dropout
    network.eval()
    total = 0.0
    for example in prefetch(corpus.validation_example, session.processes.own_indices(corpus.num_validation_tiles)):
        on_device = example.to(session.device)
        with computing_in(session.precision, session.device):
            output = network(session.backend, on_device.tile)
        total += loss(output, on_device.target, recipe.objective).item()
    return session.processes.sum(total) / corpus.num_validation_tiles


def validate_and_save(session: Session) -> None:
    """Validate, save the model if it is the best so far, and save the state."""
    state, value = session.state, validate(session)
    # The first loss is the scale by which `check_finite` recognises an exploded loss.
    if state.step == 0:
        state.first_loss = value
    state.last_validated = state.step
    state.validations_since_best += 1
    if value < state.best_loss:
        state.best_loss, state.best_step, state.validations_since_best = value, state.step, 0
        session.save_model()
    session.log_metrics(validation_loss=value)
    session.save_state()


def prefetch_examples(session: Session) -> Iterator[list[Example]]:
    """The tiles of this process for every remaining step, made while the network works on earlier ones."""
    tiles_per_step = session.recipe.train.tiles_per_step
    own_tiles = session.processes.own_indices(tiles_per_step)
    # The linear correction is final before the first step, so a copy on the CPU serves all steps.
    network = session.network if session.device.type == "cpu" else deepcopy(session.network).cpu()
    describe = network.describe

    def make_examples(step: int) -> list[Example]:
        """Make the tiles of this process for one step, with all that does not depend on trained weights."""
        # A pool of several threads would take the cores from the members of the network.
        with torch.no_grad(), one_thread():
            examples = [session.corpus.train_example(step * tiles_per_step + tile) for tile in own_tiles]
            return [replace(example, surroundings=describe(example.tile)) for example in examples]

    num_threads = 1 if session.device.type == "cpu" else NUM_GPU_LOADERS  # on a CPU the network needs the cores
    steps = range(session.state.step, session.recipe.train.steps)
    return prefetch_on_device(make_examples, steps, session.device, num_threads, ahead=2 * num_threads)


@contextmanager
def holding_signals() -> Iterator[Callable[[], int]]:
    """Within the block, record signals to stop (Ctrl-C, SIGTERM, SIGUSR1), so that every step is completed.

    Yields:
        A function that returns the first signal that has arrived, or 0.
    """
    received: list[int] = []
    with handling_signals((signal.SIGINT, *STOP_SIGNALS), received.append):
        yield lambda: received[0] if received else 0


def stop(session: Session, number: int) -> NoReturn:
    """Save the state, log how to continue, and raise the exception of a signal."""
    session.save_state()
    # Seed, slides, backend and `--init` are part of the state; a resumed run needs no other option.
    command = f"cifm train {session.folder / RECIPE_FILE} --resume --out {session.folder}"
    logger.info(f"stopped after step {session.state.step}; go on with: {command}")
    raise KeyboardInterrupt if number == signal.SIGINT else StopRequested


def log_start(session: Session, num_parameters: int) -> None:
    """Log the sizes of network and corpus, the backend, the device and the folder."""
    corpus, backend, size = session.corpus, session.backend, session.processes.size
    threads = f"{torch.get_num_threads()} threads"
    machine = threads if size == 1 else f"{size} processes of {threads}"
    num_trained = sum(weight.numel() for weight in session.network.parameters() if weight.requires_grad)
    whole = f"{num_parameters:,} parameters"
    trained = whole if num_trained == num_parameters else f"{num_trained:,} of {whole}, the others are frozen,"
    logger.info(f"training {trained} on {corpus.num_cells:,} cells of {len(corpus.slides)} slide(s)")
    logger.info(f"backend {backend.name} ({backend.version()}), {session.device}, {machine}: {session.folder}")
    if note := precision_note(session.precision, session.device):
        logger.warning(note)
