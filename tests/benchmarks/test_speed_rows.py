"""The rows of benchmarks/speed: merged by name, refused from elsewhere, fitted, and put into the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import latest as rows_of
import pytest
import torch
from epoch import measure
from fit import STRAIGHT, polynomial, verdict
from floors import FLOORS
from kept import kept
from latest import Latest
from table import END, PAGE, TABLES, filled
from work import in_turn

from sonet.blocks import recomputed
from sonet.models import build
from sonet.solvers import Fixed


def row(name: str, ratio: float = 2.0) -> dict[str, Any]:
    return {"name": name, "ratio": ratio, "low": 1.5, "high": 2.5, "n": 3}


def test_a_script_keeps_the_rows_of_the_others(tmp_path: Path) -> None:
    out = tmp_path / "latest.json"
    first, second = Latest(out, batch=32), Latest(out)
    first.keep(row("torchdiffeq/sonet/forward"))
    second.keep(row("memory/attack/batch=8"))
    first.keep(row("torchdiffeq/sonet/forward", 3.0))
    content = json.loads(out.read_text())
    assert [(r["name"], r["ratio"]) for r in content["rows"]] == [
        ("torchdiffeq/sonet/forward", 3.0),
        ("memory/attack/batch=8", 2.0),
    ]
    assert content["environment"]["batch"] == 32
    assert content["environment"]["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert [file.name for file in tmp_path.iterdir()] == ["latest.json"]


def test_rows_of_another_machine_are_refused_or_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "latest.json"
    Latest(out).keep(row("old"))
    before = out.read_bytes()
    here = rows_of.environment()
    monkeypatch.setattr(rows_of, "environment", lambda: here | {"cpu": "another"})
    with pytest.raises(SystemExit, match=r"holds rows measured elsewhere \(cpu .*--replace"):
        Latest(out)
    assert out.read_bytes() == before
    Latest(out, replace=True).keep(row("new"))
    assert [r["name"] for r in json.loads(out.read_text())["rows"]] == ["new"]


def test_another_version_is_refused_but_a_package_not_installed_is_no_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "latest.json"
    Latest(out).keep(row("old"))
    here = rows_of.environment()
    fewer = {name: number for name, number in here["versions"].items() if name != "torchdiffeq"}
    monkeypatch.setattr(rows_of, "environment", lambda: here | {"versions": fewer})
    Latest(out).keep(row("new"))
    content = json.loads(out.read_text())
    assert [r["name"] for r in content["rows"]] == ["old", "new"]
    assert content["environment"]["versions"] == here["versions"]
    monkeypatch.setattr(rows_of, "environment", lambda: here | {"versions": fewer | {"torch": "0.1"}})
    with pytest.raises(SystemExit, match="torch "):
        Latest(out)


@pytest.mark.parametrize("text", ['{"rows": [', "[]", '{"rows": [{}], "environment": {}}', '{"rows": 1}'])
def test_a_damaged_file_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    out = tmp_path / "latest.json"
    out.write_text(text)
    with pytest.raises(SystemExit, match="expected"):
        Latest(out)
    assert out.read_text() == text


def test_a_line_is_found_and_called_one() -> None:
    x = [1.0, 2.0, 4.0, 8.0]
    seconds = [0.5 + 0.25 * value for value in x]
    line = polynomial(x, seconds, 1)
    assert line.coefficients == pytest.approx((0.5, 0.25))
    assert line.worst < 1e-9
    straight, words = verdict("batch", x, seconds)
    assert straight
    assert "250 ms for each of batch" in words
    off = [*seconds[:-1], seconds[-1] * (1 + 4 * STRAIGHT)]
    straight, words = verdict("batch", x, off)
    assert not straight
    assert "for reasons not measured here" in words


def test_a_width_is_no_line_but_a_parabola() -> None:
    x = [8.0, 16.0, 32.0, 64.0]
    straight, words = verdict("width", x, [0.01 * value + 0.001 * value**2 for value in x])
    assert not straight
    assert f"{0.064 * 64 / (0.064 * 64 + 0.64):.0%} of the time at 64, residuals are up to 0%" in words


def test_as_many_coefficients_as_points_are_refused() -> None:
    with pytest.raises(ValueError, match="got 3 points for degree 2, expected at least 4"):
        polynomial([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], 2)


def test_kept_counts_what_recomputation_saves() -> None:
    model = build("sonet", channels=4, blocks=(1,), strides=(1,), seed=0, solver=Fixed(method="dopri5", num_steps=4))
    model.requires_grad_(False)
    images = torch.rand(2, 3, 16, 16)
    stored = kept(model, images)
    with recomputed(model):
        assert 0 < kept(model, images) < stored / 3
    with torch.no_grad():
        assert kept(model, images) == 0


MEMORY = {
    **row("memory/attack/batch=8"),
    **{
        f"{way}_{what}": 100.0 for way in ("stored", "recomputed", "torchdiffeq") for what in ("mib", "kept", "seconds")
    },
    "recomputed_mib": 41.0,
    "bounds": ["recomputed"],
    "same_numbers": True,
}
COST = {
    **row("cost/forward/batch"),
    "x": [1.0, 2.0, 4.0],
    "seconds": [0.1, 0.2, 0.4],
    "straight": True,
    "words": "a straight line",
    "fit": {"constant": 0.0, "each": 0.1, "residuals": [0.0, 0.01, -0.01]},
}
ATTACK = {
    **row("attacks/pgd/digits/same-work/n=100"),
    "rival": "foolbox",
    "eps": 0.1,
    "seed": 0,
    "note": "every step",
    **{f"{who}_{what}": 0.125 for who in ("ours", "other") for what in ("seconds", "left")},
    "ours_interval": [0.05, 0.25],
    "other_interval": [0.05, 0.25],
}
EPOCH = {
    **row("epoch/sonet-64/a GPU"),
    "device": "a GPU",
    "batch": 128,
    "ours_seconds": 9.25,
    "other_seconds": 92.5,
}


def test_an_epoch_is_a_step_times_its_steps() -> None:
    found = measure(torch.device("cpu"), channels=4, batch_size=2, steps=1)
    assert found["name"] == "epoch/sonet-4/CPU"
    assert found["ours_seconds"] > 25_000 * 1e-3
    assert found["ratio"] == pytest.approx(found["other_seconds"] / found["ours_seconds"])


def test_the_page_takes_every_kind_of_row() -> None:
    versions = {"torch": "1", "torchdiffeq": "2", "torchode": "3"}
    here = {"cpu": "a machine", "threads": 1, "batch": 32, "images": "small", "versions": versions}
    void = row("attacks/pgd/mnist/same-work/n=100") | {"ratio": None, "void": "results differ", "rival": "foolbox"}
    floors = [row(f"floor-{name}/sonet/forward") | {"ratio": 0.5} for name in FLOORS]
    rows = [row("torchdiffeq/sonet/forward"), *floors, MEMORY, COST, ATTACK, EPOCH, void]
    page = filled(PAGE.read_text(), {"rows": rows, "environment": here})
    assert page.count(END) == len(TABLES)
    for told in (
        "| torchdiffeq over ours, the same result | sonet | 2.00 [1.50, 2.50], n = 3 | - | - |",
        "| sonet, forward | 2.00 | 200% | 2.0 | 2.0 |",
        "| attack | batch=8 | 100 (at most: recomputed) | 41 | 100 | 2.00 [1.50, 2.50] |",
        "- forward, batch: 1: 100 (+0%), 2: 200 (+1%), 4: 400 (-1%)",
        "| pgd, foolbox | digits, linf 0.1 | same-work: every step | 2.00 [1.50, 2.50] |",
        "0.125 [0.050, 0.250] | 0.125 [0.050, 0.250] | 3, seed 0 |",
        "| pgd, foolbox | mnist | same-work | void: results differ |",
        "| sonet-64 | a GPU | 128 | 9.2 | 92.5 | 2.00 [1.50, 2.50] | 3 |",
    ):
        assert told in page
    empty = filled(page, {"rows": [], "environment": here})
    assert empty.count("Not measured yet.") == len(TABLES)
    assert filled(empty, {"rows": rows, "environment": here}) == page


def test_a_page_without_its_marks_is_refused() -> None:
    with pytest.raises(SystemExit, match="expected the marks"):
        filled("# no marks", {"rows": [], "environment": {}})


def test_calls_are_timed_in_turn_and_backwards_every_other_round() -> None:
    made: list[str] = []
    seconds, _ = in_turn([lambda name=name: made.append(name) for name in "abc"], repeats=2)
    assert "".join(made) == "abc" + "abc" + "cba"
    assert [len(times) for times in seconds] == [2, 2, 2]
