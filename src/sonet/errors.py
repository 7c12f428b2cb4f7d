"""Errors of libraries in words for people: what a setting lacks, and what torch says of a connection."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydantic import ValidationError


def explain(error: ValidationError) -> str:
    """A pydantic error as sentences: which option, what is wrong, what was given."""
    said = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"]) or "options"
        words = item["msg"].removeprefix("Value error, ").removeprefix(f"{where}: ")
        told = isinstance(item["input"], Mapping) or f"got {item['input']!r}" in words
        said.append(f"{where}: {words}" + ("" if told else f" (got {item['input']!r})"))
    return "; ".join(said)


def in_short(error: Exception) -> str:
    """The first sentence of a message of torch's, without the place in its source."""
    return re.sub(r"\[[^\]]*\.(cc|cpp|h):\d+\]\s*", "", " ".join(str(error).split())).split(". ")[0][:200]
