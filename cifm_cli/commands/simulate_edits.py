"""`cifm simulate --inject ...`: edit a tissue, write what follows and print it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pathlib import Path

    from cifm_cli.commands.simulate_task import SimulateTask
    from cifm_cli.simulation.config import SimulateConfig
    from cifm_cli.simulation.edits.words import EditWords

_MAX_ROWS: Final = 12  # of the printed tables


def simulate_edits(task: SimulateTask, words: EditWords, config: SimulateConfig) -> None:
    """Simulate, write the folder and print the result.

    Args:
        task: Slide, model and folder.
        words: The edits as they were typed.
        config: The settings, with the same edits.

    Raises:
        CifmError: An input cannot be read, an edit cannot be made, or the folder cannot be written.
    """
    from cifm_cli.evaluation.trust import find_trust
    from cifm_cli.simulation.outputs import check_folder, write_simulation
    from cifm_cli.simulation.simulate import simulate

    check_folder(task.out)
    model, slide = task.load_model(), task.open_slide()
    result = simulate(model, slide, replace(config, labels=task.read_labels(slide)))
    names = result.slide.barcodes(result.experiment.window.rows)
    facts = {
        "genes": model.overlap_facts(slide),
        "edits": [entry.to_json() for entry in result.experiment.edits],
        "evaluation": find_trust(task.model_path.parent, [task.slide_path]),
    }
    origin = task.provenance("simulate", words, result.model, config.adapt, facts)
    content = write_simulation(task.out, result, names, origin)
    _show(content, task.out, as_json=task.as_json)


def _show(content: dict[str, Any], out: Path, *, as_json: bool) -> None:
    """Print the result."""
    from cifm_cli.report import terminal
    from cifm_cli.response.summary import response_table
    from cifm_cli.simulation.simulate import change_table, result_notes

    response, name = content["response"], content["slide"]
    terminal.say(content["answer"]["sentence"])
    for note in content["answer"]["trust"]:
        terminal.say(f"- {note}")
    if response["labels"]:
        terminal.show_table(f"{name}: response of the residents", response_table(response, _MAX_ROWS))
    for note in response["notes"]:
        terminal.say(note)
    terminal.show_table(f"{name}: composition of the residents", change_table(content, _MAX_ROWS))
    for note in result_notes(content):
        terminal.say(note)
    terminal.say(f"maps, tables and the tissue before and after: {out}/report.html, {out}/trajectory.h5ad")
    if as_json:
        terminal.emit(content)
