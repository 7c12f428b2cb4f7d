"""Settings from a TOML file and from `--set key=value`, as nested dicts for the configs to validate."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from sonet.models import ConfigError

SECTIONS = ("model", "training")


def read_settings(config: Path | None, overrides: list[str]) -> dict[str, dict[str, Any]]:
    """{"model": ..., "training": ...}; values of `overrides` are TOML, or text where they are no TOML.

    `model.solver = "paper"` stands for the paper's setting, of which single ones can be overridden. An override of
    `model.solver.kind` drops the other solver settings of the file: they belong to the other kind. The order of
    overrides matters only among those of the same key: whole tables come before their entries, kinds before the rest.
    """
    settings: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    if config is not None:
        try:
            raw = tomllib.loads(config.read_text())
        except FileNotFoundError:
            raise ConfigError(f"{config}: there is no such file; --config takes a TOML file.") from None
        except OSError as error:
            raise ConfigError(f"{config}: cannot be read ({error.strerror}); --config takes a TOML file.") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{config}: is not TOML: {error}.") from None
        for section, values in raw.items():
            if section not in SECTIONS or not isinstance(values, dict):
                raise ConfigError(f"{config}: got [{section}], expected the tables [model] and [training] only.")
            settings[section] = values
    _expand_name(settings["model"])
    parsed: list[tuple[list[str], str]] = []
    for override in overrides:
        key, equals, text = override.partition("=")
        path = key.strip().split(".")
        if not equals or path[0] not in SECTIONS or len(path) < 2:
            raise ConfigError(
                f"--set: got {override!r}, expected model.KEY=VALUE or training.KEY=VALUE, e.g. model.channels=16."
            )
        parsed.append((path, text.strip()))
    for path, text in sorted(parsed, key=lambda item: (len(item[0]), item[0][-1] != "kind")):
        _put(settings, path, parse_value(text))
        _expand_name(settings["model"])
    solver = settings["model"].get("solver")
    if isinstance(solver, dict):
        solver.setdefault("kind", "adaptive")
    taken = [
        key for key in ("name", "like", "seed", "in_channels", "classes", "image_size") if key in settings["model"]
    ]
    if taken:
        raise ConfigError(
            f"model.{taken[0]}: is no setting of this command; the network's name and --seed are given on the command "
            "line, and the data say how many channels and classes there are, and how large the images are."
        )
    return settings


def _expand_name(model: dict[str, Any]) -> None:
    """So that single settings can be put into what a name stands for."""
    if isinstance(model.get("solver"), str):
        from sonet.solvers import named

        try:
            model["solver"] = named(model["solver"]).model_dump()
        except ValueError as error:
            raise ConfigError(f"model.solver: {error}.") from None


def _put(settings: dict[str, Any], path: list[str], value: Any) -> None:
    place = settings
    for key in path[:-1]:
        inner = place.get(key)
        place[key] = inner if isinstance(inner, dict) else {}
        place = place[key]
    if path[-1] == "kind" and place.get("kind", "adaptive") != value:
        place.clear()
    place[path[-1]] = value


def parse_value(text: str) -> Any:
    """TOML, or text where it is no TOML."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
