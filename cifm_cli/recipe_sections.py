"""The tables of a recipe: what each key means, and what it may be."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, model_validator

Share = Annotated[float, Field(gt=0, lt=1)]
Precision = Literal["float32", "bfloat16"]


class Section(BaseModel):
    """A table of a recipe: frozen, and without keys that nobody knows."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)


class DataRecipe(Section):
    """What the network reads."""

    radius_um: float | None = Field(default=None, gt=0)
    """Radius of the graph in micrometres; the prepared slide's own when absent."""
    target_sum: float = Field(default=10_000.0, gt=0)
    """Counts of a cell are scaled to this sum before log1p."""
    tile_cells: int = Field(default=1_024, ge=16)
    """Core cells of a tile; its halo comes on top."""
    sampling: Literal["slides", "cells"] = "slides"
    """What is trained on equally often: each slide, as in Eq. 15, or each cell of all slides."""
    validation_slides: tuple[str, ...] = ()
    """Slides, by name, that only validate, with all their cells: for models meant for other patients."""


class ModelRecipe(Section):
    """The void-invariant network."""

    message: Literal["factored", "mlp"] = "factored"
    """Form of Eqs 11-14: `factored` (products on cells only) or `mlp` (as printed, an MLP on every edge)."""
    width: int = Field(default=128, ge=4)
    """Features of a cell, D."""
    encoder_layers: int = Field(default=2, ge=1)
    """Message-passing layers of the encoder."""
    decoder_layers: int = Field(default=2, ge=1)
    """Message-passing layers of the decoder."""
    heads: int = Field(default=4, ge=1)
    """Intensities per edge, each weighing D / heads channels (`factored` only)."""
    radial: int = Field(default=6, ge=1)
    """Radial basis functions of the distance (`factored` only)."""
    mlp_layers: int = Field(default=2, ge=2)
    """Linear maps in each bias-free MLP."""
    gene_rank: int | None = Field(default=None, ge=1)
    """Rank of the weights from features to genes, r: (G, r) (r, D); full when absent, as in the paper."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the head's features that are zero in a training step (`residual` only)."""
    members: int = Field(default=1, ge=1)
    """Networks trained side by side from different starts, whose predictions are averaged; embeddings are the first's."""
    norm: bool = True
    """Normalise features without bias, so that void stays void."""
    residual: bool = True
    """Add each layer's update to its input; Eq. 14 as printed has no residual."""
    self_loops: bool = False
    """Let a cell send itself a message; the paper's adjacency (distance <= radius) does."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"model.heads = {self.heads} does not divide model.width = {self.width}")
        if self.gene_rank and self.gene_rank > self.width:
            raise ValueError(f"model.gene_rank = {self.gene_rank} is above model.width = {self.width}")
        if self.message == "mlp" and not (self.residual or self.self_loops):
            raise ValueError(
                "model.message = 'mlp' without residual needs model.self_loops = true, or a lone cell is lost"
            )
        return self


class MaskRecipe(Section):
    """Which cells are hidden while training (Eq. 2)."""

    share: Share = 0.05
    """Smallest share of the cells of a tile that is masked."""
    share_max: Share | None = None
    """Largest share, drawn uniformly from [share, share_max] for every tile; `share` when absent."""
    contiguous: float = Field(default=0.0, ge=0, le=1)
    """Share of tiles whose masked cells fill squares instead of lying scattered; the paper has none."""
    patch_radii: tuple[PositiveFloat, PositiveFloat] = (2.0, 8.0)
    """Smallest and largest side of these squares, in radii, drawn uniformly for every tile."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.share_max is not None and self.share_max < self.share:
            raise ValueError(f"mask.share_max = {self.share_max} is below mask.share = {self.share}")
        if self.patch_radii[1] < self.patch_radii[0]:
            raise ValueError(f"mask.patch_radii = {list(self.patch_radii)} goes from large to small")
        return self


class ObjectiveRecipe(Section):
    """What the prediction starts from and what is minimised."""

    name: Literal["balanced_mse", "residual"] = "residual"
    """`balanced_mse` (Eq. 15) or `residual`: squared error of a learned correction to a smoother."""
    scales: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(0.5, 1.0, 2.0, 4.0), min_length=1)
    """Standard deviations of the smoother's Gaussian weights, in radii (`residual` only)."""
    cutoff: float = Field(default=6.0, gt=0)
    """Distance at which the smoother ends, in radii (`residual` only)."""
    expressed_weight: float = Field(default=1.0, ge=0)
    """Weight of the cross-entropy of P(expressed)."""
    composition_weight: float = Field(default=0.5, ge=0)
    """Weight of the cross-entropy of a cell's counts among the genes (`residual` only)."""
    states: int = Field(default=40, ge=2)
    """Cell states whose probabilities are inferred: the distribution beside the mean (`residual` only)."""
    states_weight: float = Field(default=0.2, ge=0)
    """Weight of the cross-entropy of a cell's state (`residual` only)."""
    pool_decay: float = Field(default=0.05, ge=0)
    """How evenly training begins to blend compositions and states; small for few cells (`residual` only)."""


class TrainRecipe(Section):
    """The loop."""

    steps: int = Field(default=4_000, ge=1)
    """Optimiser steps; the learning rate's cosine ends here, or at `max_minutes` if that comes first."""
    max_minutes: float | None = Field(default=None, gt=0)
    """Stop after this time and keep the best checkpoint."""
    tiles_per_step: int = Field(default=1, ge=1)
    """Tiles whose losses are averaged in a step."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak of the schedule."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's decoupled weight decay, on matrices only."""
    warmup_steps: int = Field(default=100, ge=0)
    """Steps of linear warm-up."""
    clip_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""
    validate_every: int = Field(default=200, ge=1)
    """Steps between looks at the validation region."""
    validation_tiles: int = Field(default=8, ge=1)
    """Tiles of each slide's validation region scored at every look, always the same."""
    patience: int = Field(default=10, ge=1)
    """Looks without a new best before training stops early."""
    save_minutes: float = Field(default=5.0, gt=0)
    """Time after which the training state is saved again; every look at the validation region saves it too."""
    keep: int = Field(default=2, ge=1)
    """Training states kept, the newest ones: should the last be damaged, `--resume` takes the one before."""
    precision: Precision = "float32"
    """Of matrix products; with `bfloat16` weights, sums over neighbours and losses stay in float32."""
    average: Share | None = None
    """Validate and keep an exponential moving average of the weights with this decay, such as 0.999; off when absent."""


class EvaluateRecipe(Section):
    """What `cifm evaluate` does where no flag says otherwise."""

    region: Literal["train", "validation", "test", "all"] = "test"
    """Whose cells are hidden and inferred."""
    geometries: tuple[Literal["scattered", "region", "whole"], ...] = Field(
        default=("scattered", "region"), min_length=1
    )
    """Hide 5 % of the cells here and there, blocks of them, or the whole region."""
    block_radii: tuple[Annotated[float, Field(ge=0.5)], ...] = Field(default=(5.0,), min_length=1)
    """Sides of the blocks of `region`, in radii."""
    rounds: int | None = Field(default=None, ge=1)
    """Most rounds of hiding per geometry; all when absent, or as many as memory allows."""
    annotator: str | None = None
    """What types actual and predicted cells: `NAME` or `NAME:PATH`; cells are not typed when absent."""
