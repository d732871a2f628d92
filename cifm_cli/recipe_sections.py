"""Tables of a recipe: meaning, type and default of each key."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, model_validator

from cifm_cli import keys
from cifm_cli.stored_json import Text

Fraction = Annotated[float, Field(gt=0, lt=1)]
Precision = Literal["float32", "bfloat16"]
TrainPrecision = Literal["auto", "float32", "bfloat16"]
# Far above what is useful; products of these numbers are sizes of arrays, which must not overflow.
MAX_WIDTH = 65_536
MAX_LAYERS = 1_000
MAX_MAPS = 5_000
MAX_STEPS = 10**12
RELEASE_KEYS = ("distance_features", "feature_gates", "output_maps")


class Section(BaseModel):
    """A table of a recipe. It is frozen and refuses unknown keys."""

    # Unknown keys are forbidden, because a misspelled key would silently have its default. Docstrings of the fields are
    # the texts of the recipe reference.
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, validate_default=True
    )


class DataRecipe(Section):
    """Input of the network."""

    radius_um: float | None = Field(default=None, gt=0, le=1e6)
    """Radius of the graph in micrometres; that of the prepared slide when absent."""
    target_sum: float = Field(default=10_000.0, gt=0, le=1e9)
    """Counts of a cell are scaled to this sum before log1p."""
    tile_cells: int = Field(default=1_024, ge=16, le=10**9)
    """Core cells of a tile, without its halo."""
    sampling: Literal["slides", "cells"] = "slides"
    """`slides`: every slide is sampled equally often, as in Eq. 15; `cells`: every cell of all slides is."""
    validation_slides: tuple[Text, ...] = ()
    """Names of slides used for validation only, with all their cells: for models that are applied to other patients."""
    train_regions: Literal["train", "all"] = "train"
    """`train`: only the training region of a slide is trained on; `all`: all cells that are not for validation, for models of other slides."""

    def trained_regions(self, slide: str) -> tuple[str, ...]:
        """Select the regions of a slide that a model is trained on.

        Args:
            slide: Name of the slide.

        Returns:
            Names of regions, as in `keys.REGIONS`; none for a slide that is for validation only.
        """
        if slide in self.validation_slides:
            return ()
        if self.train_regions == keys.TRAIN:
            return (keys.TRAIN,)
        # Where whole slides validate, the validation regions of the others are free.
        return tuple(name for name in keys.REGIONS if self.validation_slides or name != keys.VALIDATION)


class ModelRecipe(Section):
    """The void-invariant network."""

    message: Literal["factored", "mlp", "release"] = "factored"
    """Form of Eqs 11-14: `factored` (matrix products on cells only), `mlp` (as printed, an MLP on every edge) or `release` (the network of the paper's public release)."""
    width: int = Field(default=128, ge=4, le=MAX_WIDTH)
    """Number of features of a cell, D."""
    encoder_layers: int = Field(default=2, ge=1, le=MAX_LAYERS)
    """Message-passing layers of the encoder."""
    decoder_layers: int = Field(default=2, ge=1, le=MAX_LAYERS)
    """Message-passing layers of the decoder."""
    heads: int = Field(default=4, ge=1)
    """Number of intensities of an edge; each scales D / heads features (`factored` only)."""
    radial: int = Field(default=6, ge=1, le=1_000)
    """Number of radial basis functions of the distance (`factored` only)."""
    mlp_layers: int = Field(default=2, ge=2, le=MAX_LAYERS)
    """Number of linear maps in each bias-free MLP."""
    gene_rank: int | None = Field(default=None, ge=1)
    """Rank r of the weights from features to genes, (G, r) (r, D); full rank when absent, as in the paper."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Fraction of the features of the head set to zero in a training step (`residual` only)."""
    gene_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Fraction of the expressed genes of visible cells that the encoder does not see in a training step, drawn for each cell; the others are scaled up."""
    members: int = Field(default=1, ge=1, le=1_000)
    """Number of networks with different initial weights whose predictions are averaged; the first one embeds cells."""
    norm: bool = True
    """Normalise features without bias, so that the features of void cells stay zero."""
    residual: bool = True
    """Add each layer's update to its input; Eq. 14 as printed has no residual."""
    self_loops: bool = False
    """Add an edge from each cell to itself; the adjacency of the paper (distance <= radius) has it."""
    distance_features: int | None = Field(default=None, ge=1, le=MAX_WIDTH)
    """Number of features of a distance in a message; `width` when absent (`release` only)."""
    feature_gates: bool | None = None
    """The intensity of an edge has a value for each feature of the message's input, not one for all (`release` only)."""
    output_maps: int | None = Field(default=None, ge=2, le=MAX_LAYERS)
    """Linear maps of a bias-free MLP after the last layer of encoder and decoder; no such MLP when absent (`release` only)."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        # Each head scales D / H features, so H must divide D.
        if self.width % self.heads:
            raise ValueError(f"model.heads = {self.heads} does not divide model.width = {self.width}")
        # A higher rank than D has no effect but costs more weights.
        if self.gene_rank and self.gene_rank > self.width:
            raise ValueError(f"model.gene_rank = {self.gene_rank} is above model.width = {self.width}")
        if (num_maps := self.members * (self.encoder_layers + self.decoder_layers) * self.mlp_layers) > MAX_MAPS:
            raise ValueError(
                f"model.members, model.encoder_layers, model.decoder_layers and model.mlp_layers ask for {num_maps:,} linear "
                f"maps, at most {MAX_MAPS:,} are possible"
            )
        # Eq. 14 without residual is a sum over edges, which is zero for a cell without any.
        if self.message != "factored" and not (self.residual or self.self_loops):
            raise ValueError(
                f"model.message = '{self.message}' without residual needs model.self_loops = true, "
                "or cells without neighbours lose their features"
            )
        return self

    @model_validator(mode="after")
    def _release_fits(self) -> Self:
        if self.message == "release":
            if self.residual or self.gene_rank:
                raise ValueError("model.message = 'release' has neither model.residual nor model.gene_rank")
        elif given := [key for key in RELEASE_KEYS if getattr(self, key) is not None]:
            raise ValueError(f"model.{given[0]} is a key of model.message = 'release' only")
        return self


class MaskRecipe(Section):
    """Cells that are masked in training (Eq. 2)."""

    share: Fraction = 0.05
    """Smallest fraction of the cells of a tile that is masked."""
    share_max: Fraction | None = None
    """Largest fraction; that of a tile is drawn uniformly from [share, share_max]. Equal to `share` when absent."""
    contiguous: float = Field(default=0.0, ge=0, le=1)
    """Fraction of the tiles in which all cells of some squares are masked, not scattered ones; 0 in the paper."""
    patch_radii: tuple[PositiveFloat, PositiveFloat] = (2.0, 8.0)
    """Smallest and largest side of these squares, in radii; that of a tile is drawn uniformly."""
    thinning: float = Field(default=0.0, ge=0, lt=1)
    """Largest fraction of a visible cell's counts that the encoder does not see in a step; drawn for each cell; 0 in the paper."""
    bootstrap: float = Field(default=0.0, ge=0)
    """Variance of random weights of the visible cells in the means of a step (`residual` only); 1 is the Bayesian bootstrap."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.share_max is not None and self.share_max < self.share:
            raise ValueError(f"mask.share_max = {self.share_max} is below mask.share = {self.share}")
        if self.patch_radii[1] < self.patch_radii[0]:
            raise ValueError(f"mask.patch_radii = {list(self.patch_radii)} goes from large to small")
        return self


class ObjectiveRecipe(Section):
    """Baseline of the prediction, and loss function."""

    name: Literal["balanced_mse", "residual"] = "residual"
    """`balanced_mse` (Eq. 15), or `residual`: squared error, with a smoother that the network corrects."""
    scales: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(0.5, 1.0, 2.0, 4.0), min_length=1, max_length=100
    )
    """Standard deviations of the smoother's Gaussian weights, in radii (`residual` only)."""
    cutoff: float = Field(default=6.0, gt=0)
    """Distance beyond which the weights of the smoother are zero, in radii (`residual` only)."""
    expressed_weight: float = Field(default=1.0, ge=0)
    """Weight of the cross-entropy of P(expressed)."""
    composition_weight: float = Field(default=0.5, ge=0)
    """Weight of the cross-entropy of the composition of counts (`residual` only)."""
    states: int = Field(default=40, ge=2, le=100_000)
    """Largest number of cell states of a slide, whose probabilities are inferred; there are 20 cells for each (`residual` only)."""
    states_weight: float = Field(default=0.2, ge=0)
    """Weight of the cross-entropy of the cell state (`residual` only)."""
    linear_rank: int = Field(default=64, ge=0, le=MAX_WIDTH)
    """Rank of a linear correction of the smoother, fitted to all slides before the first step; 0 for none (`residual` only)."""
    pool_decay: float = Field(default=0.05, ge=0)
    """Penalty on unequal weights in the first fit of the blends of compositions and states (`residual` only)."""


class TrainRecipe(Section):
    """Training loop."""

    steps: int = Field(default=4_000, ge=1, le=MAX_STEPS)
    """Number of optimiser steps. The cosine schedule ends here, or at `max_minutes` if that comes first."""
    max_minutes: float | None = Field(default=None, gt=0)
    """Training stops after this time, in minutes, and keeps the best checkpoint."""
    tiles_per_step: int = Field(default=1, ge=1, le=1_000_000)
    """Number of tiles whose losses are averaged in a step."""
    optimiser: Literal["adamw", "muon"] = "adamw"
    """`muon` takes orthogonalised steps in matrices that map features to features, and those of AdamW in all other weights; it needs fewer steps."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Highest learning rate of the schedule, for either optimiser."""
    layer_decay: Fraction | None = None
    """Learning rate of a layer as a fraction of that of the next one, the head having the full one; equal rates when absent."""
    freeze: tuple[Text, ...] | None = None
    """Parts of the network that are not trained, such as `encoder`, `encoder.0` or `head.magnitude`: for fine-tuning; none when absent."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled weight decay, on matrices only; with Muon, only on those that take its steps."""
    warmup_steps: int = Field(default=100, ge=0, le=MAX_STEPS)
    """Number of steps of linear warm-up."""
    clip_norm: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient; larger gradients are scaled down."""
    validate_every: int = Field(default=200, ge=1, le=MAX_STEPS)
    """Steps between two validations."""
    validation_tiles: int = Field(default=8, ge=1, le=1_000_000)
    """Number of tiles in the validation region of each slide; they are the same in every validation."""
    patience: int = Field(default=10, ge=1, le=MAX_STEPS)
    """Number of validations without improvement after which training stops."""
    save_minutes: float = Field(default=5.0, gt=0)
    """Minutes after which the training state is saved again; every validation saves it too."""
    keep: int = Field(default=2, ge=1, le=MAX_STEPS)
    """Number of training states kept. If the newest is damaged, `--resume` uses the one before."""
    precision: TrainPrecision = "float32"
    """Precision of matrix products. With `bfloat16`, weights, sums over neighbours and losses stay float32. `auto` measures once whether bfloat16 is faster on the machine; the stored recipe of the run has the result."""
    average: Fraction | None = None
    """Decay, such as 0.999, of an exponential moving average of the weights, which is validated and saved; off when absent."""

    @property
    def product_precision(self) -> Precision:
        """Precision of matrix products; float32 where `auto` has not been replaced."""
        return "bfloat16" if self.precision == "bfloat16" else "float32"


class EvaluateRecipe(Section):
    """Defaults of the options of `cifm evaluate`."""

    region: Literal["train", "validation", "test", "all"] = "test"
    """Region whose cells are hidden and inferred."""
    geometries: tuple[Literal["scattered", "region", "whole"], ...] = Field(
        default=("scattered", "region"), min_length=1
    )
    """Hidden cells: 5 % of the cells at random (`scattered`), square blocks (`region`), or all cells (`whole`)."""
    block_radii: tuple[Annotated[float, Field(ge=0.5)], ...] = Field(default=(5.0,), min_length=1)
    """Side of the blocks of the geometry `region`, in radii; one evaluation for each."""
    rounds: int | None = Field(default=None, ge=1, le=MAX_STEPS)
    """Largest number of rounds of hiding cells per geometry; when absent all, or as many as fit into memory."""
    annotator: Text | None = None
    """Annotator that assigns types to actual and predicted cells, `NAME` or `NAME:PATH`; none when absent."""
