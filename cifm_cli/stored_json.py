"""JSON inside files: parsed within limits, and compared with a pydantic model that names the wrong keys."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic_core import ErrorDetails

MAX_DEPTH = 40  # nested lists and objects; the recursion of the JSON writer and of printing stays far below its limit
_MAX_MISTAKES = 5  # shown in one message

Schema = TypeVar("Schema", bound=BaseModel)


class StoredObject(BaseModel):
    """A JSON object in a file. Types are not converted, and numbers are finite; unknown keys are ignored."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, frozen=True)


def _encodable(text: str) -> str:
    """Refuse half of a surrogate pair, which JSON can write and no terminal or file can show."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("not text that can be encoded") from None
    return text


def _without_duplicates(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError("a name occurs twice")
    return names


Text = Annotated[str, AfterValidator(_encodable)]
"""Text that can be printed and written."""
Names = Annotated[list[Text], AfterValidator(_without_duplicates)]
"""Different names."""


def parse_json(text: str | bytes) -> Any:  # noqa: ANN401 - JSON is any
    """Parse JSON of which nothing is known.

    Args:
        text: The JSON.

    Returns:
        Its content, nested at most `MAX_DEPTH` levels deep.

    Raises:
        ValueError: It is not JSON, is nested too deeply, repeats a key, or holds a number that is not finite or has
            thousands of digits.
    """
    try:
        # Infinity is refused in all its spellings, also 1e999, because JSON has none.
        content = json.loads(text, object_pairs_hook=_unique_keys)
        json.dumps(content, allow_nan=False)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level = [content]
    for _ in range(MAX_DEPTH):
        level = [inner for value in level for inner in _elements(value)]
        if not level:
            return content
    raise ValueError("nested too deeply")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key occurs twice")
    return content


def _elements(value: Any) -> Sequence[Any]:  # noqa: ANN401 - JSON is any
    """Values inside of a list or an object."""
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else ()


def validate(schema: type[Schema], content: Any) -> Schema:  # noqa: ANN401 - JSON is any
    """Compare parsed JSON with a model.

    Args:
        schema: The model.
        content: Parsed JSON.

    Returns:
        The content as an instance of the model.

    Raises:
        ValueError: The content differs from the model; the message names the keys.
    """
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        mistakes = [_explain(detail) for detail in error.errors(include_url=False, include_input=False)]
    shown = mistakes[:_MAX_MISTAKES] + ["..."] * (len(mistakes) > _MAX_MISTAKES)
    raise ValueError("; ".join(shown))


def _explain(detail: ErrorDetails) -> str:
    """One mistake with its key; messages of pydantic begin with a capital, and follow a colon here."""
    key = ".".join(str(name) for name in detail["loc"])
    message = detail["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return f"{key}: {message}" if key else message
