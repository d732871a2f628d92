"""The API on any AnnData: the caller's order and names, copies, logging, and errors."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import cifm_cli as cifm
from cifm_cli.recipe import parse

QUICK = {"max_cells": 150, "steps": 1, "update_fraction": 0.2}
TRAIN = {"train.steps": 2, "model.width": 8, "train.validation_tiles": 1, "train.tiles_per_step": 1}
CALLS: dict[str, Callable[[ad.AnnData, cifm.LoadedModel], object]] = {
    "embed": cifm.embed,
    "predict": cifm.predict,
    "predict at": lambda adata, model: cifm.predict(adata, model, at=adata.obsm["spatial"][:3]),
    "annotate": lambda adata, _: cifm.annotate(adata),
    "probe": lambda adata, model: cifm.probe(cifm.embed(adata, model, copy=True), "cluster", num_folds=2),
    "evaluate": lambda adata, model: cifm.evaluate(adata, model, geometries=["scattered"], num_folds=1),
    "simulate": lambda adata, model: cifm.simulate(adata, model, "tcell", **QUICK),
}


def same(first: ad.AnnData, second: ad.AnnData) -> bool:
    """Whether two objects have the same cells, counts and annotation."""
    return (
        first.obs.equals(second.obs)
        and first.var.equals(second.var)
        and (first.X != second.X).nnz == 0
        and set(first.layers) == set(second.layers)
        and set(first.obsm) == set(second.obsm)
        and set(first.uns) == set(second.uns)
    )


def test_the_order_of_the_cells_has_no_effect(adata: ad.AnnData, plain: ad.AnnData, model: cifm.LoadedModel) -> None:
    """A prepared slide, and the same cells shuffled, with genes by symbol and counts in a layer."""
    cifm.embed(adata, model)
    cifm.embed(plain, model, radius_um=20.0)
    assert np.array_equal(adata[plain.obs_names].obsm["X_cifm"], plain.obsm["X_cifm"])
    # Without the regions of a prepared slide, an adaptation chooses its weights on other cells.
    cifm.predict(adata, model, adapt="none")
    cifm.predict(plain, model, adapt="none", radius_um=20.0)
    assert np.array_equal(adata[plain.obs_names].layers["cifm_mean"], plain.layers["cifm_mean"])
    cifm.annotate(adata)
    cifm.annotate(plain, layer="counts")
    types = adata.obs["cifm_cell_type"].astype(str)[plain.obs_names]
    assert types.tolist() == plain.obs["cifm_cell_type"].astype(str).tolist()


def test_the_order_of_the_cells_has_no_effect_on_the_adaptation(adata: ad.AnnData, model: cifm.LoadedModel) -> None:
    shuffled = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    cifm.predict(adata, model)
    cifm.predict(shuffled, model)
    assert np.array_equal(adata[shuffled.obs_names].layers["cifm_mean"], shuffled.layers["cifm_mean"])
    as_trained = cifm.predict(adata, model, adapt="none", copy=True)
    assert not np.array_equal(as_trained.layers["cifm_mean"], adata.layers["cifm_mean"])
    assert model.adaptation is None
    assert json.loads(adata.uns["cifm"]["prediction"])["adaptation"]["cells"] == adata.n_obs


def test_a_trajectory_keeps_the_order_and_the_names_of_the_caller(plain: ad.AnnData, model: cifm.LoadedModel) -> None:
    trajectory = cifm.simulate(plain, model, "tcell", count=4, radius_um=20.0, **QUICK)
    residents = trajectory[~trajectory.obs["injected"]]
    positions = plain.obs_names.get_indexer(residents.obs_names)
    assert (positions >= 0).all()
    assert np.array_equal(positions, np.sort(positions))
    assert np.array_equal(residents.obsm["spatial"], plain.obsm["spatial"][positions])
    assert trajectory.var_names.equals(plain.var_names)
    assert trajectory.obs_names[-4:].tolist() == [f"injected-{number}" for number in range(4)]
    change = trajectory.uns["cifm"]["change"]
    assert change["difference"].sum() == pytest.approx(0)
    assert change.loc["T cell", "before"] > 0


def test_injected_cells_of_another_data_set(adata: ad.AnnData, model: cifm.LoadedModel, tmp_path: Path) -> None:
    """The reference in memory and as a file give the same trajectory."""
    reference = ad.AnnData(
        adata.X[:60] * 40, obs=pd.DataFrame({"kind": ["odd"] * 20 + ["even"] * 40}).set_index(adata.obs_names[:60])
    )
    reference.var_names = adata.var["symbol"].astype(str)
    reference.write_h5ad(tmp_path / "atlas.h5ad")
    trajectories = [
        cifm.simulate(adata, model, "odd", reference=source, reference_label="kind", count=9, **QUICK)
        for source in (reference, tmp_path / "atlas.h5ad")
    ]
    assert set(trajectories[0].obs["type_before"][trajectories[0].obs["injected"]]) == {"odd"}
    assert (trajectories[0].X != trajectories[1].X).nnz == 0
    with pytest.raises(cifm.CifmError, match="the reference: no obs column 'cell_type'"):
        cifm.simulate(adata, model, "odd", reference=reference, **QUICK)


def test_edits_in_python(adata: ad.AnnData, model: cifm.LoadedModel) -> None:
    """The same words as on the command line; the order of the cells has no effect, and `inject` is short for an edit."""
    clusters = adata.obs["cluster"].astype(str)
    common, other = clusters.value_counts().index[:2]
    centre = np.median(adata.obsm["spatial"], axis=0)
    places = np.array([centre, centre + 4.0])
    edits = [cifm.Inject(common, at_um=places.tolist()), cifm.Remove(other), cifm.Knockout("KRT8", common)]
    first = cifm.simulate(adata, model, edits=edits, labels="cluster", **QUICK)
    shuffled = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    second = cifm.simulate(shuffled, model, edits=edits, labels="cluster", **QUICK)
    assert (first.X != second[first.obs_names].X).nnz == 0
    removed = clusters.reindex(first.obs_names).to_numpy() == other
    assert first.obs["edited"].to_numpy()[removed].all()
    assert not first.X[removed].nnz
    short = cifm.simulate(adata, model, "tcell", count=5, **QUICK)
    long = cifm.simulate(adata, model, edits=[cifm.Inject("tcell", 5)], **QUICK)
    assert (short.X != long.X).nnz == 0


def test_a_trajectory_can_be_written_and_read(adata: ad.AnnData, model: cifm.LoadedModel, tmp_path: Path) -> None:
    trajectory = cifm.simulate(adata, model, "tcell", **QUICK)
    trajectory.write_h5ad(tmp_path / "trajectory.h5ad")
    composition = ad.read_h5ad(tmp_path / "trajectory.h5ad").uns["cifm"]["composition"]
    assert composition["num_cells"].tolist() == trajectory.uns["cifm"]["composition"]["num_cells"].tolist()


@pytest.mark.usefixtures("few_baselines")
@pytest.mark.parametrize("name", ["embed", "predict", "annotate"])
def test_a_copy_leaves_the_original_unchanged(adata: ad.AnnData, model: cifm.LoadedModel, name: str) -> None:
    original = adata.copy()
    function = getattr(cifm, name)
    arguments = () if name == "annotate" else (model,)
    copied = function(adata, *arguments, copy=True)
    assert same(adata, original)
    assert "embedding" not in adata.uns["cifm"]
    assert copied is not adata
    assert not same(copied, original)
    assert function(adata, *arguments) is adata
    assert same(adata, copied)


@pytest.mark.usefixtures("few_baselines")
@pytest.mark.parametrize("name", CALLS)
def test_results_can_be_used_again_and_nothing_is_printed_or_written(
    adata: ad.AnnData,
    model: cifm.LoadedModel,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A prepared slide stays a prepared slide, with its radius and its split."""
    monkeypatch.chdir(tmp_path)
    before = dict(adata.uns["cifm"])
    CALLS[name](adata, model)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
    assert before.items() <= adata.uns["cifm"].items()
    cifm.embed(adata, model, ["cell"])


def test_notes_are_logged(plain: ad.AnnData, model: cifm.LoadedModel, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="cifm_cli"):
        cifm.embed(plain, model, ["cell"])
    assert "took layers/counts" in caplog.text


def test_a_gene_that_the_model_does_not_know_is_nan(adata: ad.AnnData, model: cifm.LoadedModel) -> None:
    lost = model.checkpoint.vocabulary[5]
    vocabulary = tuple(f"ENSG9{5:010d}" if gene == lost else gene for gene in model.checkpoint.vocabulary)
    other = replace(model, checkpoint=replace(model.checkpoint, vocabulary=vocabulary))
    column = adata.var_names.get_loc(lost)
    cifm.predict(adata, other, adapt="none")
    for layer in ("cifm_mean", "cifm_expressed"):
        unknown = np.isnan(adata.layers[layer]).all(axis=0)
        assert np.flatnonzero(unknown).tolist() == [column]
        assert np.isfinite(adata.layers[layer][:, ~unknown]).all()
    predicted = cifm.predict(adata, other, at=adata.obsm["spatial"][:2], adapt="none")
    assert lost not in predicted.var_names
    assert predicted.shape == (2, adata.n_vars - 1)
    adapted = cifm.predict(adata, other, at=adata.obsm["spatial"][:2])
    assert adapted.var_names.equals(adata.var_names)
    assert np.isfinite(adapted.X).all()


def test_an_evaluation_is_a_set_of_tables(plain: ad.AnnData, model: cifm.LoadedModel) -> None:
    """Two models and two plain slides, which get the regional split; the results name the caller's cells."""
    slides = {"first": plain, "second": plain[::2].copy()}
    evaluation = cifm.evaluate(
        slides, {"a": model, "b": model}, geometries=["scattered"], num_folds=1, layer="counts", radius_um=20.0
    )
    scores = evaluation.scores
    assert set(scores["slide"]) == {"first", "second"}
    assert {"model", "model:b", "weighted_knn", "zeros"} <= set(scores["predictor"])
    assert {"all", "variable"} <= set(scores["genes"])
    assert not scores.duplicated(["slide", "geometry", "genes", "predictor", "form", "metric"]).any()
    pair = scores[scores["predictor"].isin(["model", "model:b"])].pivot_table(
        index=["slide", "genes", "form", "metric"], columns="predictor", values="value"
    )
    assert np.array_equal(pair["model"], pair["model:b"])
    paired = evaluation.paired
    assert (paired["low"] <= paired["high"]).all()
    assert "overall" in evaluation.metrics
    cells = evaluation.per_cell.query("predictor == 'model' and form == 'mean' and slide == 'first'")
    rows = plain.obs_names.get_indexer(cells["cell"])
    assert np.array_equal(rows, np.sort(rows))
    assert np.array_equal(plain.obsm["spatial"][rows], cells[["x_um", "y_um"]])
    x_um = plain.obsm["spatial"][:, 0]
    assert (cells["x_um"] > x_um.min() + 0.6 * (x_um.max() - x_um.min())).all()


@pytest.mark.usefixtures("few_baselines")
def test_groups_of_slides_are_left_out(adata: ad.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three parts of a slide in two groups; a second call uses the trainings of the first."""

    def refuse(*_: object) -> None:
        raise cifm.CifmError("the model of the first call is loaded", "")

    parts = {name: adata[number::3].copy() for number, name in enumerate(("a", "b", "c"))}
    groups = {"a": "A", "b": "B", "c": "A"}
    chosen = {"geometries": "scattered", "num_folds": 1, "device": "cpu", "backend": "torch", "adapt": "none"}
    chosen["out"] = tmp_path / "runs"
    evaluation = cifm.leave_out("demo", parts, groups, settings={**TRAIN, "data.tile_cells": 64}, **chosen)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["A", "B", "plan.json"]
    facts = evaluation.metrics
    assert {name: group["slides"] for name, group in facts["leave_out"]["groups"].items()} == {
        "A": ["a", "c"],
        "B": ["b"],
    }
    assert facts["slides"]["c"]["scenario"]["model"]["trained_on"] == ["b"]
    assert facts["overall"]["scattered"]["mse"]["num_groups"] == 2
    cells = evaluation.per_cell.query("predictor == 'model' and form == 'mean' and slide == 'c'")
    assert np.array_equal(parts["c"][cells["cell"]].obsm["spatial"], cells[["x_um", "y_um"]])
    monkeypatch.delattr("cifm_cli.cross_validation.training.launch")
    monkeypatch.setattr("cifm_cli.cross_validation.run.load_models", refuse)
    with pytest.raises(cifm.CifmError, match="the model of the first call is loaded"):
        cifm.leave_out("demo", parts, groups, settings={**TRAIN, "data.tile_cells": 64}, **chosen)
    with pytest.raises(cifm.CifmError, match="started with another recipe"):
        cifm.leave_out("demo", parts, groups, settings=TRAIN, **chosen)


def test_locations_may_have_names(adata: ad.AnnData, model: cifm.LoadedModel) -> None:
    table = pd.DataFrame(adata.obsm["spatial"][:2], columns=["x", "y"], index=["a", "b"])
    assert cifm.predict(adata, model, at=table).obs_names.tolist() == ["a", "b"]


def test_one_level_may_be_given_by_its_name(adata: ad.AnnData, model: cifm.LoadedModel) -> None:
    assert "X_cifm_cell" in cifm.embed(adata, model, "cell").obsm
    assert "X_cifm" not in adata.obsm


def test_a_model_may_be_given_by_its_folder(adata: ad.AnnData, model: cifm.LoadedModel, run_folder: Path) -> None:
    by_folder = cifm.embed(adata, str(run_folder), ["cell"], copy=True).obsm["X_cifm_cell"]
    assert by_folder == pytest.approx(cifm.embed(adata, model, ["cell"]).obsm["X_cifm_cell"], abs=1e-5)


def test_train_without_a_folder_leaves_nothing(
    plain: ad.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A plain AnnData gets the regional split, and the model can be used after its folder is gone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path.parent / "inductor"))  # torch may make it when imported
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = cifm.train("demo", [plain], settings=TRAIN, layer="counts", radius_um=20.0, backend="torch", device="cpu")
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
    cifm.embed(plain, model, layer="counts", radius_um=20.0)
    assert plain.obsm["X_cifm"].shape == (plain.n_obs, 8)


@pytest.mark.usefixtures("few_baselines")
def test_a_split_of_the_caller_is_used(plain: ad.AnnData, caplog: pytest.LogCaptureFixture) -> None:
    """Regions of a plain AnnData: strips of x that the regional split of the paper does not have."""
    x_um = plain.obsm["spatial"][:, 0]
    thirds = np.searchsorted(np.quantile(x_um, [1 / 3, 2 / 3]), x_um)
    plain.obs["split"] = np.array(["validation", "train", "test"])[thirds]
    with caplog.at_level(logging.INFO, logger="cifm_cli"):
        model = cifm.train("demo", plain, settings=TRAIN, radius_um=20.0, backend="torch", device="cpu")
    evaluation = cifm.evaluate(plain, model, geometries=["scattered"], num_folds=1, radius_um=20.0)
    scored = evaluation.per_cell["cell"].unique()
    assert (plain.obs.loc[scored, "split"] == "test").all()
    plain.obs["split"] = "somewhere"
    with pytest.raises(cifm.CifmError, match="somewhere"):
        cifm.evaluate(plain, model)


def test_a_view_becomes_an_object_with_the_result(adata: ad.AnnData, model: cifm.LoadedModel) -> None:
    view = adata[:100]
    with pytest.warns(ad.ImplicitModificationWarning):
        embedded = cifm.embed(view, model, ["cell"])
    assert embedded is view
    assert embedded.obsm["X_cifm_cell"].shape == (100, 8)
    assert "X_cifm_cell" not in adata.obsm


@pytest.mark.usefixtures("few_baselines")
def test_scores_of_training_cells_give_a_warning(
    adata: ad.AnnData, model: cifm.LoadedModel, caplog: pytest.LogCaptureFixture
) -> None:
    cifm.evaluate(adata, model, geometries=["scattered"], num_folds=1, region="train")
    assert "region train" in caplog.text


def test_train_takes_a_recipe_and_slides_by_name(adata: ad.AnnData) -> None:
    recipe = parse(
        {
            "model": {"width": 8},
            "train": {"steps": 2, "validation_tiles": 1, "tiles_per_step": 1},
            "data": {"validation_slides": ["held_out"]},
        },
        "test",
    )
    model = cifm.train(recipe, {"seen": adata, "held_out": adata}, backend="torch", device="cpu")
    assert model.checkpoint.recipe == recipe


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda _, model: cifm.embed(pd.DataFrame(), model), "expected an AnnData, got DataFrame"),
        (lambda adata, model: cifm.embed(adata, model, ["tissue"]), "levels: tissue"),
        (lambda adata, model: cifm.embed(adata, model, []), "levels: none"),
        (lambda adata, _: cifm.embed(adata, "runs/nowhere"), "no model in runs/nowhere"),
        (lambda adata, _: cifm.embed(adata, None), "expected a model or the path of a training run, got NoneType"),
        (lambda adata, model: cifm.embed(adata, model, layer="spliced"), "no layers/spliced"),
        (lambda adata, model: cifm.embed(adata, model, radius_um="20"), "radius_um: '20' is not a positive number"),
        (lambda adata, model: cifm.predict(adata, model, radius_um=-20.0), "radius_um: -20.0 is not"),
        (lambda adata, _: cifm.prepare(adata, radius_um="20"), "radius_um: '20'"),
        (lambda *_: cifm.prepare("nowhere", microns_per_pixel=np.nan), "microns_per_pixel: nan"),
        (lambda adata, model: cifm.predict(adata, model, form="average"), "form: average"),
        (lambda adata, model: cifm.predict(adata, model, form="gated", threshold=50), "threshold: 50"),
        (lambda adata, model: cifm.simulate(adata, model, "tcell", form="average"), "form: average"),
        (lambda adata, _: cifm.probe(adata, "cluster"), "slide_1: holds no embedding of cifm"),
        (lambda *_: cifm.probe([pd.DataFrame()], "cluster"), "expected an AnnData, got DataFrame"),
        (lambda adata, _: cifm.probe(adata, 3), "label: expected a text, got int"),
        (lambda adata, _: cifm.probe(adata, "cluster", num_folds=1), "num_folds: 1"),
        (lambda adata, model: cifm.probe(cifm.embed(adata, model), "clusters"), "label clusters: no such column"),
        (lambda adata, model: cifm.probe(cifm.embed(adata, model), "cluster", train_on="b"), "--train-on b: no slide"),
        (lambda *_: cifm.validate_response(pd.DataFrame()), "expected an AnnData, got DataFrame"),
        (lambda adata, _: cifm.validate_response(adata, labels="kind"), "no obs column 'kind'"),
        (lambda adata, _: cifm.validate_response(adata, markers="nowhere.tsv"), "nowhere.tsv"),
        (lambda adata, _: cifm.validate_response(adata, seed=-1), "seed -1"),
        (lambda adata, model: cifm.simulate(adata, model, "tcell", replicates=0), "replicates: 0"),
        (cifm.simulate, "no edit"),
        (lambda adata, model: cifm.simulate(adata, model, edits="tcell"), "edits: 'tcell'"),
        (lambda adata, model: cifm.simulate(adata, model, edits=["tcell"]), "edits: "),
        (lambda adata, model: cifm.simulate(adata, model, count=3, edits=[cifm.Remove("tcell")]), "without a type"),
        (lambda adata, model: cifm.simulate(adata, model, "tcell", dynamics="frozen"), "dynamics: frozen"),
        (lambda adata, model: cifm.simulate(adata, model, "tcell", labels="kind"), "no obs column 'kind'"),
        (
            lambda adata, model: cifm.simulate(adata, model, edits=[cifm.Inject("tcell", at_um=[[1, 2, 3]])]),
            "at: an array",
        ),
        (lambda adata, model: cifm.simulate(adata, model, "tcell", update_fraction=0), "update_fraction: 0"),
        (lambda adata, model: cifm.predict(adata, model, at=[1.0, 2.0]), r"at: an array of shape \(2,\)"),
        (lambda adata, model: cifm.predict(adata, model, at=[["a", "b"]]), "at: not an array of numbers"),
        (lambda adata, model: cifm.predict(adata, model, at=[[np.nan, 0.0]]), "not finite"),
        (lambda adata, model: cifm.predict(adata, model, at=pd.DataFrame({"u": [1]})), "at: no columns x_um and y_um"),
        (lambda adata, model: cifm.predict(adata, model, at=[[1e7, 1e7]]), "no cell of"),
        (lambda adata, _: cifm.annotate(adata, "fortune"), "no such annotator"),
        (lambda adata, model: cifm.simulate(adata, model, "tcel"), "no cell type 'tcel'"),
        (lambda _, model: cifm.train("demo", []), "no slides"),
        (lambda adata, _: cifm.train("demo", {"a/b": adata}), "'a/b' cannot name a file"),
        (lambda adata, _: cifm.train("demo", adata, settings={"train.stps": 3}), "train.stps"),
        (lambda adata, _: cifm.train("dmo", adata), "recipe dmo"),
        (lambda adata, model: cifm.evaluate(adata, [model, model]), "two models are called random"),
        (lambda adata, _: cifm.evaluate(adata, []), "no model"),
        (lambda adata, _: cifm.evaluate(adata, None), "expected a model or the path of a training run, got NoneType"),
        (lambda adata, model: cifm.evaluate(adata, model, geometries=["scatered"]), "geometries: scatered"),
        (lambda adata, model: cifm.evaluate(adata, model, geometries="scatered"), "geometries: scatered"),
        (lambda adata, model: cifm.evaluate(adata, model, region="tests"), "region: tests"),
        (lambda adata, model: cifm.evaluate(adata, model, num_folds=0), "num_folds: 0"),
        (lambda adata, _: cifm.leave_out("demo", [adata]), "all 1 slide"),
        (
            lambda adata, _: cifm.leave_out("demo", [adata, adata], {"slide_1": "A"}),
            "groups: names slide_1, the slides are",
        ),
        (lambda adata, _: cifm.leave_out("demo", [adata, adata], region="tests"), "region: tests"),
        (
            lambda adata, model: cifm.evaluate(adata[adata.obs["split"] == "train"], model),
            "no cells in its test region",
        ),
        (lambda *_: cifm.prepare("nowhere"), "nowhere: no such file or folder"),
        (lambda *_: cifm.load_model("runs/nowhere"), "no model in runs/nowhere"),
        (lambda _, model: cifm.load_model(model.checkpoint.folder, precision="float16"), "precision 'float16'"),
        (lambda adata, model: cifm.predict(adata, model, seed=-1), "seed -1"),
        (lambda adata, model: cifm.embed(adata, model, adapt="patient"), "adapt: patient"),
        (lambda adata, model: cifm.predict(adata, model, adapt="patient"), "adapt: patient"),
        (lambda adata, model: cifm.simulate(adata, model, "tcell", adapt="patient"), "adapt: patient"),
        (lambda adata, model: cifm.evaluate(adata, model, adapt="patient"), "adapt: patient"),
        (lambda adata, _: cifm.leave_out("demo", [adata, adata], adapt="patient"), "adapt: patient"),
    ],
)
def test_errors_have_a_message_and_a_hint(
    adata: ad.AnnData, model: cifm.LoadedModel, call: Callable[..., object], message: str
) -> None:
    with pytest.raises(cifm.CifmError, match=message) as error:
        call(adata, model)
    assert error.value.hint
