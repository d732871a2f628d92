"""Writing `.h5ad` files: views too; files that do not fit on the disk are refused before HDF5 writes."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from scipy.sparse import csr_matrix

from cifm_cli.data.writers import h5ad
from cifm_cli.errors import CifmError


def slide() -> ad.AnnData:
    made = ad.AnnData(csr_matrix(np.eye(4, 3, dtype=np.float32)))
    made.obsm["spatial"] = np.arange(8.0).reshape(4, 2)
    return made


@pytest.mark.parametrize("rows", [slice(None), [2, 0]])
def test_written_file_reads_back(tmp_path: Path, rows) -> None:
    expected = slide()[rows]
    h5ad.write_h5ad(tmp_path / "deep" / "x.h5ad", expected)
    result = ad.read_h5ad(tmp_path / "deep" / "x.h5ad")
    assert np.array_equal(result.X.toarray(), expected.X.toarray())
    assert np.array_equal(result.obsm["spatial"], expected.obsm["spatial"])


def test_file_larger_than_the_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(h5ad, "_OVERHEAD", 1 << 60)
    with pytest.raises(CifmError, match=r"cannot write .*x\.h5ad: (no space left|the file is larger)"):
        h5ad.write_h5ad(tmp_path / "x.h5ad", slide())
    assert list(tmp_path.iterdir()) == []
