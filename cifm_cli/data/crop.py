"""A rectangle in the words of the command line."""

from __future__ import annotations

from cifm_cli.errors import CifmError


def parse_crop(text: str, option: str = "--crop") -> tuple[float, float, float, float]:
    """Parse `x0,y0,x1,y1`, in micrometres.

    Args:
        text: The value of the option.
        option: Its name, for the message.

    Returns:
        The lower corner, then the upper one.

    Raises:
        CifmError: The text is not four numbers, or the rectangle has no area.
    """
    try:
        x0, y0, x1, y1 = (float(number) for number in text.split(","))
    except ValueError:
        # A rectangle without area, so that both mistakes raise the error below.
        x0 = y0 = x1 = y1 = 0.0
    # `not`, so that NaN is refused too.
    if not (x0 < x1 and y0 < y1):
        raise CifmError(f"{option} {text}: not a rectangle", "write x0,y0,x1,y1 in micrometres, such as 0,0,1000,500")
    return x0, y0, x1, y1
