"""Figures of matplotlib as bytes of images, in one style and without any global state."""

from __future__ import annotations

import io
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image

from cifm_cli.report.palette import CLUSTER_COLOURS, DARK_CLUSTER_COLOURS, OTHERS, UNKNOWN, blend, contrast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

ImageFormat: TypeAlias = Literal["png", "svg"]


@dataclass(frozen=True)
class Theme:
    """Hexadecimal colours of everything in a figure that is not data."""

    paper: str  # ground
    ink: str  # text and marks
    quiet: str  # axes, ticks and lines of reference
    grid: str
    shade: str  # of areas that are no data
    others: str  # categories without a colour of their own
    unknown: str  # cells without a category


LIGHT: Final = Theme("#ffffff", "#1d2329", "#5c6670", "#e6e6e6", "#e4e4e4", OTHERS, UNKNOWN)
DARK: Final = Theme("#15191d", "#e4e8ec", "#98a2ad", "#313840", "#2c333a", "#7d868f", "#3f474f")
# Sizes of text, points. Two figures stand side by side on a page, where these are two thirds as large.
TITLE_PT: Final = 11.0
TEXT_PT: Final = 10.0
NOTE_PT: Final = 9.0  # legends and notes
SMALL_PT: Final = 8.5  # ticks, and names of which there are many
_STYLE: Final[Any] = {
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.08,  # inches; the border of a page must not touch the title
    "figure.constrained_layout.w_pad": 0.08,
    "savefig.dpi": 130,
    "font.size": TEXT_PT,
    "axes.titlesize": TITLE_PT,
    "xtick.labelsize": NOTE_PT,
    "ytick.labelsize": NOTE_PT,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "text.parse_math": False,  # names of the user may hold dollar signs
    "svg.hashsalt": "cifm",  # of the names of elements, which would be random
}
_FORMAT: ContextVar[ImageFormat] = ContextVar("format", default="png")
_THEME: ContextVar[Theme] = ContextVar("theme", default=LIGHT)
_DARK_COLOURS: Final = dict(zip(CLUSTER_COLOURS, DARK_CLUSTER_COLOURS, strict=True))
_MIN_CONTRAST: Final = 3.0  # with the dark ground, which is what WCAG 2 asks of graphics
_TONES: Final = tuple(number / 20 for number in range(20))  # by which other colours are made lighter, if need be
WIDTH_IN: Final = 6.5  # of most figures
_FRAME_DPI: Final = 100
_NEAR: Final = 10  # Pillow takes the nearest colour within some levels, which must not replace the ground


@contextmanager
def vector_graphics() -> Iterator[None]:
    """Let `render`, and every function that uses it, return SVG by default within a block.

    Parts that are drawn as pixels, such as the cells of a map, stay pixels.
    """
    token = _FORMAT.set("svg")
    try:
        yield
    finally:
        _FORMAT.reset(token)


@contextmanager
def dark_theme() -> Iterator[None]:
    """Let `render`, and every function that uses it, draw for a dark page within a block."""
    token = _THEME.set(DARK)
    try:
        yield
    finally:
        _THEME.reset(token)


def theme() -> Theme:
    """Colours of the figure that is drawn, which is for a light page outside of `dark_theme`."""
    return _THEME.get()


def on_ground(colour: str) -> str:
    """A colour of data as it is drawn on the ground of the theme: dark ones would not be seen on a dark page.

    Args:
        colour: Hexadecimal colour.

    Returns:
        The colour itself on a light page; on a dark one, colours and greys of the palette become those for dark pages, and
        other colours become lighter until they have enough contrast.
    """
    current = theme()
    if current is LIGHT:
        return colour
    if colour in (OTHERS, UNKNOWN):
        return current.others if colour == OTHERS else current.unknown
    if colour in _DARK_COLOURS:
        return _DARK_COLOURS[colour]
    tones = (blend(colour, tone) for tone in _TONES)
    return next(tone for tone in tones if contrast(tone, current.paper) >= _MIN_CONTRAST)


def fade(colour: str, share: float) -> str:
    """A colour mixed with a share of the ground of the theme."""
    return blend(colour, share, theme().paper)


def diverging_colours() -> Colormap:
    """Colours of numbers around zero: blue, the ground of the theme, red."""
    if theme() is LIGHT:
        return mpl.colormaps["RdBu_r"]
    return LinearSegmentedColormap.from_list("dark", ["#9fd3f2", "#2f86c4", "#262d34", "#d0563f", "#f9b99a"])


def _style() -> Any:  # noqa: ANN401 - matplotlib types the names of settings one by one
    """Settings of matplotlib for the theme."""
    colours = theme()
    quiet = ("axes.edgecolor", "xtick.color", "ytick.color")
    ink = ("text.color", "axes.labelcolor", "axes.titlecolor", "legend.labelcolor")
    return {
        **_STYLE,
        **dict.fromkeys(("figure.facecolor", "axes.facecolor"), colours.paper),
        **dict.fromkeys(quiet, colours.quiet),
        **dict.fromkeys(ink, colours.ink),
        "grid.color": colours.grid,
    }


def render(
    draw: Callable[[Figure], None], width_in: float, height_in: float, image_format: ImageFormat | None = None
) -> bytes:
    """Make a figure, call `draw` on it, and return the image.

    Args:
        draw: Draws on the figure.
        width_in: Width, inches.
        height_in: Height, inches.
        image_format: `png` or `svg`; by default `png`, and `svg` within `vector_graphics`.
    """
    image_format = image_format or _FORMAT.get()
    buffer = io.BytesIO()
    with mpl.rc_context(_style()):
        # Not through pyplot, which keeps figures open and chooses a display.
        figure = Figure(figsize=(width_in, height_in))
        draw(figure)
        engine = figure.get_layout_engine()
        if engine is not None and any(axes.get_aspect() != "auto" for axes in figure.axes):
            # Axes of equal scales become narrower than their place and may get other ticks, whose labels need more room.
            engine.execute(figure)
        # matplotlib would store its version or the date, and equal figures would differ in their bytes.
        metadata = {"Software": None} if image_format == "png" else {"Creator": None, "Date": None}
        figure.savefig(buffer, format=image_format, metadata=metadata)
    return buffer.getvalue()


def render_axes(draw: Callable[[Axes], None], title: str, height_in: float, width_in: float = WIDTH_IN) -> bytes:
    """Make a figure with one pair of axes, call `draw` on them, and return the image.

    Args:
        draw: Draws on the axes.
        title: Title of the axes.
        height_in: Height, inches.
        width_in: Width, inches.
    """

    def draw_all(figure: Figure) -> None:
        """Draw on the given figure."""
        axes = figure.add_subplot()
        draw(axes)
        axes.set_title(title)

    return render(draw_all, width_in, height_in)


def render_frames(
    draw: Callable[[Figure], Iterable[object]],
    width_in: float,
    height_in: float,
    milliseconds: int,
    colours: Sequence[str],
) -> bytes:
    """Make a figure that changes, and return an animated GIF. The last frame is shown four times as long.

    Args:
        draw: Draws on the figure; the figure is recorded whenever it yields.
        width_in: Width, inches.
        height_in: Height, inches.
        milliseconds: Duration of a frame.
        colours: At most 60 hexadecimal colours that are kept as they are; all others become the nearest of these, of their
            mixtures with the ground of the theme, of the theme's own colours, and of greys.
    """
    palette = _palette(colours)
    frames: list[Image.Image] = []
    with mpl.rc_context(_style()):
        figure = Figure(figsize=(width_in, height_in), dpi=_FRAME_DPI)
        canvas: Any = FigureCanvasAgg(figure)
        for _ in draw(figure):
            canvas.draw()  # `savefig` would draw everything twice
            figure.set_layout_engine("none")  # that of the first frame is kept: nothing may move
            image = Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3])
            frames.append(image.quantize(palette=palette, dither=Image.Dither.NONE))
    durations = [milliseconds] * (len(frames) - 1) + [4 * milliseconds]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=False)
    return buffer.getvalue()


def _palette(colours: Sequence[str]) -> Image.Image:
    """An image with the palette of an animation. Pixels on the edge of a dot are mixtures with the ground."""
    current = theme()
    own = (current.paper, current.ink, current.quiet)
    tones = [fade(colour, share) for colour in dict.fromkeys(colours) for share in (0.0, 0.33, 0.67)]
    greys = ["#" + f"{level:02x}" * 3 for level in range(0, 256, 17)]
    others = [tone for tone in (*greys, *tones) if not _is_near(tone, current.paper)]
    image = Image.new("P", (1, 1))
    image.putpalette([level for colour in (*own, *others) for level in _levels(colour)])
    return image


def _is_near(colour: str, ground: str) -> bool:
    """Whether a colour could be taken for the ground."""
    return max(abs(own - other) for own, other in zip(_levels(colour), _levels(ground), strict=True)) <= _NEAR


def _levels(colour: str) -> tuple[int, int, int]:
    """Red, green and blue of a hexadecimal colour, from 0 to 255."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return red, green, blue
