"""Are these the same images? Told by checksums, wherever the files lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CHECKSUM = "test_sha256"
IDENTITY = (CHECKSUM, "train_sha256", "n_train", "n_test", "shape", "num_classes")
"""Of `Dataset.describe()` what says which images they are; the rest says where they came from."""


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The entries in which two descriptions speak of other images; empty where they are the same.

    Paths and names may differ. A description without checksum, not of `Dataset.describe()`, is compared whole.
    """
    told = CHECKSUM in one and CHECKSUM in other
    keys = IDENTITY if told else sorted(one.keys() | other.keys())
    return [key for key in keys if one.get(key) != other.get(key)]
