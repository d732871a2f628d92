"""`cifm embed`: embed the cells of prepared slides with a trained model."""

from __future__ import annotations

from cifm_cli import workspace
from cifm_cli.commands import embed_options, options
from cifm_cli.commands.embed_options import Level


def embed(
    slides: options.Slides = None,
    model: options.Model = None,
    levels: embed_options.Levels = None,
    adapt: options.Adapt = "slide",
    umap: embed_options.Umap = False,
    clusters: embed_options.Clusters = False,
    neighbors: embed_options.Neighbors = False,
    k: embed_options.K = 15,
    resolution: embed_options.Resolution = None,
    max_cells: embed_options.MaxCells = 50_000,
    label: embed_options.Label = None,
    file_format: embed_options.Format = "h5ad",
    out: options.Out = workspace.EMBEDDED,
    backend: options.Backend = "auto",
    device: options.Device = "auto",
    devices: embed_options.Devices = 1,
    precision: options.Precision = "float32",
    seed: options.Seed = 0,
    no_verify: options.NoVerify = False,
    force: embed_options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Embed every cell of prepared slides, with its neighbours and without them."""
    from cifm_cli.embedding.analysis import AnalysisConfig
    from cifm_cli.embedding.embed import SLOTS
    from cifm_cli.embedding.embed_outputs import OutputConfig, check_outputs, write_embeddings
    from cifm_cli.evaluation.trust import find_trust
    from cifm_cli.inference.loaded_model import load_model
    from cifm_cli.report.terminal import emit, say

    paths = workspace.slide_paths(slides or ())
    chosen = [level for level in SLOTS if Level(level) in (levels or list(Level))]
    analysis = AnalysisConfig(umap, clusters, neighbors, k, resolution, max_cells, seed)
    config = OutputConfig(chosen, analysis, adapt, devices, file_format, label, force)
    check_outputs(paths, out, config)
    run = workspace.run_folder(model)
    loaded = load_model(run, backend, device, precision)
    result = write_embeddings(loaded, paths, out, config)
    result["evaluation"] = find_trust(run, paths)
    say(result["evaluation"]["sentence"])
    if "report" in result:
        say(f"report: {result['report']}")
    if as_json:
        emit(result)
