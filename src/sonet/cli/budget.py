"""A time to spend, as people write it."""

from __future__ import annotations

import re

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_budget(text: str) -> float:
    """Seconds, from "90s", "10m", "2h", "1.5h" or a plain number of seconds."""
    from sonet.attacks import AttackError

    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", text.lower())
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if seconds <= 0:
        raise AttackError(f"--budget: got {text!r}, expected a time above zero such as 90s, 10m or 2h.")
    return seconds
