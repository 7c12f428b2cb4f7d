"""The one error of this room: data that cannot be used, and what to do about it."""

from __future__ import annotations


class DataError(ValueError):
    """Images, labels or files that cannot be used. The message says got, expected, why and remedy."""


def first(limit: int | None, available: int, what: str) -> int:
    """How many of `available` items a limit leaves: all of them for None, else exactly `limit`.

    Errors: DataError unless 1 <= limit <= available. A smaller result than asked for would silently change every n
    that is reported later.
    """
    if limit is None:
        return available
    if not 1 <= limit <= available:
        raise DataError(
            f"{what}: expected a limit between 1 and {available} (the images there are), got {limit}. "
            f"Ask for at most {available}, or for all by giving no limit."
        )
    return limit
