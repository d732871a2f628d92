"""`cifm simulate --validate`: what may be believed of the response on a slide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from cifm_cli.commands.simulate_task import SimulateTask
    from cifm_cli.simulation.edits.words import EditWords

_FOLDER: Final = "validation"  # unless another one is named


def validate_slide(task: SimulateTask, words: EditWords, sensitivity: str | None = None) -> None:
    """Validate the response, write the result and print it.

    Args:
        task: Slide, labels and folder.
        words: The edits as they were typed, of which there may be none.
        sensitivity: Target of a sensitivity analysis, of which there may be none either.

    Raises:
        CifmError: There is an edit, an input cannot be read, or the folder cannot be written.
    """
    from cifm_cli import provenance
    from cifm_cli.report import terminal
    from cifm_cli.response.validation import held_out_table, planted_table
    from cifm_cli.simulation.validate import validate, write_validation

    _require_no_edit(words)
    if sensitivity is not None:
        raise CifmError("--validate and --sensitivity are different analyses", "run one after the other")
    folder, slide = task.folder(_FOLDER), task.open_slide()
    inputs = [task.slide_path, *([task.markers] if task.markers else [])]
    origin = provenance.collect("simulate --validate", seed=task.seed, inputs=inputs)
    with terminal.progress(
        f"hiding cells of {slide.name} and inferring them, then the same on generated tissues", None
    ):
        facts = validate(slide, task.read_labels(slide), task.markers, task.seed) | {"provenance": origin}
    write_validation(folder, facts)
    terminal.say(facts["sentence"])
    title = f"{slide.name}: correlation of inferred and real log changes of the 50 genes that change most"
    terminal.show_table(title, held_out_table(facts))
    terminal.show_table("planted tissues: log2 changes, and shares of genes", planted_table(facts))
    terminal.say(f"the page, and all scores by label and square: {folder}/report.html, {folder}/pairs.csv")
    if task.as_json:
        terminal.emit(facts)


def _require_no_edit(words: EditWords) -> None:
    """Refuse edits where nothing is simulated."""
    for edits in (words.inject, words.remove, words.swap, words.knockout, words.overexpress):
        if edits:
            raise CifmError(
                f"--validate with the edit {edits[0]}: a validation edits nothing",
                "validate the slide first, then simulate without --validate",
            )
