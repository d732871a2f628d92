"""Figures of matplotlib as bytes of images, in one style and without any global state."""

from __future__ import annotations

import io
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from cifm_cli.report.palette import blend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

ImageFormat: TypeAlias = Literal["png", "svg"]
_STYLE: Final[Any] = {
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "savefig.dpi": 130,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.edgecolor": "#888888",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "legend.frameon": False,
    "text.parse_math": False,  # names of the user may hold dollar signs
    "svg.hashsalt": "cifm",  # of the names of elements, which would be random
}
_FORMAT: ContextVar[ImageFormat] = ContextVar("format", default="png")
_FRAME_DPI: Final = 100
_NEARLY_WHITE: Final = 245  # Pillow takes the nearest colour within some levels, which must not replace white


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
    with mpl.rc_context(_STYLE):
        # Not through pyplot, which keeps figures open and chooses a display.
        figure = Figure(figsize=(width_in, height_in))
        draw(figure)
        # matplotlib would store its version or the date, and equal figures would differ in their bytes.
        metadata = {"Software": None} if image_format == "png" else {"Creator": None, "Date": None}
        figure.savefig(buffer, format=image_format, metadata=metadata)
    return buffer.getvalue()


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
            mixtures with white, and of greys.
    """
    palette = _palette(colours)
    frames: list[Image.Image] = []
    with mpl.rc_context(_STYLE):
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
    """An image with the palette of an animation. Pixels on the edge of a dot are mixtures with white."""
    tones = [blend(colour, share) for colour in dict.fromkeys(colours) for share in (0.0, 0.33, 0.67)]
    greys = ["#" + f"{level:02x}" * 3 for level in range(0, 256, 17)]
    tones = [tone for tone in tones if min(int(tone[i : i + 2], 16) for i in (1, 3, 5)) < _NEARLY_WHITE]
    image = Image.new("P", (1, 1))
    image.putpalette([int(colour[i : i + 2], 16) for colour in (*greys, *tones) for i in (1, 3, 5)])
    return image
