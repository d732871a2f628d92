"""`cifm evaluate`: compare models with baselines on hidden cells."""

from __future__ import annotations

from cifm_cli import workspace
from cifm_cli.commands import evaluate_options as own
from cifm_cli.commands import options


def evaluate(
    slides: options.Slides = None,
    model: options.Models = None,
    region: own.RegionName = None,
    geometry: own.Geometries = None,
    block_radii: own.BlockRadii = None,
    rounds: own.Rounds = None,
    annotator: own.Annotator = None,
    trust_pickle: options.TrustPickle = False,
    save_predictions: own.SavePredictions = False,
    out: options.Out = workspace.EVALUATION,
    backend: options.Backend = "auto",
    device: options.Device = "auto",
    devices: own.Devices = 1,
    precision: options.Precision = "float32",
    seed: options.Seed = 0,
    no_verify: options.NoVerify = False,
    as_json: options.Json = False,
) -> None:
    """Compare models with strong baselines on the same hidden cells, with confidence intervals of the differences."""
    from cifm_cli.evaluation.report import files
    from cifm_cli.evaluation.run import evaluate as run_evaluation
    from cifm_cli.evaluation.setup import EvaluateConfig
    from cifm_cli.report import terminal

    files.check_folder(out)  # before the computation, which may take hours
    evaluation = run_evaluation(
        EvaluateConfig(
            slides=workspace.slide_paths(slides or ()),
            models=[workspace.run_folder(run) for run in model] if model else [workspace.run_folder(None)],
            region=region.value if region else "",
            geometries=[chosen.value for chosen in geometry or ()],
            block_radii=block_radii or (),
            num_folds=rounds,
            annotator=annotator,
            trust_pickle=trust_pickle,
            save_predictions=save_predictions,
            backend=backend,
            device=device,
            precision=precision,
            seed=seed,
            num_processes=devices,
        ),
        terminal.show_table,
    )
    files.write(out, evaluation.metrics, evaluation.results, save_predictions=save_predictions)
    terminal.say(f"report and tables: {out}")
    if as_json:
        terminal.emit(evaluation.metrics)
