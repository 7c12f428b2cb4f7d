"""The option --data-dir, the same in every command that reads named data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

# A path that is mistyped must not become a folder with a download in it, so it has to be there.
DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder that holds the named data (NAME.npz or the archives), or that they are downloaded to.",
        exists=True,
        file_okay=False,
    ),
]
