"""Maps of a tissue in several states: one frame, one scale and one colour per category in all of them.

Letters: N cells, K marked places.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cifm_cli.report import canvas
from cifm_cli.report.palette import OTHERS, UNKNOWN
from cifm_cli.report.plots import draw_scale_bar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Names = NDArray[np.object_]

_MAP_IN: Final = 4.6  # width of a single map
_PANEL_IN: Final = 3.6  # width of one of several maps side by side
_LEFT_IN, _BOTTOM_IN, _TOP_IN, _GAP_IN = 0.75, 0.6, 0.35, 0.2  # around and between maps
_FRAME_TITLE_IN: Final = 0.25
_ENTRY_IN, _LETTER_IN = 0.45, 0.08  # width of an entry of the legend without text, and of a letter
_LEGEND_ROW_IN: Final = 0.2  # height of an entry
_HEIGHTS_IN: Final = (2.4, 8.0)  # smallest and largest height of a map
_POINTS_PER_INCH: Final = 72
_PALE: Final = 0.68  # share of the ground in the colours of cells that are not emphasised
_FRAME_MS: Final = 450
_MAX_BYTES: Final = 3_000_000  # of an animation; more are avoided by leaving out frames


@dataclass(frozen=True)
class Mark:
    """Places that are marked in a map."""

    label: str  # entry of the legend
    xy_um: NDArray[np.float64]  # (K, 2) micrometres
    symbol: str  # `triangle`, `cross` or `ring`


@dataclass(frozen=True)
class CellMap:
    """What the maps of a tissue have in common."""

    xy_um: NDArray[np.float64]  # (N, 2) positions of the cells, micrometres
    colours: Mapping[str, str]  # hexadecimal colours of the categories of the legend, in its order; others are grey
    others: str = ""  # entry of the legend for categories without a colour; empty if there are none
    unknown: str = ""  # name of the category of cells without a category; empty if there are none
    # (low x, low y, high x, high y) of the maps, micrometres; that of the cells by default
    box_um: tuple[float, float, float, float] | None = None

    marks: Sequence[Mark] = ()  # marked places

    def draw(
        self,
        names: Names,
        title: str,
        *,
        with_marks: bool = False,
        emphasised: NDArray[np.bool_] | None = None,
        image_format: canvas.ImageFormat = "png",
    ) -> bytes:
        """Draw one state of the tissue.

        Args:
            names: (N,) category of each cell.
            title: Title of the figure.
            with_marks: Whether marked places are shown.
            emphasised: (N,) cells in full colour, the others being pale; all by default.
            image_format: `png` or `svg`, in which the cells are pixels.

        Returns:
            The image, of one size for all states.
        """

        def draw_all(figure: Figure) -> None:
            """Draw on the given figure."""
            (axes,) = self._add_panels(figure, _MAP_IN, 1)
            self._draw(axes, names, title, _MAP_IN, with_marks=with_marks, emphasised=emphasised)
            self._draw_legend(figure, with_marks=with_marks)

        return canvas.render(draw_all, *self._size_in(_MAP_IN, 1), image_format)

    def animate(self, panels: Mapping[str, Sequence[Names]], titles: Sequence[str], marked: str = "") -> bytes:
        """Draw states side by side, frame by frame. Cells that differ from the first frame are in full colour.

        Args:
            panels: States by the title of their panel: for each frame, (N,) categories.
            titles: Title of each frame.
            marked: Title of the panel that shows the marked places.

        Returns:
            GIF of at most about 3 MB.
        """
        frames = list(range(len(titles)))
        full = [canvas.on_ground(colour) for colour in (*self.colours.values(), OTHERS, UNKNOWN)]
        tones = [*full, *(canvas.fade(colour, _PALE) for colour in full)]
        width_in, height_in = self._size_in(_PANEL_IN, len(panels))
        while True:
            draw_all = self._animation(panels, titles, marked, frames)
            content = canvas.render_frames(draw_all, width_in, height_in + _FRAME_TITLE_IN, _FRAME_MS, tones)
            if len(content) <= _MAX_BYTES or len(frames) <= 2:
                return content
            frames = sorted({*frames[::2], frames[-1]})

    def _animation(
        self, panels: Mapping[str, Sequence[Names]], titles: Sequence[str], marked: str, frames: Sequence[int]
    ) -> Callable[[Figure], Iterator[None]]:
        """A function that draws the frames."""

        def draw_all(figure: Figure) -> Iterator[None]:
            """Draw on the given figure, and yield for every frame."""
            drawn = []
            pale = np.zeros(len(self.xy_um), dtype=bool)
            all_axes = self._add_panels(figure, _PANEL_IN, len(panels), _FRAME_TITLE_IN)
            for axes, (title, states) in zip(all_axes, panels.items(), strict=True):
                with_marks = title == marked
                drawn.append(self._draw(axes, states[0], title, _PANEL_IN, with_marks=with_marks, emphasised=pale))
            self._draw_legend(figure, with_marks=bool(marked))
            for number in frames:
                figure.suptitle(titles[number], x=_LEFT_IN / figure.get_figwidth(), ha="left", fontsize=canvas.TITLE_PT)
                for states, points in zip(panels.values(), drawn, strict=True):
                    points.set_facecolor(self._colours_of(states[number], states[number] != states[0]))
                yield

        return draw_all

    def _add_panels(self, figure: Figure, width_in: float, number: int, more_in: float = 0.0) -> list[Axes]:
        """Add axes at fixed places, so that all states are drawn at one place.

        Args:
            figure: The figure.
            width_in: Width of each map.
            number: Number of maps, side by side.
            more_in: Free space above them.
        """
        figure.set_layout_engine("none")
        total_in, height_in = self._size_in(width_in, number)
        below, height = _BOTTOM_IN / (height_in + more_in), self._height_in(width_in) / (height_in + more_in)
        lefts_in = [_LEFT_IN + i * (width_in + _GAP_IN) for i in range(number)]
        panels = [figure.add_axes((left / total_in, below, width_in / total_in, height)) for left in lefts_in]
        for axes in panels[1:]:
            axes.tick_params(labelleft=False)
        panels[0].set_ylabel("y (µm)")
        return panels

    def _size_in(self, width_in: float, number: int) -> tuple[float, float]:
        """Width and height of the figure, inches, for a number of maps of some width."""
        letters = max((len(name) for name, _ in self._entries()), default=0)
        letters = max([letters, *(len(mark.label) for mark in self.marks)])
        maps_in = _LEFT_IN + number * width_in + (number - 1) * _GAP_IN
        height_in = self._height_in(width_in) + _BOTTOM_IN + _TOP_IN
        return maps_in + self._num_columns(height_in) * (_ENTRY_IN + _LETTER_IN * letters), height_in

    def _num_columns(self, height_in: float) -> int:
        """Columns of the legend, in a figure of some height."""
        number = len(self._entries()) + len(self.marks)
        return max(1, math.ceil(number / max(1, int(height_in / _LEGEND_ROW_IN))))

    def _height_in(self, width_in: float) -> float:
        """Height of a map, inches."""
        span_um = self._span_um() + np.array([2, 5]) * self._margin_um()
        return float(np.clip(width_in * span_um[1] / span_um[0], *_HEIGHTS_IN))

    def _box_um(self) -> NDArray[np.float64]:
        """(2, 2) low and high corner of the maps."""
        if self.box_um is not None:
            return np.array(self.box_um).reshape(2, 2)
        return np.array([self.xy_um.min(axis=0), self.xy_um.max(axis=0)])

    def _span_um(self) -> NDArray[np.float64]:
        low_um, high_um = self._box_um()
        # Cells on a line or at one position have an extent of zero, which would be divided by.
        span_um: NDArray[np.float64] = np.maximum(high_um - low_um, 1.0)
        return span_um

    def _margin_um(self) -> float:
        """Width of the margin around the tissue. Below it, the scale bar takes four times as much."""
        return 0.02 * float(self._span_um().max())

    def _colours_of(self, names: Names, emphasised: NDArray[np.bool_] | None) -> list[str]:
        """(N,) hexadecimal colours."""
        known = dict(self.colours) | {self.unknown: UNKNOWN}
        full = {name: canvas.on_ground(known.get(name, OTHERS)) for name in set(names.tolist())}
        pale = {name: canvas.fade(colour, _PALE) for name, colour in full.items()}
        if emphasised is None:
            return [full[name] for name in names.tolist()]
        pairs = zip(names.tolist(), emphasised.tolist(), strict=True)
        return [full[name] if is_full else pale[name] for name, is_full in pairs]

    def _draw(
        self, axes: Axes, names: Names, title: str, width_in: float, *, with_marks: bool,
        emphasised: NDArray[np.bool_] | None,
    ) -> PathCollection:  # fmt: skip
        """Draw cells, marks, axes in micrometres and a scale bar; returns the cells."""
        low_um, high_um = self._box_um()
        span_um = self._span_um()
        inches_per_um = min(width_in / span_um[0], _HEIGHTS_IN[1] / span_um[1])
        # Mean distance between cells if they were spread evenly. Markers as wide leave no gaps in a dense tissue.
        pitch_in = math.sqrt(float(span_um.prod()) / len(self.xy_um)) * inches_per_um
        diameter = float(np.clip(pitch_in * _POINTS_PER_INCH * 1.1, 0.8, 8.0))
        # In one call and in the order of the cells, so that no category hides another.
        cells = axes.scatter(
            self.xy_um[:, 0],
            self.xy_um[:, 1],
            s=diameter**2,
            c=self._colours_of(names, emphasised),
            linewidths=0,
            rasterized=True,
        )
        for mark in self.marks if with_marks else ():
            style = _symbol(mark.symbol, float(np.clip(1.3 * diameter, 4.0, 8.0)))
            axes.scatter(mark.xy_um[:, 0], mark.xy_um[:, 1], **style)
        axes.set_aspect("equal", anchor="W")
        margin_um = self._margin_um()
        axes.set_xlim(low_um[0] - margin_um, high_um[0] + margin_um)
        # As in the image of the slide, y points down. The scale bar is below the tissue.
        axes.set_ylim(high_um[1] + 4 * margin_um, low_um[1] - margin_um)
        axes.set_xlabel("x (µm)")
        axes.tick_params(labelsize=canvas.SMALL_PT)
        axes.set_title(title)
        draw_scale_bar(axes, low_um[0], high_um[1], span_um)
        return cells

    def _entries(self) -> list[tuple[str, str]]:
        """Names and colours of the legend, those of all states."""
        entries = list(self.colours.items())
        entries += [(self.others, OTHERS)] if self.others else []
        return entries + ([(self.unknown, UNKNOWN)] if self.unknown else [])

    def _draw_legend(self, figure: Figure, *, with_marks: bool) -> None:
        """Draw the legend at the right edge."""
        axes = figure.axes[0]
        handles = [
            axes.scatter([], [], c=canvas.on_ground(colour), s=24, linewidths=0, label=name)
            for name, colour in self._entries()
        ]
        symbols = {mark.label: mark.symbol for mark in self.marks} if with_marks else {}
        handles += [axes.scatter([], [], label=label, **_symbol(symbol, 6.0)) for label, symbol in symbols.items()]
        right = figure.axes[-1].get_position().x1
        figure.legend(
            handles=handles, loc="center left", bbox_to_anchor=(right, 0.5), fontsize=canvas.SMALL_PT, handletextpad=0.2, columnspacing=0.8,
            ncols=self._num_columns(figure.get_figheight()),
        )  # fmt: skip


def _symbol(name: str, diameter: float) -> dict[str, Any]:
    """How a mark is drawn: ink on the ground, so that it differs from every cell."""
    if name == "cross":
        return {"marker": "x", "s": diameter**2, "c": canvas.theme().ink, "linewidths": 1.2}
    if name == "ring":
        return {
            "marker": "o",
            "s": diameter**2,
            "facecolors": "none",
            "edgecolors": canvas.theme().ink,
            "linewidths": 1.0,
        }
    return {
        "marker": "^",
        "s": (1.2 * diameter) ** 2,
        "facecolors": canvas.theme().paper,
        "edgecolors": canvas.theme().ink,
        "linewidths": 1.1,
    }
