"""What `sonet audit MODEL` names: a run, a publication, or FILE.py:NAME, a classifier in a file of the user's."""

from __future__ import annotations

import ast
import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from sonet.cli.own_code import TargetError, guarded, import_file
from sonet.cli.weights import load_weights

if TYPE_CHECKING:
    from torch import nn

    from sonet.types import Classifier

__all__ = ["Target", "TargetError", "load_target", "parse_target"]

_WRITE = "MODEL is the folder that `sonet train --out` or `sonet publish` wrote, hf://ORG/NAME, or FILE.py:NAME"


@dataclass(frozen=True)
class Target:
    """A classifier from a file. notes: what was changed about it, for the record."""

    classifier: Classifier
    file: Path
    attribute: str
    weights: Path | None
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.file.name}:{self.attribute}"

    @property
    def about(self) -> dict[str, Any]:
        """What must be the same for work on it to be gone on with; neighbours that it imports are not looked at."""
        files = {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in (self.file, self.weights) if file}
        return {"model": f"{self.file}:{self.attribute}", "files": files}


def parse_target(text: str) -> Path | tuple[Path, str]:
    """A run or publication, for `find_victim`, or file and name, for `load_target`; else `TargetError`."""
    from sonet.publishing import is_trained

    path = Path(text)
    if is_trained(text):
        return path
    if path.is_dir():
        raise TargetError(f"{text}: got a folder without a checkpoint of a trained network. {_WRITE}.")
    head, colon, name = text.rpartition(":")
    if path.suffix == ".py" or (colon and not name):
        file = path if path.suffix == ".py" else Path(head)
        raise TargetError(f"{text}: which of its names? Write {file}:NAME{_said(_written(file))}.")
    if not colon:
        what = "is a file of another kind" if path.exists() else "there is no such file or folder"
        raise TargetError(f"{text}: {what}. {_WRITE}.")
    return Path(head), name


def load_target(text: str, weights: Path | None = None) -> Target:
    """The classifier that FILE.py:NAME names; NAME may be dotted. The file's code runs.

    NAME is a module, a module's class or a function that builds one (both called without arguments), or a function of
    images, (N, C, H, W) in [0, 1], that returns logits: one that needs one argument. Modules end in eval mode.
    weights: a safetensors file for it.
    """
    parsed = parse_target(text)
    if isinstance(parsed, Path):
        raise TargetError(f"{text}: is the folder of a run, expected FILE.py:NAME; a run is loaded by find_victim.")
    file, name = parsed[0].expanduser(), parsed[1]
    if file.suffix != ".py":
        raise TargetError(f"{text}: got {file.name!r} before the colon, expected a Python file, .py. {_WRITE}.")
    if not file.is_file():
        raise TargetError(f"{file}: there is no such file. {_WRITE}.")
    file = file.resolve()
    module = import_file(file)
    with guarded(file, f"building {name}"):
        value = _find(module, name, file)
        classifier, notes = _built(value, name, file)
    if weights is not None:
        _load(classifier, weights, name, file)
        weights = weights.resolve()
    return Target(classifier, file, name, weights, (*notes, *_to_eval(classifier, name)))


def _find(module: ModuleType, dotted: str, file: Path) -> object:
    place: Any = module
    for part in dotted.split("."):
        if not hasattr(place, part):
            inside = "" if place is module else f" in {dotted.rpartition('.' + part)[0]}"
            names = _candidates(place)
            close = get_close_matches(part, names, 1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise TargetError(f"{file}: there is no {part!r}{inside}{hint}{_said(names)}.")
        place = getattr(place, part)
    return place


def _candidates(place: object) -> list[str]:
    """Names that could be audited: modules, their classes, functions; those of the file itself, if it has any."""
    home = getattr(place, "__name__" if isinstance(place, ModuleType) else "__module__", None)
    names = {
        name: value
        for name, value in getattr(place, "__dict__", {}).items()
        if not name.startswith("_") and callable(value) and not isinstance(value, ModuleType)
    }
    own = [name for name, value in names.items() if getattr(value, "__module__", home) in (home, None)]
    made = [name for name, value in names.items() if not inspect.isclass(value) and not inspect.isroutine(value)]
    return list(dict.fromkeys((*own, *made))) or list(names)


def _written(file: Path) -> list[str]:
    """Names at the top of a file, read without running it; none where it cannot be read."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return []
    found: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.append(node.name)
        elif isinstance(node, ast.Assign):
            found += [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [name for name in found if not name.startswith("_")]


def _said(names: list[str]) -> str:
    return f"; it has {', '.join(names[:12])}" if names else ""


def _built(value: object, name: str, file: Path) -> tuple[Classifier, tuple[str, ...]]:
    """A classifier of what was named, calling it where it is a class or a function without required arguments."""
    from torch import nn

    if isinstance(value, nn.Module):
        return value, ()
    if not callable(value):
        kind = type(value).__name__
        what = " Weights alone are no network: write a function that builds it." if isinstance(value, dict) else ""
        raise TargetError(
            f"{file}: {name} is a {kind}, expected a torch.nn.Module, its class, a function that builds one, or a "
            f"function of images that returns logits.{what}"
        )
    needed = _required(value)
    if needed and isinstance(value.func if isinstance(value, partial) else value, type):
        raise TargetError(
            f"{file}: {name} needs {', '.join(needed)} to be built, expected a class that is called without arguments. "
            f"Add `def build(): return {name}(...)` with the values of the trained network and audit `build`."
        )
    if needed:
        return _of_images(value, needed, name, file), ()
    built = value()
    if isinstance(built, nn.Module):
        return built, (f"It is what {name}() returned.",)
    if not callable(built) or inspect.isclass(built):
        raise TargetError(
            f"{file}: {name}() returned a {type(built).__name__}, expected a torch.nn.Module or a function of images "
            "that returns logits. Return the network itself; a function that takes images must need one argument."
        )
    return _of_images(built, _required(built), f"{name}()", file), (f"It is what {name}() returned.",)


def _of_images(value: Callable[..., Any], needed: list[str], name: str, file: Path) -> Classifier:
    if len(needed) > 1:
        raise TargetError(
            f"{file}: {name} needs {', '.join(needed)}, expected images alone, or nothing. Give the others defaults, "
            "or bind them with functools.partial."
        )
    return cast("Classifier", value)


def _required(value: Callable[..., Any]) -> list[str]:
    """Parameters without a default; of code without a signature (C, some wrappers) it is taken to be the images."""
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return ["images"]
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [one.name for one in parameters if one.default is one.empty and one.kind not in variadic]


def _load(classifier: Classifier, weights: Path, name: str, file: Path) -> None:
    from torch import nn

    if not isinstance(classifier, nn.Module):
        raise TargetError(
            f"--weights {weights}: {file.name}:{name} is a function, which has no weights to fill; expected a "
            "torch.nn.Module, its class, or a function that builds one."
        )
    load_weights(classifier, weights)


def _to_eval(classifier: Classifier, name: str) -> tuple[str, ...]:
    """Put a module in eval mode, which is what is deployed; says so where it was not. It may refuse, which is told."""
    from torch import nn

    if not isinstance(classifier, nn.Module) or not _training(classifier):
        return ()
    parts = _training(classifier)
    classifier.eval()
    left = _training(classifier)
    note = f"{name} was in train mode ({parts}); it is audited in eval mode, which is what is deployed."
    return (note, f"eval() left in train mode: {left}.") if left else (note,)


def _training(model: nn.Module) -> str:
    """Kinds of parts in train mode that behave otherwise there, or the model's own where none does."""
    kinds = dict.fromkeys(type(part).__name__ for part in model.modules() if part.training)
    some = [kind for kind in kinds if "Norm" in kind or "Dropout" in kind] or list(kinds)[:1]
    return ", ".join(some)
