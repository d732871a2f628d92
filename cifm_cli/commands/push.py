"""`cifm push`: upload a model to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cifm_cli import workspace


def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A training run, or its model.safetensors.")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository; created if it is missing.")],
    public: Annotated[
        bool, typer.Option("--public", help="Make a new repository public; by default it is private.")
    ] = False,
) -> None:
    """Upload a model, its recipe and its model card to the Hugging Face hub (extra hub)."""
    from cifm_cli.hub.models import push_model
    from cifm_cli.model_card.card import CARD_FILE, write_card
    from cifm_cli.report import terminal

    folder = workspace.run_folder(run)
    if not (folder / CARD_FILE).exists():
        write_card(folder)
    terminal.say("note: the model contains paths and SHA-256 of its training slides, and the card their names")
    names = push_model(folder, repository, private=not public)
    terminal.say(f"uploaded {', '.join(names)} of {folder} to {repository}")
