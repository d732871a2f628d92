"""Writing of the model card, `README.md` in the folder of a run, and of its parts again when they change.

The parts about training and evaluation stand between markers. What a user writes elsewhere in the file is kept.
"""

from __future__ import annotations

import json
import logging
import re
from typing import TYPE_CHECKING, Any, Final

from cifm_cli.errors import CifmError
from cifm_cli.model.checkpoint import MODEL_FILE
from cifm_cli.model_card.evaluation_facts import COLUMNS, read_evaluation_facts
from cifm_cli.model_card.training_facts import read_training_facts
from cifm_cli.path_text import path_from_text, printable
from cifm_cli.templates import open_template
from cifm_cli.workspace import atomic_path

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cifm_cli.model_card.evaluation_facts import EvaluationFacts
    from cifm_cli.model_card.training_facts import TrainingFacts

logger = logging.getLogger(__name__)

CARD_FILE: Final = "README.md"
TRAINING, EVALUATION = "training", "evaluation"
_MAX_BYTES: Final = 1 << 22  # of a card that is changed
_SCORED = re.compile(r"<!-- cifm scored: (.*) -->")
# Characters that mean something in Markdown or HTML.
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~])")


def write_card(run: Path) -> bool:
    """Write the card of a run after its training, or the parts of an existing card again.

    Args:
        run: Folder of the run.

    Returns:
        Whether the card was written: a README.md of the user is left as it is, and a run without a model gets none.

    Raises:
        CifmError: The model is damaged, or the folder may not be written.
    """
    # A training without a single finite validation loss has saved no model.
    return (run / MODEL_FILE).is_file() and _write(run, None)


def update_card(run: Path, metrics: Mapping[str, Any], name: str) -> bool:
    """Write what an evaluation found into the card of a run. The other parts are written again too.

    A card that has an evaluation of the same slides with more cells is left as it is: a quick look at a few rounds says less.

    Args:
        run: Folder of the run.
        metrics: The content of `metrics.json`.
        name: The name of the model in it.

    Returns:
        Whether the card was written.

    Raises:
        CifmError: As for `write_card`.
    """
    evaluation = read_evaluation_facts(metrics, name)
    if evaluation is None:
        return False
    if _has_more(run / CARD_FILE, evaluation.scored):
        logger.info("the model card of %s keeps the verdict of an evaluation with more cells", run)
        return False
    return _write(run, evaluation)


def update_cards(metrics: Mapping[str, Any]) -> list[Path]:
    """Write what an evaluation found into the cards of its models. A run that may not be written is left as it is.

    Args:
        metrics: The content of `metrics.json`.

    Returns:
        The cards that were written.
    """
    written = []
    for name, stored in metrics["provenance"].get("models", {}).items():
        run = path_from_text(stored)
        try:
            if (run / MODEL_FILE).is_file() and update_card(run, metrics, name):
                written.append(run / CARD_FILE)
        except CifmError as error:
            logger.info("the model card of %s was not updated: %s", run, error.message)
    return written


def render_card(training: TrainingFacts, evaluation: EvaluationFacts | None) -> str:
    """Format a card as Markdown with YAML front matter, as the Hugging Face hub shows it.

    Args:
        training: What the model was trained on.
        evaluation: How well it predicts; None if it was not evaluated.

    Returns:
        The text.
    """
    longest = max((len(run) for run in re.findall("`+", training.recipe)), default=0)
    # Markdown, not HTML: names are escaped by the filter `text`.
    template = open_template("model_card", "model_card.md.jinja", is_html=False, text=escape_markdown)
    text = template.render(
        training=training,
        evaluation=evaluation,
        columns=list(COLUMNS.values()),
        scored=_scored_comment(evaluation.scored) if evaluation else "",
        fence="`" * max(3, longest + 1),
        begin_training=_marker(TRAINING, "begin"),
        end_training=_marker(TRAINING, "end"),
        begin_evaluation=_marker(EVALUATION, "begin"),
        end_evaluation=_marker(EVALUATION, "end"),
    )
    return printable(text).lstrip("\n")


def escape_markdown(text: str) -> str:
    """A text on one line in which no character means anything to Markdown or HTML."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split())).replace("&", "&amp;")


def _write(run: Path, evaluation: EvaluationFacts | None) -> bool:
    card = render_card(read_training_facts(run), evaluation)
    path = run / CARD_FILE
    if path.exists():
        merged = _merge(path, card)
        if merged is None:
            logger.info("%s: not a model card that cifm wrote, left as it is", path)
            return False
        card = merged
    with atomic_path(path) as temporary:
        temporary.write_text(card, encoding="utf8", newline="\n")
    return True


def _scored_comment(scored: Mapping[str, int]) -> str:
    text = json.dumps(scored).replace(">", r"\u003e")  # a name with ">" could end the comment
    return f"<!-- cifm scored: {text} -->"


def _has_more(path: Path, scored: Mapping[str, int]) -> bool:
    """Whether a card has an evaluation of all these slides with no fewer cells of any, and more cells of one."""
    try:
        found = _SCORED.search(path.read_text(encoding="utf8")) if path.stat().st_size <= _MAX_BYTES else None
        stored = json.loads(found[1]) if found else {}
        return all(stored[key] >= number for key, number in scored.items()) and any(
            stored[key] > number for key, number in scored.items()
        )
    except (OSError, ValueError, KeyError, TypeError):  # no card, or one that was edited
        return False


def _merge(path: Path, card: str) -> str | None:
    """An existing card with the parts of a new one; None if it has not each part once."""
    try:
        if not path.is_file() or path.stat().st_size > _MAX_BYTES:
            return None
        text = path.read_text(encoding="utf8")
    except (OSError, UnicodeDecodeError):
        return None
    for part in (TRAINING, EVALUATION):
        pattern = re.compile(f"{re.escape(_marker(part, 'begin'))}.*?{re.escape(_marker(part, 'end'))}", re.DOTALL)
        found, (new,) = list(pattern.finditer(text)), pattern.findall(card)
        if len(found) != 1:
            return None
        text = text[: found[0].start()] + new + text[found[0].end() :]
    return text


def _marker(part: str, edge: str) -> str:
    return f"<!-- cifm {part}: {edge} -->"
