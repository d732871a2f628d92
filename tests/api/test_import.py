"""`import cifm_cli` loads no large packages, and its attributes are the functions of the API."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cifm_cli as cifm
from cifm_cli import api

HEAVY = ("torch", "anndata", "numpy", "pandas", "scipy", "matplotlib", "h5py", "sklearn", "pydantic")


def test_the_import_loads_no_large_packages() -> None:
    code = f"""
import sys
import cifm_cli
dir(cifm_cli)
cifm_cli.CifmError
print([name for name in {HEAVY!r} if name in sys.modules])
cifm_cli.embed
print("torch" in sys.modules)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == ["[]", "True"]


def test_every_function_of_the_api_is_an_attribute_of_the_package() -> None:
    assert set(cifm.__all__) == {*api.__all__, "CifmError"}
    assert set(cifm.__all__) <= set(dir(cifm))
    assert all(getattr(cifm, name) is getattr(api, name) for name in api.__all__)


def test_imports_for_type_checkers_have_the_same_names() -> None:
    """The imports under `TYPE_CHECKING` have the names that `__getattr__` accepts."""
    source = ast.parse(Path(cifm.__file__).read_text(encoding="utf8"))
    blocks = [node for node in source.body if isinstance(node, ast.If) and isinstance(node.test, ast.Name)]
    names = {
        alias.name
        for block in blocks
        for node in block.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cifm_cli")
        for alias in node.names
    }
    assert names == set(cifm.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'fly'"):
        cifm.fly  # noqa: B018


@pytest.mark.parametrize("name", [name for name in api.__all__ if name.islower()])
def test_every_function_is_documented_with_an_example(name: str) -> None:
    function = getattr(api, name)
    assert all(section in function.__doc__ for section in ("Args:", "Returns:", "Raises:", "Examples:"))
