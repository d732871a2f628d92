"""Annotators for model files of other projects, on small models written in their file formats.

The numbers for TabNet and the SCimilarity encoder were computed by those projects' own code, on the same weights.
"""

from __future__ import annotations

import os
import pickle
import re
import struct
import sys
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path, PurePosixPath
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.preprocessing import StandardScaler

from cifm_cli.celltype import scimilarity
from cifm_cli.celltype.base import UNASSIGNED, UnlabelledCells
from cifm_cli.celltype.celltypist import load_celltypist, open_celltypist
from cifm_cli.celltype.hnsw_file import check_index
from cifm_cli.celltype.pickles import OpaqueObject, read_pickle
from cifm_cli.celltype.scimilarity import embed, load_scimilarity, open_scimilarity
from cifm_cli.celltype.sctab import load_sctab, open_sctab
from cifm_cli.celltype.tabnet import TabNet, entmax15, sparsemax
from cifm_cli.celltype.torch_files import read_torch
from cifm_cli.errors import CifmError
from cifm_cli.provenance import numpy_generator

GENES = tuple(f"G{number}" for number in range(6))
X = torch.cos(torch.arange(18, dtype=torch.float32)).abs().reshape(3, 6) * 3


def fill(name: str, *shape: int) -> torch.Tensor:
    """Weights without randomness; layers that are shared have the same ones under each of their names."""
    key = re.sub(r".*shared\.(?:shared_layers|glu_layers)\.(\d)(?:\.fc)?\.weight", r"shared \1", name)
    number = int(np.prod(shape))
    wave = torch.sin(torch.arange(number, dtype=torch.float32) * 0.7 + zlib.crc32(key.encode()) % 10).reshape(shape)
    return wave.abs() + 0.5 if "running_var" in name else wave


def norm(name: str, width: int) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{part}": fill(f"{name}.{part}", width) for part in ("weight", "bias", "running_mean", "running_var")
    }


def tabnet_weights() -> dict[str, torch.Tensor]:
    """6 genes, 4 types, widths 3 and 2, two steps, two shared layers and two layers per step."""
    weights = norm("encoder.initial_bn", 6)
    for part in ("initial_splitter", "feat_transformers.0", "feat_transformers.1"):
        for block in ("shared", "specifics"):
            for layer in (0, 1):
                gate = f"encoder.{part}.{block}.glu_layers.{layer}"
                width = 6 if (block, layer) == ("shared", 0) else 5
                weights |= {f"{gate}.fc.weight": fill(f"{gate}.fc.weight", 10, width)} | norm(f"{gate}.bn.bn", 10)
    for step in (0, 1):
        attention = f"encoder.att_transformers.{step}"
        weights |= {f"{attention}.fc.weight": fill(f"{attention}.fc.weight", 6, 2)} | norm(f"{attention}.bn.bn", 6)
    return weights | {"final_mapping.weight": fill("final_mapping.weight", 4, 3)}


TABNET_LOGITS = {
    "entmax": [
        [0.4763016104698181, -0.5826494693756104, 0.11199499666690826, 0.46956905722618103],
        [0.45436257123947144, -0.6414745450019836, 0.19332918524742126, 0.4462716579437256],
        [0.4532020688056946, -0.642420768737793, 0.19544503092765808, 0.4450814425945282],
    ],
    "sparsemax": [
        [0.4736589193344116, -0.5642318725585938, 0.09604151546955109, 0.4672595262527466],
        [0.4368441700935364, -0.6033531427383423, 0.1723567545413971, 0.42932596802711487],
        [0.4360097348690033, -0.6049826741218567, 0.17483647167682648, 0.42845168709754944],
    ],
}
EMBEDDINGS = [
    [-0.010389869101345539, -0.006326843518763781, 0.9999260306358337],
    [0.011262582615017891, -0.008671953342854977, 0.9998989701271057],
    [0.012596971355378628, -0.003561001503840089, 0.999914288520813],
]


# Pickles ------------------------------------------------------------------------------------------------------------


class Malicious:
    """Runs a command when it is unpickled by the standard library."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        """Make unpickling call `os.system`."""
        return (os.system, (f"touch {self.path}",))


def test_no_code_in_a_pickle_is_run(tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"good": np.arange(3), "bad": Malicious(tmp_path / "ran")}))
    content = read_pickle(tmp_path / "model.pkl", trusted=True)
    assert content["good"].tolist() == [0, 1, 2]
    assert isinstance(content["bad"], OpaqueObject)
    assert not (tmp_path / "ran").exists()
    torch.save({"good": torch.arange(3), "bad": Malicious(tmp_path / "ran")}, tmp_path / "model.ckpt")
    content = read_torch(tmp_path / "model.ckpt", trusted=True)
    assert content["good"].tolist() == [0, 1, 2]
    assert isinstance(content["bad"], OpaqueObject)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_the_attributes_of_objects_are_kept(tmp_path: Path, protocol: int) -> None:
    scaler = StandardScaler().fit(np.array([[0.0, 1.0], [2.0, 5.0]]))
    (tmp_path / "model.pkl").write_bytes(pickle.dumps([scaler, np.array(["a", "b"], dtype=object)], protocol))
    scaler, names = read_pickle(tmp_path / "model.pkl", trusted=True)
    assert isinstance(scaler, OpaqueObject)
    assert scaler.mean_.tolist() == [1, 3]
    assert names.tolist() == ["a", "b"]


def test_without_trust_no_pickle_is_opened(tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({}))
    with pytest.raises(CifmError, match=r"model\.pkl: a pickle") as error:
        read_pickle(tmp_path / "model.pkl", trusted=False)
    assert "--trust-pickle" in error.value.hint
    torch.save({"settings": SimpleNamespace(gamma=1)}, tmp_path / "model.ckpt")
    with pytest.raises(CifmError, match="a pickle with more than tensors in it") as error:
        read_torch(tmp_path / "model.ckpt", trusted=False)
    assert "--trust-pickle" in error.value.hint


ARRAYS = [
    np.arange(6, dtype="<f4").reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(3, dtype=">i2"),
    np.array([True, False]),
    np.array(["a", "bcd"]),
    np.array([b"x", b"yz"]),
    np.array([["a", None], [[1, 2], np.arange(2)]], dtype=object),
    np.zeros((0, 4)),
    np.float64(0.25),
    np.str_("name"),
]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{list(array.shape)}")
def test_arrays_in_pickles_are_rebuilt(tmp_path: Path, array: np.ndarray, protocol: int) -> None:
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"nested": [(array, array)]}, protocol))
    ((found, again),) = read_pickle(tmp_path / "model.pkl", trusted=True)["nested"]
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert str(found.tolist()) == str(array.tolist()) == str(again.tolist())


def forged_dtype(name: str, flags: int) -> bytes:
    """Opcodes of a dtype whose state, with its flags, is chosen by the file."""
    head = b"cnumpy\ndtype\n(V" + name.encode() + b"\nI00\nI01\ntR"
    return head + b"(I3\nV|\nNNNI-1\nI-1\nI" + str(flags).encode() + b"\ntb"


FORGED = {
    "objects declared as plain bytes": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR"
    b"(I1\n(I1\nt" + forged_dtype("O8", 0) + b"I00\nVAAAAAAAA\ntb.",
    "an object at an address": b"cnumpy.core.multiarray\nscalar\n(" + forged_dtype("O8", 0) + b"VAAAAAAAA\ntR.",
    "fewer bytes than elements": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR"
    b"(I1\n(I9999999\nt" + forged_dtype("f8", 0) + b"I00\nVAAAAAAAA\ntb.",
    "a number in the place of bytes": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR"
    b"(I1\n(I1\nt" + forged_dtype("u1", 0) + b"I00\nL99999999999999L\ntb.",
    "a negative length": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR"
    b"(I1\n(I-1\nI-8\nt" + forged_dtype("u1", 0) + b"I00\nc__builtin__\nbytes\n(tRtb.",
    "a record": pickle.dumps(np.zeros(2, dtype=[("a", "f8"), ("b", "O")]), 2),
    "a number of bytes": b"c__builtin__\nbytes\n(I999999999999\ntR.",
    "a code for text that decompresses": b"c_codecs\nencode\n(VAAAA\nVzip\ntR.",
}


@pytest.mark.parametrize("content", FORGED.values(), ids=FORGED)
def test_forged_arrays_are_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pkl").write_bytes(content)
    with pytest.raises(CifmError, match="not a readable pickle"):
        read_pickle(tmp_path / "model.pkl", trusted=True)


def test_a_checkpoint_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    for trusted in (False, True):
        with pytest.raises(CifmError, match="not a readable checkpoint"):
            read_torch(tmp_path / "none.ckpt", trusted=trusted)


def test_a_file_that_is_a_zip_only_at_its_end_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.arange(3)}, tmp_path / "model.ckpt")
    forged = b"a tar archive for another reader" + (tmp_path / "model.ckpt").read_bytes()
    (tmp_path / "forged.ckpt").write_bytes(forged)
    with pytest.raises(CifmError, match="not a readable checkpoint"):
        read_torch(tmp_path / "forged.ckpt", trusted=False)


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"\x80\x05X"])
def test_damaged_pickles_are_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model").write_bytes(content)
    for read in (read_pickle, read_torch):
        with pytest.raises(CifmError, match="not a readable"):
            read(tmp_path / "model", trusted=True)


def test_shared_and_deep_containers_end_in_time(tmp_path: Path) -> None:
    """Tuples that contain a tuple twice are as many as their depth; deep ones would exhaust the stack as keys."""
    shared: tuple = ("leaf",)
    for _ in range(60):
        shared = (shared, shared)
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"shared": shared}))
    found = read_pickle(tmp_path / "model.pkl", trusted=True)["shared"]
    assert found[0] is found[1]
    deep = (
        pickle.MARK + pickle.EMPTY_DICT + pickle.EMPTY_TUPLE + pickle.TUPLE1 * 1_000_000 + pickle.NONE + pickle.SETITEM
    )
    (tmp_path / "model.pkl").write_bytes(deep + pickle.STOP)
    with pytest.raises(CifmError, match="tuples nested too deeply"):
        read_pickle(tmp_path / "model.pkl", trusted=True)


HUGE = (1 << 40).to_bytes(8, "little")


@pytest.mark.parametrize(
    "content",
    [
        pickle.BYTEARRAY8 + HUGE,
        pickle.BINBYTES8 + HUGE,
        pickle.BINUNICODE8 + HUGE,
        pickle.FRAME + HUGE,
        pickle.NONE + pickle.LONG_BINPUT + b"\xff\xff\xff\xff" + pickle.POP,
        b"cbuiltins\nbytearray\n(I1099511627776\ntR.",
        b"cbuiltins\nlist\n(I1\nI2\ntR.",
        b"(I1\nI2\ntR.",
        b"cos\nsystem\n(Vtouch ran\ntRRb.",
        b"\x82\x01.",
        b"(lp0\ng0\na" * 3,
    ],
    ids=range(11),
)
def test_pickles_that_ask_for_memory_or_calls_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.pkl").write_bytes(content)
    with pytest.raises(CifmError, match="not a readable pickle"):
        read_pickle(tmp_path / "model.pkl", trusted=True)
    assert not (tmp_path / "ran").exists()


def rewrite_zip(path: Path, change) -> None:
    """Write a checkpoint of torch again, with `change(name, content)` in the place of each record."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, change(name, content))


TENSOR = "model/data/0"
FORGED_TENSORS = {
    "a storage that is longer than its record": (lambda name, content: content[:8] if name == TENSOR else content, "has 2 elements, not 6"),
    "a record that ends within an element": (lambda name, content: content[:9] if name == TENSOR else content, "ends within an element"),
    "a size that is larger than the storage": (
        lambda name, content: content.replace(b"K\x02K\x03\x86", b"K\x02K\x09\x86"), "reaches outside of its storage",
    ),
    "a stride that leaves the storage": (
        lambda name, content: content.replace(b"K\x03K\x01\x86", b"K\x07K\x01\x86"), "reaches outside of its storage",
    ),
    "strides of zero": (
        lambda name, content: content.replace(b"K\x02K\x03\x86", b"J\0\0\0\x40K\x03\x86").replace(b"K\x03K\x01\x86", b"K\x00K\x01\x86"),
        "reaches outside of its storage",
    ),
    "another byte order": (lambda name, content: b"big" if name.endswith("byteorder") else content, "of another byte order"),
}  # fmt: skip


@pytest.mark.parametrize("forged", FORGED_TENSORS)
def test_forged_tensors_are_an_error(tmp_path: Path, forged: str) -> None:
    change, message = FORGED_TENSORS[forged]
    torch.save({"weight": torch.arange(6.0).reshape(2, 3)}, tmp_path / "model.ckpt")
    assert read_torch(tmp_path / "model.ckpt", trusted=False)["weight"].tolist() == [[0, 1, 2], [3, 4, 5]]
    rewrite_zip(tmp_path / "model.ckpt", change)
    with pytest.raises(CifmError, match=message):
        read_torch(tmp_path / "model.ckpt", trusted=False)


def test_archives_that_readers_may_read_differently_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"weight": torch.arange(6.0)}, path)
    intact = path.read_bytes()
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(TENSOR, bytes(24))
    with pytest.raises(CifmError, match="two records have the same name"):
        read_torch(path, trusted=True)
    path.write_bytes(intact)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data/1", bytes(1_000_000))
    with pytest.raises(CifmError, match="its records are compressed"):
        read_torch(path, trusted=True)
    path.write_bytes(intact)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other/data.pkl", pickle.dumps({}))
    with pytest.raises(CifmError, match=r"2 records data\.pkl"):
        read_torch(path, trusted=True)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool]
)
def test_tensors_of_torch_are_rebuilt(tmp_path: Path, dtype: torch.dtype) -> None:
    base = torch.arange(12).to(dtype).reshape(3, 4)
    saved = {
        "whole": base,
        "view": base[1:, ::2],
        "turned": base.T,
        "scalar": base[0, 0],
        "none": base[:0],
        "weight": torch.nn.Parameter(base.float()),
    }
    torch.save(OrderedDict(saved), tmp_path / "model.ckpt")
    found = read_torch(tmp_path / "model.ckpt", trusted=False)
    for name, tensor in saved.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found[name], tensor.detach())
    assert found["whole"].data_ptr() == found["turned"].data_ptr()


# CellTypist ---------------------------------------------------------------------------------------------------------


def planted(num_types: int) -> tuple[np.ndarray, np.ndarray]:
    """Log-normalised cells of some types over six genes."""
    generator = numpy_generator(num_types, "planted")
    codes = generator.integers(num_types, size=200)
    counts = generator.poisson(1 + 20 * np.eye(6)[codes])
    return np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True)), np.array([f"type {code}" for code in codes])


def write_celltypist(path: Path, estimator, num_types: int = 3, **scaling: bool) -> tuple[object, StandardScaler]:
    """Write a model file as CellTypist does."""
    values, labels = planted(num_types)
    scaler = StandardScaler(**scaling).fit(values)
    estimator.fit(np.minimum(scaler.transform(values), 10), labels)
    estimator.features = np.array(GENES, dtype=object)
    about = {"date": "2024", "details": "", "url": "", "source": "", "version": "", "number_celltypes": num_types}
    path.write_bytes(pickle.dumps({"Model": estimator, "Scaler_": scaler, "description": about}))
    return estimator, scaler


@pytest.mark.parametrize("num_types", [2, 3])
@pytest.mark.parametrize("with_mean", [True, False])
@pytest.mark.parametrize("kind", [LogisticRegression, SGDClassifier])
def test_celltypist_has_the_decision_values_of_scikit_learn(
    tmp_path: Path, kind, num_types: int, with_mean: bool
) -> None:
    estimator = kind(random_state=0) if kind is SGDClassifier else kind()
    fitted, scaler = write_celltypist(tmp_path / "m.pkl", estimator, num_types, with_mean=with_mean)
    values, labels = planted(num_types)
    decision = fitted.decision_function(np.minimum(scaler.transform(values), 10))
    decision = np.column_stack([-decision, decision]) if num_types == 2 else decision
    model = load_celltypist(tmp_path / "m.pkl", trust_pickle=True)
    ours, void = model.decision_function(csr_matrix(values.astype(np.float32)), GENES)
    assert ours == pytest.approx(decision, rel=1e-4, abs=1e-3)
    assert not void.any()
    found = model.annotate(csr_matrix(values.astype(np.float32)), GENES)
    assert found.scores == pytest.approx(1 / (1 + np.exp(-decision.max(axis=1))), abs=1e-4)
    assert (found.labels == labels).mean() > 0.95
    assert np.exp(found.log_probabilities[:, :-1]).sum(axis=1) == pytest.approx(np.ones(200), abs=1e-5)


def test_celltypist_leaves_out_genes_that_are_not_measured(tmp_path: Path) -> None:
    fitted, scaler = write_celltypist(tmp_path / "m.pkl", LogisticRegression())
    values, _ = planted(3)
    kept = [4, 0, 2]
    scaled = np.minimum((values[:, kept] - scaler.mean_[kept]) / scaler.scale_[kept], 10)
    expected = scaled @ fitted.coef_[:, kept].T + fitted.intercept_
    model = load_celltypist(tmp_path / "m.pkl", trust_pickle=True)
    ours, _ = model.decision_function(csr_matrix(values[:, kept].astype(np.float32)), [GENES[gene] for gene in kept])
    assert ours == pytest.approx(expected, rel=1e-4, abs=1e-3)
    assert model.annotate(csr_matrix((1, 6), dtype=np.float32), GENES).labels.tolist() == [UNASSIGNED]


def test_celltypist_needs_trust_genes_and_a_model(tmp_path: Path) -> None:
    write_celltypist(tmp_path / "m.pkl", LogisticRegression())
    with pytest.raises(CifmError, match="a pickle, which can hold any code"):
        load_celltypist(tmp_path / "m.pkl", trust_pickle=False)
    cells = UnlabelledCells("s", csr_matrix((1, 1), dtype=np.float32), ("G0",))
    with pytest.raises(CifmError, match=r"slide s: its panel measures 1 of the 6 genes of celltypist:.* \(17%\)"):
        open_celltypist(tmp_path / "m.pkl", cells, trust_pickle=True)
    (tmp_path / "other.pkl").write_bytes(pickle.dumps({"Model": 1}))
    with pytest.raises(CifmError, match=r"other\.pkl: not a CellTypist model"):
        load_celltypist(tmp_path / "other.pkl", trust_pickle=True)
    content = pickle.loads((tmp_path / "m.pkl").read_bytes())
    content["Model"].features = np.array(GENES[:3], dtype=object)
    (tmp_path / "cut.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(CifmError, match="its parts do not fit each other"):
        load_celltypist(tmp_path / "cut.pkl", trust_pickle=True)


# SCimilarity --------------------------------------------------------------------------------------------------------


def scimilarity_weights() -> OrderedDict[str, torch.Tensor]:
    """6 genes, hidden layers of 5 and 4, embeddings of 3."""
    weights = OrderedDict()
    for layer, (before, after) in enumerate([(6, 5), (5, 4)]):
        name = f"network.{layer}"
        weights |= {f"{name}.1.weight": fill(f"{name}.1.weight", after, before)}
        weights |= {f"{name}.1.bias": fill(f"{name}.1.bias", after)} | norm(f"{name}.2", after)
        weights |= {f"{name}.2.num_batches_tracked": torch.tensor(3), f"{name}.3.weight": fill(f"{name}.3.weight", 1)}
    return weights | {"network.2.weight": fill("network.2.weight", 3, 4), "network.2.bias": fill("network.2.bias", 3)}


class ExhaustiveIndex:
    """The interface of hnswlib.Index with an exhaustive search."""

    def __init__(self, space: str, dim: int) -> None:
        assert space == "cosine"
        self.dim = dim

    def load_index(self, path: str, max_elements: int) -> None:
        self.items = np.load(path)
        assert self.items.shape[1] == self.dim

    def set_ef(self, ef: int) -> None:
        self.ef = ef

    def get_current_count(self) -> int:
        return len(self.items)

    def knn_query(self, embeddings: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        assert self.ef >= k
        distance = 1 - embeddings @ self.items.T
        nearest = np.argsort(distance, axis=1, kind="stable")[:, :k]
        return nearest.astype(np.uint64), np.take_along_axis(distance, nearest, 1)


def check_items(path: Path, num_items: int, num_dimensions: int) -> None:
    """Stand in for `check_index`."""
    items = np.load(path)
    if items.shape != (num_items, num_dimensions):
        raise ValueError(f"{num_items:,} labels for {len(items):,} labelled cells")


@pytest.fixture
def scimilarity_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model whose 60 labelled cells are the three of `X`, 30 of the first, 20 and 10 of the others."""
    fake_module = ModuleType("hnswlib")
    fake_module.Index = ExhaustiveIndex
    monkeypatch.setitem(sys.modules, "hnswlib", fake_module)
    monkeypatch.setattr(scimilarity, "check_index", check_items)
    folder = tmp_path / "model"
    (folder / "annotation").mkdir(parents=True)
    torch.save({"state_dict": scimilarity_weights()}, folder / "encoder.ckpt")
    (folder / "gene_order.tsv").write_text("\n".join(GENES))
    items = np.repeat(np.array(EMBEDDINGS, dtype=np.float32), [30, 20, 10], axis=0)
    with (folder / "annotation/labelled_kNN.bin").open("wb") as file:
        np.save(file, items)
    labels = ["T cell"] * 30 + ["B cell"] * 20 + ["mast cell"] * 10
    (folder / "annotation/reference_labels.tsv").write_text("".join(f"{label}\tstudy\n" for label in labels))
    return folder


def test_scimilarity_embeddings_are_those_of_its_own_code() -> None:
    assert embed(X.numpy(), scimilarity_weights()) == pytest.approx(np.array(EMBEDDINGS), abs=1e-5)


def test_scimilarity_probabilities_are_fractions_of_the_nearest_cells(scimilarity_folder: Path) -> None:
    model = load_scimilarity(scimilarity_folder, trust_pickle=False)
    assert model.names == ("B cell", "T cell", "mast cell", UNASSIGNED)
    expression = csr_matrix(X.numpy())
    found = model.annotate(expression, GENES)
    total = np.expm1(X.numpy()).sum(axis=1, keepdims=True)
    aligned = np.log1p(1e4 * np.expm1(X.numpy()) / total).astype(np.float32)
    distance = 1 - embed(aligned, model.weights) @ model.index.items.T
    for cell in range(3):
        nearest = np.argsort(distance[cell], kind="stable")[:50]
        fractions = np.bincount(model.item_types[nearest], minlength=3) / 50
        assert np.exp(found.log_probabilities[cell, :-1]) == pytest.approx(fractions, abs=1e-6)
        assert found.scores[cell] == pytest.approx(fractions.max())


def test_scimilarity_reports_missing_files(scimilarity_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = UnlabelledCells("s", csr_matrix((1, 1), dtype=np.float32), ("G0",))
    with pytest.raises(CifmError, match="measures 1 of the 6 genes of scimilarity"):
        open_scimilarity(scimilarity_folder, cells, trust_pickle=False)
    labels = scimilarity_folder / "annotation/reference_labels.tsv"
    labels.write_text("T cell\tstudy\n")
    with pytest.raises(CifmError, match="1 labels for 60 labelled cells"):
        load_scimilarity(scimilarity_folder, trust_pickle=False)
    labels.unlink()
    with pytest.raises(CifmError, match=r"no annotation/reference_labels\.tsv"):
        load_scimilarity(scimilarity_folder, trust_pickle=False)
    monkeypatch.setitem(sys.modules, "hnswlib", None)
    with pytest.raises(CifmError, match="need hnswlib") as error:
        load_scimilarity(scimilarity_folder, trust_pickle=False)
    assert "pip install" in error.value.hint


def test_scimilarity_with_an_index_of_hnswlib(scimilarity_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "hnswlib")
    monkeypatch.setattr(scimilarity, "check_index", check_index)
    hnswlib = pytest.importorskip("hnswlib")
    plain = numpy_generator(0).normal(size=(60, 3)).astype(np.float32)
    index = hnswlib.Index(space="cosine", dim=3)
    index.init_index(max_elements=60, ef_construction=100, M=16)
    index.add_items(plain, np.arange(60))
    index.save_index(str(scimilarity_folder / "annotation/labelled_kNN.bin"))
    model = load_scimilarity(scimilarity_folder, trust_pickle=False)
    found = model.annotate(csr_matrix(X.numpy()), GENES)
    assert np.exp(found.log_probabilities).sum(axis=1) == pytest.approx(np.ones(3), abs=1e-5)


def write_index(path: Path, **changes: int) -> None:
    """Write an index of hnswlib by hand: 3 items in 2 dimensions, 2 links each, the last one on an upper level too."""
    values = {"num": 3, "vector": 12, "label": 20, "record": 28, "top": 1, "entry": 2, "max": 1, "max_0": 2}
    values |= {"count": 2, "link": 1, "id": 2, "upper_length": 8, "upper_count": 0, "upper_link": 0} | changes
    head = struct.pack(
        "<QQQQQQiIQQQdQ",
        *(0, 3, values["num"], values["record"], values["label"], values["vector"], values["top"], values["entry"]),
        *(values["max"], values["max_0"], 1, 0.5, 10),
    )
    records = b"".join(
        struct.pack(
            "<IIIffQ",
            values["count"] if item == 2 else 2,
            (item + 1) % 3,
            values["link"] if item == 2 else 0,
            0.5,
            0.5,
            label,
        )
        for item, label in enumerate((0, 1, values["id"]))
    )
    upper = struct.pack("<IIIII", 0, 0, values["upper_length"], values["upper_count"], values["upper_link"])
    path.write_bytes(head + records + upper)


def test_an_index_is_checked(tmp_path: Path) -> None:
    write_index(tmp_path / "index.bin")
    check_index(tmp_path / "index.bin", 3, 2)
    for number, dimensions in ((4, 2), (3, 5)):
        with pytest.raises(ValueError, match=r"labels for|dimensions"):
            check_index(tmp_path / "index.bin", number, dimensions)


DAMAGED_INDEX = {
    "count": (3, "list of links is too long"), "link": (3, "points outside"), "id": (3, "points outside"),
    "record": (32, "its records are not"), "vector": (0, "its records are not"), "label": (2**40, "its records are not"),
    "entry": (3, "it ends early"), "top": (2, "other levels of links"), "upper_length": (4, "it ends early"),
    "upper_count": (2, "list of links is too long"), "max_0": (2**62, "its records are not"),
}  # fmt: skip


@pytest.mark.parametrize("field", DAMAGED_INDEX)
def test_a_damaged_index_is_refused(tmp_path: Path, field: str) -> None:
    value, message = DAMAGED_INDEX[field]
    write_index(tmp_path / "index.bin", **{field: value})
    with pytest.raises(ValueError, match=message):
        check_index(tmp_path / "index.bin", 3, 2)


def test_links_to_items_without_the_level_are_refused(tmp_path: Path) -> None:
    write_index(tmp_path / "index.bin", upper_count=1, upper_link=0)
    with pytest.raises(ValueError, match="points outside"):
        check_index(tmp_path / "index.bin", 3, 2)
    (tmp_path / "index.bin").write_bytes((tmp_path / "index.bin").read_bytes()[:-4])
    with pytest.raises(ValueError, match="it ends early"):
        check_index(tmp_path / "index.bin", 3, 2)


# scTab --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", TABNET_LOGITS)
def test_tabnet_logits_are_those_of_sctabs_own_code(mask: str) -> None:
    logits = TabNet(tabnet_weights(), 1.3, mask).logits(X)
    assert logits.numpy() == pytest.approx(np.array(TABNET_LOGITS[mask]), abs=1e-5)


@pytest.mark.parametrize(("select", "power"), [(sparsemax, 1), (entmax15, 2)])
def test_masks_are_the_solution_of_their_equation(select, power: int) -> None:
    """max(z' - tau, 0)^power sums to 1; tau by bisection, z' = z for sparsemax and z / 2 for entmax."""
    z = torch.from_numpy(numpy_generator(power).normal(scale=2, size=(20, 9)))
    low, high = z.amin(1, keepdim=True) / power - 1, z.amax(1, keepdim=True) / power
    for _ in range(60):
        middle = (low + high) / 2
        total = (z / power - middle).clamp(min=0).pow(power).sum(1, keepdim=True)
        low, high = torch.where(total > 1, middle, low), torch.where(total > 1, high, middle)
    expected = (z / power - low).clamp(min=0).pow(power)
    assert select(z).numpy() == pytest.approx(expected.numpy(), abs=1e-9)


def sctab_folder(folder: Path, weights: dict[str, torch.Tensor], *, lightning: bool) -> Path:
    """Write the files of scTab; Lightning's checkpoints hold classes and paths beside the weights."""
    (folder / "categorical_lookup").mkdir(parents=True)
    state = OrderedDict((f"classifier.{name}", weight) for name, weight in weights.items())
    content = {"state_dict": state | {"class_weights": torch.ones(4)}, "hyper_parameters": {"gamma": 1.3}}
    content["hyper_parameters"] |= {"mask_type": "entmax", "n_d": 3}
    if lightning:
        content["hyper_parameters"] |= {"optimizer": torch.optim.AdamW, "root": PurePosixPath("x")}
    torch.save(content, folder / "best.ckpt")
    pd.DataFrame({"feature_id": GENES, "feature_name": GENES}).to_parquet(folder / "var.parquet")
    names = pd.DataFrame({"label": ["a", "b", "c", "d"]})
    names.to_parquet(folder / "categorical_lookup/cell_type.parquet")
    return folder


@pytest.mark.parametrize("lightning", [True, False])
def test_sctab_reads_its_folder(tmp_path: Path, lightning: bool) -> None:
    folder = sctab_folder(tmp_path / "m", tabnet_weights(), lightning=lightning)
    if lightning:
        with pytest.raises(CifmError, match=r"best\.ckpt: a pickle with more than tensors") as error:
            load_sctab(folder, trust_pickle=False)
        assert "--trust-pickle" in error.value.hint
    model = load_sctab(folder, trust_pickle=lightning)
    assert model.names == ("a", "b", "c", "d", UNASSIGNED)
    assert model.logits(X).numpy() == pytest.approx(np.array(TABNET_LOGITS["entmax"]), abs=1e-5)
    found = model.annotate(csr_matrix(X.numpy()), GENES)
    assert np.exp(found.log_probabilities).sum(axis=1) == pytest.approx(np.ones(3), abs=1e-5)
    assert model.annotate(csr_matrix((1, 6), dtype=np.float32), GENES).labels.tolist() == [UNASSIGNED]


def test_linear_and_multilayer_networks_of_sctab(tmp_path: Path) -> None:
    linear = torch.nn.Linear(6, 4)
    multilayer = torch.nn.Module()
    layers = []
    for before in (6, 5):
        layers += [torch.nn.Linear(before, 5), torch.nn.BatchNorm1d(5), torch.nn.SiLU(), torch.nn.Dropout(0.5)]
    multilayer.encoder, multilayer.linear = torch.nn.Sequential(*layers), torch.nn.Linear(5, 4)
    multilayer.eval()
    with torch.inference_mode():
        expected = {"linear": linear(X), "multilayer": multilayer.linear(multilayer.encoder(X))}
        for name, network in (("linear", linear), ("multilayer", multilayer)):
            model = load_sctab(sctab_folder(tmp_path / name, network.state_dict(), lightning=False), trust_pickle=False)
            assert model.logits(X).numpy() == pytest.approx(expected[name].numpy(), abs=1e-6)


def test_sctab_models_with_parts_that_do_not_match_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CifmError, match="0 checkpoints"):
        load_sctab(tmp_path, trust_pickle=False)
    folder = sctab_folder(tmp_path / "m", tabnet_weights(), lightning=False)
    cells = UnlabelledCells("s", csr_matrix((1, 1), dtype=np.float32), ("G0",))
    with pytest.raises(CifmError, match="measures 1 of the 6 genes of sctab"):
        open_sctab(folder, cells, trust_pickle=False)
    pd.DataFrame({"label": ["a"]}).to_parquet(
        folder / "cell_type.parquet"
    )  # the file beside the checkpoint has precedence
    with pytest.raises(CifmError, match="1 names for 4 types"):
        load_sctab(folder, trust_pickle=False)
    pd.DataFrame({"feature_name": GENES[:2]}).to_parquet(folder / "var.parquet")
    with pytest.raises(CifmError, match="not an scTab model"):
        load_sctab(folder, trust_pickle=False)
