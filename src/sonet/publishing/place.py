"""What names a publication: a folder, a folder of the hub's cache, or a repository of the Hugging Face hub."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from sonet.publishing.config import CARD, CONFIG, WEIGHTS
from sonet.publishing.errors import PublicationError

PICKLE = "pytorch_model.bin"
_REPOSITORY = r"(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)"
_HUB = re.compile(rf"hf:/{{1,2}}{_REPOSITORY}(@(?P<revision>[^@\s]+))?")  # one slash is left of two in a Path
_PLAIN = re.compile(_REPOSITORY)


def find_publication(named: Path | str) -> Path | None:
    """The folder with the files of the publication that is named; None where nothing here looks like one.

    hf://ORG/NAME[@REVISION] is downloaded if need be. ORG/NAME is looked for in the hub's cache alone, and only if
    there is no such path. Whether the files are sound is seen when they are read.

    Errors: PublicationError for hf:// without huggingface_hub, or with what the hub answers; for an ambiguous cache.
    """
    text, path = str(named), Path(named)
    if path.is_dir():
        folder = _snapshot(path) if (path / "snapshots").is_dir() else path
        return folder if any((folder / name).is_file() for name in (CONFIG, WEIGHTS, PICKLE)) else None
    if match := _HUB.fullmatch(text):
        return _download(match["repository"], match["revision"])
    if not path.exists() and path.suffix != ".py" and _PLAIN.fullmatch(text):
        return _cached(text)
    return None


def _snapshot(cache: Path) -> Path:
    """Of models--ORG--NAME the revision that `main` points to, or the only one there."""
    main = cache / "refs" / "main"
    if main.is_file():
        folder = cache / "snapshots" / main.read_text().strip()
        if folder.is_dir():
            return folder
    there = sorted(folder for folder in (cache / "snapshots").iterdir() if folder.is_dir())
    if len(there) != 1:
        some = ", ".join(folder.name for folder in there[:4]) or "none"
        raise PublicationError(
            f"{cache}: expected a revision that refs/main points to, or only one, got {some}. "
            "Give the folder of one, snapshots/REVISION."
        )
    return there[0]


def _download(repository: str, revision: str | None) -> Path:
    if find_spec("huggingface_hub") is None:
        raise PublicationError(
            f"hf://{repository}: needs huggingface_hub, which is not installed. Install it with "
            "`pip install huggingface_hub`, or download the repository yourself and give its folder."
        )
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(repository, revision=revision, allow_patterns=[CONFIG, WEIGHTS, CARD])
    except Exception as error:  # of the hub's, the network's and the disk's many kinds: all say that nothing came
        at = "" if revision is None else f"@{revision}"
        raise PublicationError(
            f"hf://{repository}{at}: expected a repository with {CONFIG} and {WEIGHTS}, got "
            f"{type(error).__name__}: {' '.join(str(error).split())}. Look at its name, the revision and the "
            "connection; a private one needs `hf auth login`."
        ) from error
    return Path(found)


def _cached(repository: str) -> Path | None:
    """Without asking any server: a path that somebody mistyped looks the same as a repository."""
    if find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return None
