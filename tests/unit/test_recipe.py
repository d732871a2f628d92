"""Recipes: the shipped ones are valid, they are unchanged after saving and loading, and messages name the keys of the user."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifm_cli import recipe, recipe_sections
from cifm_cli.errors import CifmError

SHIPPED = {
    "demo",
    "finetune",
    "paper_100m",
    "paper_visium_hd",
    "paper_xenium",
    "pretrain",
    "visium",
    "visium_hd",
    "xenium",
}


@pytest.mark.parametrize("name", ["download", "slide.h5ad", "missing.h5ad"])
def test_data_in_the_place_of_the_recipe_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "download").mkdir()
    (tmp_path / "slide.h5ad").touch()
    with pytest.raises(CifmError, match=r"data, not a recipe") as error:
        recipe.find(str(tmp_path / name))
    assert "name a recipe before it: demo, " in (error.value.hint or "")


def test_names_of_the_shipped_recipes() -> None:
    assert set(recipe.shipped()) == SHIPPED


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_every_shipped_recipe_is_valid_and_has_a_description(name: str) -> None:
    loaded = recipe.load(recipe.find(name))
    assert 20 <= len(loaded.description) <= 100
    # A recipe for slides of any platform leaves the radius to each slide.
    assert loaded.data.radius_um == {"visium": 150, "pretrain": None, "finetune": None}.get(name, 20)


def test_fine_tuning_starts_from_pretrained_weights() -> None:
    """`--init` refuses weights of another network, and the sums over neighbours must be those that they were trained on."""
    pretrain, finetune = (recipe.load(recipe.find(name)) for name in ("pretrain", "finetune"))
    assert (finetune.model, finetune.objective) == (pretrain.model, pretrain.objective)
    assert finetune.data == pretrain.data.model_copy(update={"train_regions": "train"})
    assert finetune.train.learning_rate < pretrain.train.learning_rate


@pytest.mark.parametrize("name", ["paper_xenium", "paper_visium_hd"])
def test_the_paper_recipes_have_the_settings_of_the_paper(name: str) -> None:
    loaded = recipe.load(recipe.find(name))
    model = loaded.model
    assert (model.message, model.norm, model.residual, model.self_loops) == ("mlp", True, False, True)
    assert (model.encoder_layers, model.decoder_layers, model.mlp_layers) == (2, 2, 4)
    assert (loaded.mask.share, loaded.mask.share_max, loaded.objective.name) == (0.05, None, "balanced_mse")


recipes = st.builds(
    recipe.Recipe,
    description=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    data=st.builds(
        recipe_sections.DataRecipe, radius_um=st.none() | st.floats(1, 500), tile_cells=st.integers(16, 10**6)
    ),
    model=st.builds(
        recipe_sections.ModelRecipe, width=st.sampled_from([8, 64]), message=st.sampled_from(["factored", "mlp"])
    ),
    mask=st.builds(recipe_sections.MaskRecipe, share=st.floats(0.001, 0.4), share_max=st.none() | st.floats(0.4, 0.99)),
    objective=st.builds(
        recipe_sections.ObjectiveRecipe, scales=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=5).map(tuple)
    ),
    train=st.builds(
        recipe_sections.TrainRecipe, learning_rate=st.floats(1e-9, 1), max_minutes=st.none() | st.floats(0.1, 1e4)
    ),
)


@given(recipes)
def test_toml_round_trip(original: recipe.Recipe) -> None:
    assert recipe.parse(tomllib.loads(recipe.to_toml(original)), "round trip") == original


def load(tmp_path: Path, text: str = "", *settings: str) -> recipe.Recipe:
    path = tmp_path / "r.toml"
    path.write_text(text, encoding="utf8")
    return recipe.load(path, settings)


def test_an_empty_recipe_has_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path) == recipe.Recipe()


@pytest.mark.parametrize(
    ("setting", "section", "key", "value"),
    [
        ("train.max_minutes=15", "train", "max_minutes", 15.0),
        ("train.steps = 1_000", "train", "steps", 1000),
        ("model.message=mlp", "model", "message", "mlp"),
        ('model.message="mlp"', "model", "message", "mlp"),
        ("model.residual=false", "model", "residual", False),
        ("objective.scales=[1, 2]", "objective", "scales", (1.0, 2.0)),
    ],
)
def test_set_overrides_the_file(tmp_path: Path, setting: str, section: str, key: str, value: object) -> None:
    text = "[train]\nsteps = 5\n[model]\nself_loops = true\n"
    assert getattr(getattr(load(tmp_path, text, setting), section), key) == value


@pytest.mark.parametrize(
    ("text", "setting", "message"),
    [
        ("[train\n", None, "not valid TOML"),
        ("", "train.steps", "not section.key=value"),
        ("", "=3", "not section.key=value"),
        ("", "train..steps=3", "not section.key=value"),
        ("", "train.steps.x=3", "unknown key train.steps.x|train.steps"),
        ("[train]\nsteps = 5\n", "train.steps.x=3", "steps is not a section"),
        ("train = 5\n", None, "train = 5"),
        ("[model]\nwidth = 100\nheads = 3\n", None, "does not divide"),
        ("[model]\nmessage = 'mlp'\nresidual = false\n", None, "self_loops"),
        ("[mask]\nshare = 0.3\nshare_max = 0.1\n", None, "below mask.share"),
        ("[objective]\nscales = []\n", None, "objective.scales"),
        ("[train]\nlearning_rate = nan\n", None, "train.learning_rate"),
    ],
)
def test_the_message_describes_the_mistake(tmp_path: Path, text: str, setting: str | None, message: str) -> None:
    with pytest.raises(CifmError, match=message):
        load(tmp_path, text, *([setting] if setting else []))


def test_the_hint_names_a_similar_key(tmp_path: Path) -> None:
    with pytest.raises(CifmError) as caught:
        load(tmp_path, "steps = 5\n")
    assert caught.value.hint == "did you mean train.steps?"


def test_an_existing_path_takes_precedence_over_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert recipe.find("recipes/xenium.toml") == recipe.shipped()["xenium"]
    mine = tmp_path / "recipes" / "xenium.toml"
    mine.parent.mkdir()
    mine.touch()
    assert recipe.find("recipes/xenium.toml").samefile(mine)


def test_a_name_in_another_folder_is_not_a_shipped_recipe() -> None:
    with pytest.raises(CifmError, match="no such file"):
        recipe.find("elsewhere/xenium.toml")


def test_every_field_is_documented() -> None:
    for name, section in recipe.Recipe.model_fields.items():
        fields = getattr(section.annotation, "model_fields", {})
        assert name == "description" or fields
        assert [key for key, field in fields.items() if not field.description] == []


def test_the_large_recipe_has_a_hundred_million_parameters() -> None:
    import torch

    from cifm_cli.model.ensemble import Ensemble

    with torch.device("meta"):  # counted, not allocated
        network = Ensemble(18_289, recipe.load(recipe.find("paper_100m")))
    assert sum(weight.numel() for weight in network.parameters()) == 106_581_730


BAD_FILES = {
    "Latin-1": (b"description = 'Gr\xf6\xdfe'", "not text in UTF-8"),
    "UTF-16": ("[model]\nwidth = 8".encode("utf-16"), "not text in UTF-8"),
    "zeros": (bytes(10), "not valid TOML: control character"),
    "escape": (b"# \x1b[31m", "not valid TOML: control character"),
    "deep": (b"a = " + b"[" * 3_000, "not valid TOML: maximum recursion depth"),
    "long line": (b"x." * 3_000 + b"a = 1", "4,000 in a line"),
    "large": (b"# comment\n" * 50_000, "more than 262,144 bytes"),
    "digits": (b"[model]\nwidth = " + b"9" * 3_900, "model.width = 99999"),
    "hexadecimal digits": (b"[model]\nwidth = 0x" + b"f" * 3_900, r"model.width = \.\.\.: input should be less"),
    "twice": (b"[model]\nwidth = 8\nwidth = 9", "Cannot overwrite a value"),
    "NaN": (b"[data]\nradius_um = nan", "data.radius_um = nan: input should be a finite number"),
    "infinity": (b"[objective]\ncutoff = inf", "objective.cutoff = inf: input should be a finite number"),
    "negative": (b"[train]\nsteps = -1", "train.steps = -1: input should be greater"),
    "text": (b"[model]\nwidth = 'wide'", "model.width = 'wide': input should be a valid integer"),
    "many layers": (b"[model]\nencoder_layers = 900\nmlp_layers = 900", "ask for 811,800 linear maps, at most 5,000"),
    "no section": (b"model = 3", "model = 3: input should be a valid dictionary"),
    "many": (b"".join(b"k%d = 1\n" % number for number in range(3_000)), "3000 mistakes"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_damaged_recipe_is_an_error(tmp_path: Path, name: str) -> None:
    content, message = BAD_FILES[name]
    (tmp_path / "r.toml").write_bytes(content)
    with pytest.raises(CifmError, match=message) as caught:
        recipe.load(tmp_path / "r.toml")
    assert len(caught.value.message) < 2_000


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_bytes(b"\xef\xbb\xbf[model]\r\nwidth = 8\r\n")
    assert recipe.load(tmp_path / "r.toml").model.width == 8


def test_a_recipe_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.toml"):
        with pytest.raises(CifmError, match="recipe"):
            recipe.load(path)
    with pytest.raises(CifmError, match="no such file"):
        recipe.find("a" * 5_000)


def test_settings_that_no_number_can_hold_are_mistakes(tmp_path: Path) -> None:
    for value in ("9" * 5_000, "[" * 3_000, "0x" + "f" * 5_000, "nan"):
        with pytest.raises(CifmError, match=r"1 mistake: model\.width = ") as caught:
            load(tmp_path, "", f"model.width={value}")
        assert len(caught.value.message) < 300
