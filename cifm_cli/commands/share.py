"""`cifm share`: find which microenvironments samples have in common."""

from __future__ import annotations

from cifm_cli import workspace
from cifm_cli.commands import options, share_options


def share(
    slides: share_options.Embedded = None,
    level: share_options.Level = "microenvironment",
    k: share_options.Neighbours = 100,
    clusters: share_options.Clusters = None,
    of: share_options.Of = None,
    label: share_options.Label = None,
    group: share_options.Group = None,
    center: share_options.Center = "sample",
    balance: share_options.Balance = None,
    search: share_options.Search = "auto",
    permutations: share_options.Permutations = 999,
    out: options.Out = workspace.SHARING,
    seed: options.Seed = 0,
    no_verify: options.NoVerify = False,
    as_json: options.Json = False,
) -> None:
    """Find which microenvironments samples have in common, from the nearest neighbours of their embeddings."""
    from cifm_cli.report import terminal
    from cifm_cli.sharing import report
    from cifm_cli.sharing.outputs import share_slides
    from cifm_cli.sharing.share import ShareConfig

    paths = workspace.slide_paths(slides or (), workspace.EMBEDDED, "cifm embed SLIDE")
    config = ShareConfig(k, clusters, tuple(of or ()), center, balance, search, permutations, seed)
    sharing, content = share_slides(paths, level, label, group, config, out)
    terminal.say(content["answer"]["sentence"])
    terminal.show_table("What samples share", report.matrix_summary(sharing))
    terminal.say(report.explain(sharing))
    if sharing.group_test is not None:
        terminal.say(report.explain_groups(sharing))
    terminal.say(f"report: {out / 'sharing.html'}")
    if as_json:
        terminal.emit(content)
