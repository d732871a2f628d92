"""The options of all commands are stored in a golden file, so that a new or changed option appears in the diff."""

from __future__ import annotations

import pytest
from typer.main import get_command

from cifm_cli.app import app

USED_IN_SCRIPTS = {
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


def collect_options() -> dict[str, dict[str, list[str]]]:
    """Return, for each command and parameter, the options and the default."""

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


def test_the_options_match_the_golden_file(golden) -> None:
    computed = collect_options()
    assert computed == golden("cli_options", computed), "if this change is intended: pytest tests/cli --regenerate"


@pytest.mark.parametrize("command", sorted(USED_IN_SCRIPTS))
def test_options_used_in_scripts_exist(command: str) -> None:
    typed = {word for words in collect_options()[command].values() for word in words}
    assert set(USED_IN_SCRIPTS[command]) <= typed


def test_every_option_has_a_help_text() -> None:
    def walk(command, path: str) -> list[str]:
        inner = [hit for name, sub in getattr(command, "commands", {}).items() for hit in walk(sub, f"{path} {name}")]
        return inner + [
            f"{path} {parameter.name}"
            for parameter in command.params
            if not getattr(parameter, "help", None) and not getattr(parameter, "hidden", False)
        ]

    assert walk(get_command(app), "cifm") == []


def test_every_command_has_a_help_text() -> None:
    group = get_command(app)
    assert [name for name, command in group.commands.items() if not command.help] == []
