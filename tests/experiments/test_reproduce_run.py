"""A whole tiny experiment: complete, repeatable, resumable, and careful with other people's folders."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tiny_plan import NETWORK, raw_plan, rows, run_cell, tiny_plan, write_data

from sonet.experiments import Cell, Plan, PlanError, lay_out, reproduce
from sonet.experiments.cells import Outcome
from sonet.experiments.pool import do_cells
from sonet.experiments.work import outcome_file
from sonet.report import Record, RecordError, read
from sonet.training import CheckpointError

SCRIPT = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from sonet.experiments import Plan, reproduce

if __name__ == "__main__":
    plan = Plan.model_validate(json.loads(Path(sys.argv[2]).read_text()))
    reproduce(plan, Path(sys.argv[3]), command="x", workers=2)
"""


def silent(cell: Cell, done: float, word: str) -> None:
    pass


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def plan(data: Path) -> Plan:
    return tiny_plan(data)


@pytest.fixture(scope="module")
def done(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record, list[tuple[Cell, float, str]]]:
    out, seen = tmp_path_factory.mktemp("done") / "run", list[tuple[Cell, float, str]]()
    record = reproduce(plan, out, command="sonet reproduce tiny", workers=1, watch=lambda *report: seen.append(report))
    return out, record, seen


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(file.relative_to(folder)): (file.read_bytes(), file.stat().st_mtime_ns)
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_the_record_is_complete(done: Any, plan: Plan) -> None:
    out, record, _ = done
    assert record.complete
    assert record == read(out)
    assert record.command == "sonet reproduce tiny"
    cells = lay_out(plan)
    attacks = [cell for cell in cells if cell.kind == "attack"]
    assert len(record.rows) == 2 + sum(len(cell.steps) for cell in attacks)
    assert [card.model for card in record.models] == ["resnet10", "sonet"]
    assert {entry.model for entry in record.steps} == {entry.model for entry in record.leaks} == {"sonet"}
    assert {picture.model for picture in record.pictures} == {"resnet10", "sonet"}
    assert {row.n for row in record.rows if row.attack == "spsa"} == {4}
    assert {row.n for row in record.rows if row.attack != "spsa"} == {12}


def test_seconds_are_those_of_the_work_whoever_asks(done: Any, plan: Plan) -> None:
    """Intermediate iterates of one run are no work of their own; a call that only reads spends nothing."""
    out, record, _ = done
    trained = sum(card.train_seconds for card in record.models)
    assert trained < record.seconds < trained + sum(row.seconds for row in record.rows)
    assert reproduce(plan, out, command="again", workers=1).seconds == record.seconds


def test_every_row_carries_its_setting(done: Any) -> None:
    out, _, _ = done
    written = json.loads((out / "record.json").read_text())
    wanted = {
        *("model", "objective", "seed", "attack", "steps", "loss", "step_gradient", "attack_batch", "norm", "eps"),
        *("n", "accuracy", "low", "high", "seconds"),
    }
    for row in written["rows"]:
        assert wanted <= row.keys()
        assert row["low"] <= row["accuracy"] <= row["high"]
        if row["attack"] != "none":
            assert None not in [row[key] for key in wanted - {"step_gradient"}]
        if row["attack"] == "pgd" and row["model"] == "sonet":
            assert row["step_gradient"] in ("differentiated", "frozen")


def test_the_environment_is_recorded(done: Any) -> None:
    _, record, _ = done
    environment = record.environment
    assert {"python", "torch", "numpy", "sonet"} <= environment.versions.keys()
    assert environment.device == "cpu"
    assert environment.threads == 1
    written = environment.model_dump()
    assert {"commit", "platform", "created"} <= written.keys()
    assert record.settings["workers"] == 1
    assert record.settings["training"]["epochs"] == 1
    assert record.data["n_test"] == 12


class _Loads(HTMLParser):
    """What a browser would load for the page itself; a link asks nothing until it is followed."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.styles: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        loading = {"src", "srcset", "data", "poster"} | ({"href"} if tag in ("link", "image", "use", "base") else set())
        self.addresses += [value or "" for name, value in attributes if name in loading]
        self.styles += [value or "" for name, value in attributes if name == "style"]


def test_the_report_is_one_file_that_asks_nothing_of_the_network(done: Any) -> None:
    out, _, _ = done
    page = (out / "report.html").read_text()
    found = _Loads()
    found.feed(page)
    assert found.addresses
    assert [address for address in found.addresses if not address.startswith(("data:", "#"))] == []
    assert not re.findall(r"url\([\"']?https?:|@import", page)
    assert "sonet" in page


def test_progress_is_told_of_every_cell(done: Any, plan: Plan) -> None:
    _, _, seen = done
    assert [cell.key for cell, _, word in seen if word == "done"]
    assert {cell.key for cell, _, word in seen if word == "done"} == {cell.key for cell in lay_out(plan)}
    assert all(0 <= part <= 1 for _, part, _ in seen)


def test_a_finished_experiment_is_read_not_repeated(done: Any, plan: Plan) -> None:
    out, record, _ = done
    before = {name: mark for name, mark in snapshot(out).items() if name.startswith(("cells", "models", "plan"))}
    words: list[str] = []
    again = reproduce(plan, out, command="again", workers=1, watch=lambda cell, part, word: words.append(word))
    assert [row.model_dump() for row in again.rows] == [row.model_dump() for row in record.rows]
    assert set(words) == {"done"}
    after = {name: mark for name, mark in snapshot(out).items() if name.startswith(("cells", "models", "plan"))}
    assert after == before


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks up processes in /proc")
def test_killed_in_two_processes_it_goes_on_to_the_same_rows(done: Any, plan: Plan, data: Path, tmp_path: Path) -> None:
    """Also: two workers find what one does, and workers of a killed run do not go on writing."""
    out = tmp_path / "run"
    (tmp_path / "plan.json").write_text(json.dumps(raw_plan(data)))
    (tmp_path / "script.py").write_text(SCRIPT)
    child = subprocess.Popen(
        [sys.executable, tmp_path / "script.py", Path(__file__).parent, tmp_path / "plan.json", out],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    end = time.monotonic() + 100
    while len(list((out / "cells").glob("*.json"))) < 3 and child.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    workers = [int(pid) for pid in Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()]
    child.kill()
    assert child.wait() == -signal.SIGKILL
    assert len(workers) >= 2
    end = time.monotonic() + 10
    while any(_alive(pid) for pid in workers) and time.monotonic() < end:
        time.sleep(0.05)
    assert not [pid for pid in workers if _alive(pid)]
    ended = snapshot(out / "cells")
    assert 3 <= len(ended) < len(lay_out(plan))
    cut = read(out)
    assert not cut.complete

    record = reproduce(plan, out, command="x", workers=2)
    assert record.complete
    assert rows(record) == rows(done[1])
    assert record.environment.threads == 1
    assert {name: mark for name, mark in snapshot(out / "cells").items() if name in ended} == ended


def test_another_plans_folder_is_refused_and_untouched(done: Any, data: Path) -> None:
    out, _, _ = done
    before = snapshot(out)
    with pytest.raises(RecordError, match="holds another experiment"):
        reproduce(tiny_plan(data, judge_batch=6), out, command="x", workers=1)
    assert snapshot(out) == before


def test_figures_on_other_images_are_not_mixed_in(done: Any, data: Path, tmp_path: Path) -> None:
    """Data of a name may be of another folder by the next call: the plan is the same, the images are not."""
    for where, train in (("a", 40), ("b", 41), ("c", 40)):
        (tmp_path / where).mkdir()
        write_data(tmp_path / where, train).rename(tmp_path / where / "digits.npz")
    plan, out = tiny_plan("digits", models=[{"name": "resnet10", "options": NETWORK}]), tmp_path / "out"
    reproduce(plan, out, command="x", workers=1, data_dir=tmp_path / "a")
    before = snapshot(out)
    with pytest.raises(RecordError, match=r"on other images: .*train_sha256, n_train differ"):
        reproduce(plan, out, command="x", workers=1, data_dir=tmp_path / "b")
    assert snapshot(out) == before
    assert reproduce(plan, out, command="x", workers=1, data_dir=tmp_path / "c").complete  # the same, elsewhere


def test_more_seeds_add_to_those_that_are_there(data: Path, tmp_path: Path) -> None:
    models = [{"name": "resnet10", "options": NETWORK}]
    one, two = (tiny_plan(data, models=models, seeds=seeds) for seeds in (1, 2))
    first = reproduce(one, tmp_path / "out", command="x", workers=1)
    cells = snapshot(tmp_path / "out" / "cells")
    both = reproduce(two, tmp_path / "out", command="x", workers=1)
    assert {row.seed for row in both.rows} == {0, 1}
    assert [row for row in both.rows if row.seed == 0] == list(first.rows)
    assert {name: mark for name, mark in snapshot(tmp_path / "out" / "cells").items() if name in cells} == cells


def test_foreign_folders_and_files_are_refused_and_untouched(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RecordError, match="not empty"):
        reproduce(plan, tmp_path, command="x", workers=1)
    with pytest.raises(RecordError, match="is a file"):
        reproduce(plan, tmp_path / "mine.txt", command="x", workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_bad_input_leaves_no_folder(data: Path, tmp_path: Path) -> None:
    attacks = raw_plan(data)["attacks"] | {"batches": [13, 1]}
    with pytest.raises(PlanError, match=r"attacks 13 images, but .* has 12"):
        reproduce(tiny_plan(data, images=13, attacks=attacks), tmp_path / "a", command="x", workers=1)
    with pytest.raises(ValueError, match="no such file"):
        reproduce(tiny_plan(tmp_path / "no.npz"), tmp_path / "b", command="x", workers=1)
    assert not list(tmp_path.iterdir())


def test_what_a_run_killed_at_its_first_file_left_is_ours(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / ".plan.json.0123.tmp").write_text("{")

    class Stop(Exception):
        pass

    def stop(cell: Cell, part: float, word: str) -> None:
        raise Stop

    with pytest.raises(Stop):
        reproduce(plan, tmp_path, command="x", workers=1, watch=stop)
    assert (tmp_path / "plan.json").is_file()


@pytest.fixture
def long_cells(data: Path, tmp_path: Path) -> tuple[Plan, list[Cell]]:
    """A trained network with an attack of hours, and a network that only seems to be trained."""
    models = [{"name": "resnet10", "options": NETWORK}, {"name": "soblock-resnet10", "options": NETWORK}]
    plan = tiny_plan(data, models=models)
    trains = [cell for cell in lay_out(plan) if cell.kind == "train"]
    run_cell(trains[0], plan, tmp_path)
    outcome_file(trains[1], tmp_path).write_text(Outcome().model_dump_json())
    endless = {"kind": "attack", "seed": 0, "attack": "pgd", "loss": "ce", "attack_batch": 12, "eps": 0.2}
    attacks = [Cell.model_validate(endless | {"model": model, "steps": (10_000_000,)}) for model in plan.models]
    return plan, [*trains, *attacks]


def _run(cells: list[Cell], plan: Plan, out: Path, watch: Any = silent) -> Iterator[Any]:
    return do_cells(cells, plan, out, workers=2, data_dir=None, watch=watch)


def test_a_workers_error_surfaces_and_ends_the_others(long_cells: Any, tmp_path: Path) -> None:
    plan, cells = long_cells
    with pytest.raises(CheckpointError, match="soblock-resnet10-natural-0"):
        list(_run(cells, plan, tmp_path))
    assert not multiprocessing.active_children()


def test_a_worker_that_was_killed_is_reported(long_cells: Any, tmp_path: Path) -> None:
    plan, cells = long_cells

    def kill(cell: Cell, part: float, word: str) -> None:
        for process in multiprocessing.active_children():
            process.kill()

    with pytest.raises(ChildProcessError, match="a worker process was ended from outside"):
        list(_run([cells[0], cells[2]], plan, tmp_path, kill))
    assert not multiprocessing.active_children()
