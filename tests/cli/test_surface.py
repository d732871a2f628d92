"""The options of all commands are stored as data, so that a new or changed option appears in a review."""

from __future__ import annotations

import pytest
from typer.main import get_command

from cifm_cli.app import app

CONTRACT = {
    "prepare": ["--out", "--name", "--platform", "--bin-um", "--condition", "--tissue", "--sample", "--json"],
    "train": ["--data", "--out", "--set", "--resume", "--init", "--backend", "--device", "--seed", "--json"],
    "evaluate": ["--model", "--region", "--geometry", "--save-predictions", "--out", "--json"],
    "embed": ["--model", "--level", "--out", "--json"],
    "predict": ["--at", "--form"],
    "probe": ["--label"],
    "simulate": ["--inject", "--count", "--steps", "--replicates", "--seed", "--out", "--json"],
    "inspect": ["--json"],
    "demo": ["--out"],
}


def surface() -> dict[str, dict[str, list[str]]]:
    """Command to parameter name to its options and its default."""

    def walk(command, path: str) -> None:
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, f"{path} {name}".strip())
        options[path or "cifm"] = {
            parameter.name: [*parameter.opts, *parameter.secondary_opts, f"default {parameter.default}"]
            for parameter in command.params
        }

    options: dict[str, dict[str, list[str]]] = {}
    walk(get_command(app), "")
    return dict(sorted(options.items()))


def test_the_surface_is_as_frozen(golden) -> None:
    computed = surface()
    assert computed == golden("cli_options", computed), "if this change is intended: pytest tests/cli --regenerate"


@pytest.mark.parametrize("command", sorted(CONTRACT))
def test_the_names_that_scripts_rely_on(command: str) -> None:
    typed = {word for words in surface()[command].values() for word in words}
    assert set(CONTRACT[command]) <= typed


def test_every_option_is_explained() -> None:
    def walk(command, path: str) -> list[str]:
        inner = [hit for name, sub in getattr(command, "commands", {}).items() for hit in walk(sub, f"{path} {name}")]
        return inner + [
            f"{path} {parameter.name}"
            for parameter in command.params
            if not getattr(parameter, "help", None) and not getattr(parameter, "hidden", False)
        ]

    assert walk(get_command(app), "cifm") == []


def test_every_command_is_explained() -> None:
    group = get_command(app)
    assert [name for name, command in group.commands.items() if not command.help] == []
