"""`cifm simulate --sensitivity`: map how a target changes with an infinitesimal cell, and search for edits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from pathlib import Path

    from cifm_cli.commands.simulate_task import SimulateTask
    from cifm_cli.inference.adaptation.adapt import Adapt
    from cifm_cli.simulation.edits.requests import Inject
    from cifm_cli.simulation.edits.words import EditWords
    from cifm_cli.simulation.sensitivity.config import SensitivityConfig
    from cifm_cli.simulation.sensitivity.search_places import Goal

_FOLDER: Final = "sensitivity"  # unless another one is named


@dataclass(frozen=True)
class SensitivityWords:
    """Options of `cifm simulate` that concern a sensitivity analysis."""

    target: str | None  # --sensitivity GENE_OR_LABEL
    search: int | None  # --search N
    search_genes: bool  # --search-genes
    goal: Goal  # --search-goal
    share: float  # --share
    crop: str | None  # --crop
    max_cells: int  # --max-cells
    adapt: Adapt  # --adapt

    @property
    def are_given(self) -> bool:
        """Whether a sensitivity analysis is asked for.

        Raises:
            CifmError: A search is asked for without a target, or edits of genes without their number.
        """
        if self.target is None and (self.search is not None or self.search_genes):
            option = "--search-genes" if self.search_genes else "--search"
            raise CifmError(f"{option}: there is no target", "name a gene or a label with --sensitivity")
        if self.search_genes and self.search is None:
            raise CifmError("--search-genes: how many edits?", "give their number with --search, such as --search 10")
        return self.target is not None

    def config(self, task: SimulateTask, words: EditWords) -> SensitivityConfig:
        """The settings, without the labels of the slide.

        Raises:
            CifmError: An option contradicts another, or has another form.
        """
        from cifm_cli.data.crop import parse_crop
        from cifm_cli.simulation.sensitivity.config import SensitivityConfig

        return SensitivityConfig(
            str(self.target), _injection(words), words.cells, self.search or 0, self.search_genes, self.goal, self.share,
            parse_crop(self.crop) if self.crop else None, self.max_cells, task.markers, self.adapt, task.seed,
        )  # fmt: skip


def map_sensitivity(task: SimulateTask, words: EditWords, asked: SensitivityWords) -> None:
    """Analyse the sensitivity, write the folder and print the result.

    Args:
        task: Slide, model and folder.
        words: The edits as they were typed: one type to inject, or none to search edits of genes alone.
        asked: Target and search.

    Raises:
        CifmError: An input cannot be read, there is no such target or type, or the folder cannot be written.
    """
    from cifm_cli.simulation.sensitivity.measure import measure_sensitivity
    from cifm_cli.simulation.sensitivity.outputs import write_sensitivity

    config = asked.config(task, words)
    folder, model, slide = task.folder(_FOLDER), task.load_model(), task.open_slide()
    result = measure_sensitivity(model, slide, replace(config, labels=task.read_labels(slide)))
    facts = {"genes": model.overlap_facts(slide), "inject": config.inject and config.inject.to_json()}
    origin = task.provenance("simulate --sensitivity", words, result.model, config.adapt, facts)
    content = write_sensitivity(folder, result, origin)
    _show(content, folder, as_json=task.as_json)


def _injection(words: EditWords) -> Inject | None:
    """The cell that is added; None if no type is named."""
    others = {"--remove": words.remove, "--swap": words.swap, "--knockout": words.knockout}
    others["--overexpress"] = words.overexpress
    for option, given in others.items():
        if given:
            raise CifmError(
                f"--sensitivity with {option} {given[0]}: a sensitivity is that of the tissue as it is",
                "leave out the edit; --search-genes proposes edits of genes",
            )
    if len(words.inject) > 1:
        raise CifmError(f"--sensitivity with {len(words.inject)} types to inject", "name one with --inject")
    if not words.inject:
        places = {"--count": words.count, "--density": words.density, "--at": words.at, "--near": words.near}
        places |= {"--region": words.region, "--within": words.within_um, "--inject-from": words.inject_from}
        places["--min-distance"] = words.min_distance_um or None
        given = [option for option, value in places.items() if value is not None]
        if given:
            raise CifmError(f"{given[0]}: no cells are injected", "name their type with --inject TYPE, or leave it out")
        return None
    # `--in` names the residents whose value is meant, and no cells that are edited.
    return replace(words, cells=None).requests()[0]  # type: ignore[return-value]  # the only edit is an injection


def _show(content: dict[str, Any], folder: Path, *, as_json: bool) -> None:
    """Print the result."""
    from cifm_cli.report import terminal
    from cifm_cli.simulation.sensitivity.summary import label_table, search_table

    target = content["target"]["name"]
    terminal.say(content["sentence"])
    if content["by_nearest_label"]:
        terminal.show_table(f"{target}: summed change per added cell, to first order", label_table(content))
    if (table := search_table(content)) is not None:
        terminal.show_table(f"{target}: summed change by each proposal, predicted and checked", table)
    terminal.say(f"tables and map: {folder}")
    if as_json:
        terminal.emit(content)
