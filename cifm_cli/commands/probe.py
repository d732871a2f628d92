"""`cifm probe`: predict a label from embeddings with a linear classifier."""

from __future__ import annotations

from pathlib import Path

from cifm_cli import workspace
from cifm_cli.commands import options
from cifm_cli.commands import probe_options as of_probe


def probe(
    slides: of_probe.Embedded,
    label: of_probe.Label,
    train_on: of_probe.TrainOn = None,
    test_on: of_probe.TestOn = None,
    positive: of_probe.Positive = None,
    ignore: of_probe.Ignore = None,
    out: of_probe.OutFile = Path("probe.json"),
    folds: of_probe.Folds = 5,
    max_cells: of_probe.MaxCells = 20_000,
    seed: options.Seed = 0,
    no_verify: options.NoVerify = False,
    as_json: options.Json = False,
) -> None:
    """Measure how well a linear classifier predicts a label from embeddings, compared with plain expression."""
    from cifm_cli import provenance
    from cifm_cli.data.writers.embedded import read_embedded
    from cifm_cli.embedding import probe_report
    from cifm_cli.embedding.labels import LabelChoice, label_paths
    from cifm_cli.embedding.probe import ProbeConfig, run_probe
    from cifm_cli.embedding.probe_files import require_result_name, write_probe
    from cifm_cli.report import terminal

    require_result_name(out)
    paths = workspace.slide_paths(slides, workspace.EMBEDDED, "cifm embed SLIDE")
    config = ProbeConfig(
        LabelChoice(label, positive, tuple(ignore or ())),
        tuple(train_on or ()),
        tuple(test_on or ()),
        num_folds=folds,
        max_cells=max_cells,
        seed=seed,
    )
    embedded = [read_embedded(path) for path in paths]
    result = run_probe(embedded, config)
    inputs = [*paths, *label_paths(label, embedded)]
    origin = provenance.collect("probe", seed=seed, inputs=inputs, max_cells=max_cells)
    content = write_probe(out, result, origin)
    terminal.say(content["evidence"]["answer"])
    for remark in content["evidence"]["remarks"]:
        terminal.say(f"- {remark}")
    for title, table in (
        (f"Linear probe of {label}", probe_report.summary_table(result)),
        ("Embedding minus the best baseline", probe_report.comparison_table(result)),
    ):
        terminal.show_table(title, table)
    if warnings := content["warnings"]:
        terminal.show_table("Warnings about these scores", probe_report.warning_table(warnings))
    terminal.say(probe_report.explain(result))
    terminal.say(f"report: {out.with_suffix('.html')}")
    if as_json:
        terminal.emit(content)
