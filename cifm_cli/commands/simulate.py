"""`cifm simulate`: edit a tissue and let the model update its cells. Each mode of the command is a module of its own."""

from __future__ import annotations

from cifm_cli import workspace
from cifm_cli.commands import options
from cifm_cli.commands import simulate_options as own


def simulate(
    slide: options.Slide = None,
    # What is edited
    inject: own.Inject = None, inject_from: own.Reference = None, inject_label: own.ReferenceLabel = "cell_type",
    inject_donor_key: own.DonorKey = None, count: own.Count = None, density: own.Density = None, at: own.At = None,
    min_distance: own.MinDistance = 0.0, remove: own.Remove = None, swap: own.Swap = None,
    knockout: own.Knockout = None, overexpress: own.Overexpress = None, cells: own.Cells = None,
    near: own.Near = None, within: own.Within = None, region: own.Region = None, labels: own.Labels = None,
    # Another mode
    validate: own.Validate = False, sensitivity: own.Sensitivity = None, search: own.Search = None,
    search_genes: own.SearchGenes = False, search_goal: own.SearchGoal = "raise",
    # How the trajectory is simulated
    model: options.Model = None, steps: own.Steps = None, share: own.Share = 0.1, form: own.FormName = own.Form.state,
    dynamics: own.Dynamics = None, replicates: own.Replicates = 1, crop: own.Crop = None,
    max_cells: own.MaxCells = 10_000, adapt: options.Adapt = "slide", markers: own.Markers = None,
    # Where, and as in other commands
    out: options.Out = workspace.SIMULATION, backend: options.Backend = "auto", device: options.Device = "auto",
    seed: options.Seed = 0, no_verify: options.NoVerify = False, as_json: options.Json = False,
) -> None:  # fmt: skip
    """Edit a tissue: a regression on its cells says which genes respond, and the model updates the cells step by step."""
    from cifm_cli.commands.simulate_edits import simulate_edits
    from cifm_cli.commands.simulate_sensitivity import SensitivityWords, map_sensitivity
    from cifm_cli.commands.simulate_task import SimulateTask
    from cifm_cli.commands.simulate_validate import validate_slide
    from cifm_cli.data.crop import parse_crop
    from cifm_cli.simulation.config import SimulateConfig
    from cifm_cli.simulation.edits.words import EditWords

    task = SimulateTask(slide, labels, markers, out, seed, as_json, model, backend, device)
    words = EditWords(
        inject or (), remove or (), swap or (), knockout or (), overexpress or (), cells, count, density, at, min_distance,
        inject_from, inject_label, inject_donor_key, near, within, region,
    )  # fmt: skip
    asked = SensitivityWords(sensitivity, search, search_genes, search_goal, share, crop, max_cells, adapt)
    if validate:
        validate_slide(task, words, asked.target)
        return
    if asked.are_given:
        map_sensitivity(task, words, asked)
        return
    config = SimulateConfig(
        words.requests(), steps, share, form.value, replicates, parse_crop(crop) if crop else None, max_cells, markers,
        adapt, seed, dynamics,
    )  # fmt: skip
    simulate_edits(task, words, config)
