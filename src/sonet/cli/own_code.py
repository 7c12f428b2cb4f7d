"""A Python file of the user's own: imported by its path, its errors as sentences. Its code runs; that is the intent."""

from __future__ import annotations

import importlib.util
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from itertools import count
from pathlib import Path
from types import ModuleType

_PREFIX = "sonet_audits_"
"""Of the modules' names in sys.modules, so that none hides another of the same file name."""


class TargetError(ValueError):
    """What was named to be audited cannot be had; says got, expected, why, remedy."""


def import_file(file: Path) -> ModuleType:
    """The module of `file`, run anew, registered in sys.modules under a name of its own.

    What it prints goes to stderr: stdout is for the answer.
    """
    stem = re.sub(r"\W", "_", file.stem)
    name = next(name for name in (f"{_PREFIX}{stem}_{number}" for number in count()) if name not in sys.modules)
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:  # not for names that end in .py
        raise TargetError(f"{file}: cannot be imported as Python; expected a file that ends in .py.")
    module = importlib.util.module_from_spec(spec)
    _forget_namesakes(file.parent)
    sys.modules[name] = module
    try:
        with guarded(file, "importing it"):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def guarded(file: Path, doing: str) -> Iterator[None]:
    """Run code of `file`: neighbours can be imported, and what it raises is a `TargetError` with the line it is at."""
    folder = str(file.parent)
    sys.path.insert(0, folder)
    try:
        with redirect_stdout(sys.stderr):
            yield
    except TargetError:
        raise
    except SyntaxError as error:
        where = f"{error.filename or file}, line {error.lineno}" if error.lineno else str(error.filename or file)
        said = (error.text or "").strip()
        raise TargetError(
            f"{where}: is not valid Python ({error.msg}){f': {said}' if said else ''}. Mend the line and try again."
        ) from None
    except SystemExit as error:
        raise TargetError(
            f"{file}{_line(error, file)}: {doing} ended the program (exit code {error.code}); expected it to return. "
            "Put what belongs to a script under `if __name__ == '__main__':`."
        ) from None
    except Exception as error:
        raise TargetError(
            f"{file}{_line(error, file)}: {doing} raised {type(error).__name__}: {str(error) or 'no message'}. "
            f"{_remedy(error, file)}"
        ) from error
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def _remedy(error: Exception, file: Path) -> str:
    if isinstance(error, ImportError) and "relative import" in str(error):
        return f"A file imported by its path is in no package: import its neighbours in {file.parent} by their names."
    if isinstance(error, ModuleNotFoundError):
        return f"Its own folder, {file.parent}, is searched; name others in PYTHONPATH, or install the package."
    return "It must run without anything but its own folder and what is installed."


def _line(error: BaseException, file: Path) -> str:
    """Where in the user's code it happened: the deepest line in the file, and the one in a neighbour it led to."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(file.parent) and _is_theirs(frame.filename)]
    mine = [frame for frame in own if Path(frame.filename) == file]
    words = f", line {mine[-1].lineno}" if mine else ""
    if own and Path(own[-1].filename) != file:
        words += f" (at {Path(own[-1].filename).relative_to(file.parent)}, line {own[-1].lineno})"
    return words


def _is_theirs(filename: str) -> bool:
    return "site-packages" not in Path(filename).parts


def _forget_namesakes(folder: Path) -> None:
    """Drop neighbours of files imported before whose name a file or package in `folder` has, too.

    Else `import layers` there would find the first folder's layers. Objects made of them live on.
    """
    earlier = {
        Path(module.__file__).parent
        for name, module in list(sys.modules.items())
        if name.startswith(_PREFIX) and module.__file__ is not None
    } - {folder}
    for name, module in list(sys.modules.items()):
        top = name.partition(".")[0]
        path = getattr(sys.modules.get(top, module), "__file__", None)
        if path is None or not ((folder / f"{top}.py").is_file() or (folder / top).is_dir()):
            continue
        home = Path(path).parent
        if (home.parent if Path(path).stem == "__init__" else home) in earlier:
            names = [other for other in sys.modules if other == top or other.startswith(f"{top}.")]
            for other in names:
                del sys.modules[other]
