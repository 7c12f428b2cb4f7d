"""A validation error as sentences: which setting, what is wrong with it, what was given."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError


def explain(error: ValidationError) -> str:
    """A pydantic error as sentences: which option, what is wrong, what was given."""
    said = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"]) or "options"
        words = item["msg"].removeprefix("Value error, ").removeprefix(f"{where}: ")
        told = isinstance(item["input"], Mapping) or ", got " in words or words.startswith("got ")
        said.append(f"{where}: {words}" + ("" if told else f" (got {item['input']!r})"))
    return "; ".join(said)
