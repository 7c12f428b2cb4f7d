"""Where the rows of all benchmarks meet: benchmarks/latest.json, a row a name; each script keeps the others' rows."""

from __future__ import annotations

import argparse
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sonet.report.write import write_whole

LATEST = Path(__file__).parents[1] / "latest.json"
PACKAGES = ("sonet", "torch", "torchdiffeq", "torchode", "foolbox", "pyautoattack")
MACHINE = ("cpu", "cores", "python")

Row = dict[str, Any]


class Latest:
    """`keep` puts a row in the place of the one of its name, among the rows as they are then, and writes all of them.

    Rows of another machine or of other versions stand beside none of here: SystemExit, unless `replace` drops them.
    settings: of the rows of this script, for the file's head; rows that have others say so themselves.
    """

    def __init__(self, path: Path, *, replace: bool = False, **settings: Any) -> None:
        here = environment()
        self.path, self._settings = path, here | settings
        known = _read(path)
        if known["rows"] and (strange := _differences(known["environment"], here)):
            if not replace:
                raise SystemExit(
                    f"{path} holds rows measured elsewhere ({'; '.join(strange)}), expected rows of this machine and "
                    "these versions: ratios of two machines do not compare. Give another --out, or drop them by "
                    "--replace."
                )
            self._write([], {})

    def keep(self, row: Row) -> None:
        known = _read(self.path)
        rows = {old["name"]: old for old in known["rows"]} | {row["name"]: row}
        self._write(list(rows.values()), known["environment"])

    def _write(self, rows: list[Row], known: dict[str, Any]) -> None:
        versions = known.get("versions", {}) | self._settings["versions"]
        content = {"rows": rows, "environment": known | self._settings | {"versions": versions}}
        write_whole(self.path, json.dumps(content, indent=1) + "\n")


def environment() -> dict[str, Any]:
    """The machine, and the versions of what is installed here."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    versions: dict[str, str] = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"cpu": cpu, "cores": os.cpu_count(), "python": platform.python_version(), "versions": versions}


def arguments(parser: argparse.ArgumentParser, *, repeats: int | None = None) -> None:
    """The options that all benchmarks have; --repeats those with a default for it."""
    parser.add_argument("--out", type=Path, default=LATEST, help=f"default {LATEST}")
    parser.add_argument("--replace", action="store_true", help="drop rows of another machine or of other versions")
    parser.add_argument("--only", default="", help="only rows whose name contains this")
    if repeats is not None:
        parser.add_argument("--repeats", type=int, default=repeats, help=f"of each measurement, default {repeats}")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch, default 1")


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options, refused in a sentence where a count is less than one."""
    args = parser.parse_args()
    for name in ("repeats", "threads", "batch", "images"):
        value = getattr(args, name, None)
        if value is not None and value < 1:
            parser.error(f"--{name} must be at least 1, got {value}: nothing would be measured.")
    return args


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {"rows": [], "environment": {}}
    try:
        content = json.loads(path.read_text())
        if all("name" in row for row in content["rows"]) and isinstance(content["environment"], dict):
            return dict(content)
    except (ValueError, KeyError, TypeError):
        pass
    raise SystemExit(
        f'{path}: expected {{"rows": [{{"name": ...}}, ...], "environment": {{...}}}}, got something else. It was cut '
        "short or is another file; give another --out, or remove it."
    )


def _differences(known: dict[str, Any], here: dict[str, Any]) -> list[str]:
    found = [f"{name} {known[name]}" for name in MACHINE if name in known and known[name] != here[name]]
    versions = known.get("versions", {})
    # What is not installed now was not needed now.
    return found + [f"{name} {old}" for name, old in versions.items() if here["versions"].get(name, old) != old]
