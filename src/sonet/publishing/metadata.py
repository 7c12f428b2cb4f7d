"""The front matter of a card: what the hub reads. https://huggingface.co/docs/hub/model-cards"""

from __future__ import annotations

import re
from typing import Any

import yaml  # type: ignore[import-untyped]

from sonet.data import DATASETS
from sonet.publishing.config import PublicConfig
from sonet.publishing.errors import PublicationError
from sonet.publishing.figures import Figure

BOUND = "an upper bound"
"""Said with every accuracy under attack."""
_TYPES = {"certified": "certified_accuracy"}


def front_matter(config: PublicConfig, figures: list[Figure], name: str, license: str | None) -> str:
    """YAML between two lines of three dashes. Errors: PublicationError for a license that is no identifier."""
    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise PublicationError(
            f"license: got {license!r}, expected an identifier of the hub in small letters, such as apache-2.0, mit or "
            "cc-by-4.0; for another license give other and add its text to the folder once it is uploaded."
        )
    dataset = config.data.get("load")
    said: dict[str, Any] = {
        "license": license,
        "library_name": config.library_name,
        "pipeline_tag": "image-classification",
        "tags": ["sonet", *(["neural-ode"] if "solver" in config.model else []), "adversarial-attacks"],
        "datasets": [dataset] if dataset in DATASETS else None,
        "metrics": sorted({_TYPES.get(figure.kind, "accuracy") for figure in figures}) or None,
        "model-index": [{"name": name, "results": _results(figures)}] if figures else None,
    }
    kept = {key: value for key, value in said.items() if value is not None}
    text = _yaml(kept, readable=True)
    if yaml.safe_load(text) != kept:  # a line break of Unicode, for example, is folded where it is not escaped
        text = _yaml(kept, readable=False)
    return f"---\n{text}---\n"


def _yaml(said: dict[str, Any], *, readable: bool) -> str:
    return str(yaml.safe_dump(said, sort_keys=False, allow_unicode=readable, width=120))


def _results(figures: list[Figure]) -> list[dict[str, Any]]:
    """One entry a data set, with all its figures."""
    return [
        {
            "task": {"type": "image-classification", "name": "Image Classification"},
            "dataset": {"name": data or "unknown", "type": _slug(data), "split": "test"},
            "metrics": [_metric(figure) for figure in figures if figure.data == data],
        }
        for data in dict.fromkeys(figure.data for figure in figures)
    ]


def _metric(figure: Figure) -> dict[str, Any]:
    at = f" at {figure.threat}" if figure.threat else ""
    bound = f" ({BOUND})" if figure.kind not in ("natural", "certified") else ""
    args: dict[str, Any] = {"n": figure.n, "low": figure.low, "high": figure.high, "training_seed": figure.seed}
    if figure.threat:
        args["threat"] = figure.threat
    return {
        "type": _TYPES.get(figure.kind, "accuracy"),
        "name": "natural accuracy" if figure.kind == "natural" else f"{figure.what}{at}{bound}",
        "value": figure.value,
        "args": args | {"source": figure.source},
    }


def _slug(data: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", data.lower()).strip("-.") or "unknown"
