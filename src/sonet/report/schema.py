"""What every entry of a record has in common: fixed once made, no unknown keys, no number that JSON cannot hold."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


class Entry(BaseModel):
    """Base of the record's models. NaN and infinities are refused: what was not measured is None."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        serialize_by_alias=True,
        protected_namespaces=(),  # an entry may have a field called `model`
    )


def _plain(value: Any, where: str = "") -> Any:
    """The same value made of dict, list, str, int, float, bool and None only, so that it comes back from JSON equal."""
    place = where or "the top level"
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"expected text as keys, got {key!r} at {place}. JSON has no others; write str(key).")
        return {key: _plain(item, f"{where}.{key}" if where else key) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value} at {place}. JSON has no NaN; write None.")
    if value is None or type(value) in (str, int, float, bool):
        return value
    raise ValueError(
        f"expected dict, list, str, int, float, bool or None, got {type(value).__name__} at {place}. "
        "Anything else would not come back from JSON as it was; convert it, for example with str(), int() or float()."
    )


JsonObject = Annotated[dict[str, Any], BeforeValidator(_plain)]
"""Free-form settings. Tuples become lists on the way in, so that writing and reading gives an equal object."""
