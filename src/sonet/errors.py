"""A validation error as sentences: which setting, what is wrong with it, what was given."""

from __future__ import annotations

from pydantic import ValidationError


def explain(error: ValidationError) -> str:
    """A pydantic error as sentences: which option, what is wrong, what was given."""
    said = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"]) or "options"
        said.append(f"{where}: {item['msg'].removeprefix('Value error, ')} (got {item['input']!r})")
    return "; ".join(said)
