"""`cifm share`: its files, the whole pipeline from slides with planted microenvironments, and errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from builders import jittered_tissue, save_random_run
from scipy.sparse import csr_matrix
from sharing_samples import plant_samples
from sklearn.metrics import adjusted_rand_score

from cifm_cli import keys
from cifm_cli.app import main
from cifm_cli.data.slide import open_slide
from cifm_cli.data.writers.embedded import write_embedded

NAMES = ("A", "B", "C")
GENES = 60
ORIGIN = {
    "model": {"sha256": "m"},
    "radius_um": 20.0,
    "recipe": {"data": {"target_sum": 1e4}, "model": {"encoder_layers": 1}},
}


def write_slide(path: Path, niche: np.ndarray, xy_um: np.ndarray, mean: np.ndarray, seed: int) -> None:
    """A slide of cells whose expected counts, (N, G), are given, with a factor for each gene as a batch effect."""
    generator = np.random.default_rng(seed)
    counts = generator.poisson(mean * np.exp(0.3 * generator.normal(size=GENES)))
    counts[:, 0] += 1
    slide = ad.AnnData(
        csr_matrix(counts.astype(np.float32)),
        obs=pd.DataFrame({"niche": niche}, index=[f"{path.stem}{i}" for i in range(len(niche))]),
        var=pd.DataFrame(index=[f"ENSG{i:011d}" for i in range(1, GENES + 1)]),
    )
    slide.obsm["spatial"] = xy_um
    slide.write_h5ad(path)


def prepare_slides(folder: Path, *, shared: bool) -> None:
    """Three slides of three stripes: one that only the slide has, and two that all slides have if `shared`."""
    generator = np.random.default_rng(0)
    profiles: dict[str, np.ndarray] = {}
    for number, name in enumerate(NAMES):
        xy_um = jittered_tissue(24, 13, number)
        place = xy_um[:, 0] / 240
        niche = np.where(place < 0.4, "only", np.where(place < 0.7, "all 1", "all 2"))
        kinds = [kind if shared and kind != "only" else f"{kind} {name}" for kind in niche]
        for kind in dict.fromkeys(kinds):
            profiles[kind] = profiles.get(kind, np.exp(1.5 * generator.normal(size=GENES)))
        path = folder / f"{name}.h5ad"
        write_slide(path, niche, xy_um, 3 * np.stack([profiles[kind] for kind in kinds]), number)
        condition = "tumour" if name == "C" else "normal"
        assert main(["prepare", str(path), "--out", str(folder / "prepared"), "--condition", condition]) == 0


@pytest.fixture(scope="module", params=[True, False], ids=["shared", "control"])
def prepared_stripes(request: pytest.FixtureRequest, build_once) -> Path:
    shared = request.param

    def build(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("cifm_cli.data.prepare.pipeline.write_qc_report", lambda slide: slide.with_suffix(".html"))
            prepare_slides(folder, shared=shared)

    return build_once(f"stripes-{shared}", build) / "prepared"


@pytest.fixture(scope="module")
def slides(build_once) -> Path:
    """Three embedded slides, whose embeddings are those of `plant_samples`."""

    def build(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("cifm_cli.data.prepare.pipeline.write_qc_report", lambda slide: slide.with_suffix(".html"))
            prepare_slides(folder, shared=True)
        parts, _ = plant_samples(shared=True, cells=312)
        for name, part in zip(NAMES, parts[:3], strict=True):
            levels = {keys.MICROENVIRONMENT: part.embedding, keys.CELL: part.embedding[:, :4].copy()}
            write_embedded(folder / f"embedded/{name}.h5ad", folder / f"prepared/{name}.h5ad", levels, ORIGIN)

    return build_once("sharing", build) / "embedded"


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_pipeline_recovers_planted_microenvironments(cifm, prepared_stripes: Path, request) -> None:
    run = save_random_run(Path("run"), open_slide(prepared_stripes / "A.h5ad"), {"model": {"width": 24}}, noise=0.3)
    assert cifm("embed", prepared_stripes, "--model", run, "--adapt", "none", "--level", "cell").code == 0
    code, out, _ = cifm("share", "embedded", "--level", "cell", "--k", "60", "--permutations", "19", "--json")
    assert code == 0
    content = json.loads(out)
    own = np.diag(content["matrix"])
    if "control" in request.node.name:
        assert own.min() > 0.95
        for position, clusters in enumerate(content["clusters"].values()):
            # A few cells at the borders of stripes may have neighbours elsewhere.
            common = [cluster for cluster in clusters if cluster["fractions"][position] < 0.9]
            assert sum(cluster["cells"] for cluster in common) < 0.1 * 312
        return
    assert own.max() < 0.8
    for name in NAMES:
        obs = ad.read_h5ad(f"sharing/{name}.h5ad").obs
        assert adjusted_rand_score(obs["niche"] == "only", obs[keys.SHARING_CLUSTER]) > 0.9, name


def test_all_files_are_written_and_open(cifm, slides: Path) -> None:
    code, out, err = cifm(
        "share",
        slides,
        "--k",
        "40",
        "--of",
        "A",
        "--clusters",
        "3",
        "--label",
        "niche",
        "--group",
        "condition",
        "--permutations",
        "19",
        "--json",
    )
    assert code == 0, err
    folder = Path("sharing")
    content = json.loads(out)
    assert content == json.loads((folder / "sharing.json").read_text(encoding="utf8"))
    assert content["answer"]["sentence"] in " ".join(err.split())
    assert "of the cells that are most similar to a cell are in its own sample" in content["answer"]["sentence"]
    assert content["search"] == {"method": "exact", "k": 40, "database": 936, "recall": 1.0}
    assert content["provenance"]["inputs"].keys() == {str(slides / f"{name}.h5ad") for name in NAMES}
    np.testing.assert_allclose(np.sum(content["matrix"], axis=1), 1.0, atol=1e-6)
    for name in ("matrix", "clusters", "enrichment", "groups"):
        table = pd.read_csv(folder / f"{name}.csv")
        pd.testing.assert_frame_equal(table, pd.read_parquet(folder / f"{name}.parquet"), check_dtype=False)
        assert len(table)
    pairs = pd.read_csv(folder / "matrix.csv").pivot(index="sample", columns="neighbour_sample", values="fraction")
    np.testing.assert_allclose(pairs, content["matrix"])
    figures = ["matrix", "matrix_enrichment", "map_A", "clusters_1", "types_1"]
    for name in figures:
        assert (folder / f"{name}.png").exists()
        assert (folder / f"{name}.svg").exists()
    page = (folder / "sharing.html").read_text(encoding="utf8")
    assert "Sample A" in page
    assert "https://" not in page.replace("https://www.w3.org", "")
    assert "samples, not cells, are the evidence" in page
    assert "samples, not cells, are the evidence" in err


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # matplotlib, of scanpy
def test_the_cells_open_in_scanpy(cifm, slides: Path) -> None:
    import scanpy as sc

    assert cifm("share", slides, "--k", "40", "--of", "A", "--permutations", "19", "--center", "none").code == 0
    adata = ad.read_h5ad("sharing/A.h5ad")
    embedded = ad.read_h5ad(slides / "A.h5ad")
    assert adata.obs_names.equals(embedded.obs_names)
    np.testing.assert_array_equal(adata.obsm[keys.SPATIAL], embedded.obsm[keys.SPATIAL])
    np.testing.assert_allclose(adata.obsm[keys.SHARING].sum(axis=1), 1.0, rtol=1e-6)
    assert json.loads(adata.uns[keys.CIFM][keys.SHARED])["samples"] == list(NAMES)
    np.testing.assert_array_equal(adata.obs["neighbours_in_B"], adata.obsm[keys.SHARING][:, 1])
    for colour in (keys.SHARING_CLUSTER, "neighbours_in_B"):
        sc.pl.embedding(adata, "spatial", color=colour, show=False)
    # The other samples were not clustered.
    assert ad.read_h5ad("sharing/B.h5ad").obs[keys.SHARING_CLUSTER].isna().all()
    assert not Path("sharing/map_B.png").exists()


def test_the_result_depends_on_the_seed_only(cifm, slides: Path) -> None:
    options = ("share", slides, "--k", "40", "--label", "niche", "--permutations", "19", "--center", "none")
    for out in ("one", "two"):
        assert cifm(*options, "--out", out).code == 0
    assert cifm(*options, "--seed", "1", "--out", "three").code == 0
    one, two, three = (json.loads(Path(f"{out}/sharing.json").read_text()) for out in ("one", "two", "three"))
    for content in (one, two, three):
        del content["provenance"]
    assert one == two
    assert Path("one/enrichment.csv").read_bytes() == Path("two/enrichment.csv").read_bytes()
    assert Path("one/matrix.csv").read_bytes() != Path("three/matrix.csv").read_bytes()


def test_figures_of_an_earlier_call_are_removed(cifm, slides: Path) -> None:
    options = ("share", slides, "--k", "40", "--permutations", "19", "--center", "none", "--of")
    assert cifm(*options, "A", "--group", "condition").code == 0
    Path("sharing/notes.txt").write_text("mine")
    assert cifm(*options, "C").code == 0
    names = {path.name for path in Path("sharing").iterdir()}
    assert {"map_C.png", "notes.txt", "sharing.json"} <= names
    assert not {"map_A.png", "groups.csv"} & names


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["--label", "type"], "--label type: no such column", "columns that can serve as types: split, niche"),
        (["--label", keys.TOTAL_COUNTS], "different values, at most 100 are types", "columns that can"),
        (["--group", "niche"], "--group niche has 3 values", "constant on each slide"),
        (["--group", "patient"], "no such column of obs", "condition, tissue or platform"),
        (["--group", "tissue"], "has no tissue", "cifm prepare --tissue"),
        (["--group", "platform"], "groups of samples: one group", "two groups are needed"),
        (["--of", "Z"], "--of Z: no such sample", "samples: A, B, C"),
        (["--k", "5000"], "too few for 5000 neighbours", "--k"),
        (["--k", "200", "--balance"], "fewer than 2 x 200 neighbours", "--no-balance"),
    ],
)
def test_options_that_cannot_be_used(cifm, slides: Path, words: list[str], message: str, hint: str) -> None:
    code, out, err = cifm("share", slides, "--center", "none", *words)
    assert (code, out) == (1, "")
    lines = err.strip().splitlines()[-2:]
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert lines[1].startswith("hint: ")
    assert hint in lines[1]
    assert not Path("sharing").exists()


def test_inputs_that_cannot_be_used(cifm, slides: Path) -> None:
    def refuse(*words: object) -> str:
        code, _, err = cifm("share", *words)
        assert code == 1
        assert not Path("sharing").exists()
        return str(err)

    assert "error: one sample: A" in refuse(slides / "A.h5ad")
    assert "holds no embedding" in refuse(slides.parent / "prepared")
    assert "no such file" in refuse("missing")
    assert "would replace its input" in refuse(slides, "--out", slides)
    other = Path("other/A.h5ad")
    write_embedded(
        other,
        slides.parent / "prepared/A.h5ad",
        {keys.CELL: np.ones((312, 4), np.float32)},
        ORIGIN | {"adapt": "slide"},
    )
    assert "two slides are called A" in refuse(slides / "A.h5ad", other)
    renamed = other.rename("other/D.h5ad")
    assert "different --adapt: none, slide" in refuse(slides / "A.h5ad", renamed)
    write_embedded(renamed, slides.parent / "prepared/A.h5ad", {keys.CELL: np.ones((312, 4), np.float32)}, ORIGIN)
    assert "holds no microenvironment embedding" in refuse(slides / "B.h5ad", renamed)
    model = ORIGIN | {"model": {"sha256": "other"}}
    write_embedded(renamed, slides.parent / "prepared/A.h5ad", {keys.CELL: np.ones((312, 4), np.float32)}, model)
    assert "embedded by different models" in refuse(slides / "B.h5ad", renamed, "--level", "cell")


def test_names_of_samples_may_contain_any_character(cifm, slides: Path) -> None:
    shutil.copytree(slides, "copies")
    for name, sample in zip(NAMES, ("a/1", "a_1", "cluster"), strict=True):
        adata = ad.read_h5ad(f"copies/{name}.h5ad")
        adata.uns[keys.CIFM][keys.SAMPLE] = sample
        adata.obs["neighbours_in_cluster"] = "mine"
        adata.write_h5ad(f"copies/{name}.h5ad")
    code, _, err = cifm("share", "copies", "--k", "40", "--permutations", "19", "--center", "none", "--no-verify")
    assert code == 0, err
    obs = ad.read_h5ad("sharing/A.h5ad").obs
    columns = ["neighbours_in_a_1", "neighbours_in_a_1_1", "neighbours_in_cluster"]
    np.testing.assert_allclose(obs[columns].sum(axis=1), 1.0, rtol=1e-6)
    assert obs[keys.SHARING_CLUSTER].notna().all()


def test_embeddings_that_another_program_compressed_are_read(cifm, slides: Path) -> None:
    shutil.copytree(slides, "copies")
    adata = ad.read_h5ad("copies/A.h5ad")
    adata.write_h5ad("copies/A.h5ad", compression="gzip")
    options = ("--k", "40", "--permutations", "19", "--center", "none", "--of", "A", "--json")
    one = json.loads(cifm("share", slides, *options, "--out", "a").out)
    two = json.loads(cifm("share", "copies", *options, "--out", "b").out)
    assert one["matrix"] == two["matrix"]
