"""Damage to models and training states."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from forgeries import may_differ
from intact import COMMANDS, RUN
from outcomes import Mutation
from tensor_damage import DAMAGES, FORGERIES, Damage

from cifm_cli.training.state import list_states

_INIT = [
    "train",
    f"{RUN}/recipe.toml",
    "--init",
    str(RUN),
    "--data",
    "prepared",
    "--out",
    "out",
    "--set",
    "train.steps=1",
]
_MODEL = [
    COMMANDS["embed"],
    COMMANDS["embed"],
    COMMANDS["predict"],
    ["inspect", str(RUN)],
    ["inspect", str(RUN)],
    _INIT,
]
RESUME = ["train", f"{RUN}/recipe.toml", "--resume", "--out", str(RUN), "--set", "train.steps=4"]


def on_a_model(damage: Damage) -> Mutation:
    """A mutation that damages a model and runs a command that reads it."""

    def mutate(generator: np.random.Generator, _intact: Path, target: Path) -> tuple[list[str], str]:
        argv = _MODEL[int(generator.integers(len(_MODEL)))]
        return [*argv], damage(generator, target / RUN / "model.safetensors")

    return mutate


def on_a_state(damage: Damage) -> Mutation:
    """A mutation that damages the newest training state, or all of them, and resumes or inspects."""

    def mutate(generator: np.random.Generator, _intact: Path, target: Path) -> tuple[list[str], str]:
        paths = list_states(target / RUN)
        chosen = paths if generator.random() < 0.3 else paths[:1]
        done = [damage(generator, path) for path in chosen]
        argv = RESUME if generator.random() < 0.8 else ["inspect", str(chosen[0].relative_to(target))]
        return [*argv], f"{len(chosen)} state(s): {'; '.join(done)}"

    return mutate


MUTATIONS: dict[str, Mutation] = {
    **{f"model {name}": on_a_model(damage) for name, damage in DAMAGES.items()},
    **{f"model {name}": may_differ(on_a_model(damage)) for name, damage in FORGERIES.items()},
    **{f"state {name}": on_a_state(damage) for name, damage in DAMAGES.items()},
    **{f"state {name}": may_differ(on_a_state(damage)) for name, damage in FORGERIES.items()},
}
