"""The table beside the paper's: what was not run stays empty, and a gap is told with its reasons."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from report_fixture import synthetic_record
from rich.console import Console

from sonet.report import ModelCard, Record, Row, read, show
from sonet.report.audit_record import Bar, Count
from sonet.report.comparison import NOT_RUN, beside, gaps, not_run
from sonet.report.html import render
from sonet.report.planned import Audited, Figure, Planned
from sonet.types import Proportion

OLD = Path(__file__).parents[2] / "results" / "2026-11-24-digits"


def figure(accuracy: float, steps: int = 20) -> Figure:
    return Figure(attack="pgd", steps=steps, norm="linf", eps=0.031, accuracy=accuracy)


NATURAL = Figure(attack="none", steps=0, norm=None, eps=0.0, accuracy=0.8808)
PLANNED = [
    Planned(model="sonet-32", figures=[NATURAL, figure(0.5367), figure(0.1962, 1000)], reasons=["It was short."]),
    Planned(model="resnet10-32", objective="trades-6", figures=[figure(0.4346)], reasons=["Another start."]),
]


def row(count: int, seed: int = 0, **changes: object) -> Row:
    setting: dict[str, object] = {
        "model": "sonet-32",
        "attack": "pgd",
        "steps": 20,
        "norm": "linf",
        "eps": 0.031,
        "loss": "ce",
        "step_gradient": "differentiated",
        "attack_batch": 100,
        "seconds": 90.0,
        "reported": 0.5367,
        "keep": "last",
    }
    return Row.of(Proportion(count, 1000), seed=seed, **(setting | changes))  # type: ignore[arg-type]


def clean(count: int, seed: int = 0) -> Row:
    return Row.of(
        Proportion(count, 1000), model="sonet-32", seed=seed, attack="none", eps=0.0, seconds=1.0, reported=0.8808
    )


def record(*rows: Row, **changes: object) -> Record:
    seeds = {one.seed for one in rows}
    cards = [
        ModelCard(model="sonet-32", seed=seed, parameters=9, epochs=1, train_seconds=3600.0, config={}, natural=0.9)
        for seed in seeds
    ]
    whole = synthetic_record(seeds=0).model_dump() | {"rows": rows, "models": cards, "planned": PLANNED, "pictures": []}
    return Record.model_validate(whole | {"title": "T", "verdict": "V."} | changes)


def shown(one: Record) -> str:
    file = io.StringIO()
    show(one, Console(file=file, width=100))
    return file.getvalue()


def test_figures_stand_beside_the_papers_with_n_seeds_and_cost() -> None:
    natural, pgd, longer, other = beside(record(clean(880), row(530), row(541, seed=1), clean(890, seed=1)))
    assert (pgd.network, pgd.attack, pgd.paper) == ("sonet-32", "PGD-20 linf 0.031", 0.5367)
    assert pgd.here == "0.535 [0.514, 0.557]"  # 1071 of 2000
    assert (pgd.n, pgd.seeds, pgd.attacking, pgd.training) == ("2000", "2", "3 min 0 s", "2 h 0 min")
    assert (natural.attack, natural.n) == ("natural", "2000")
    for line in (longer, other):
        assert (line.here, line.n, line.seeds, line.attacking) == (NOT_RUN, "", "", "")
    assert (longer.training, other.training) == ("2 h 0 min", "")
    assert other.network == "resnet10-32 (trades-6)"


def test_only_the_reference_attack_is_set_beside_the_paper() -> None:
    others = [
        row(10, reported=None, loss="margin"),
        row(20, reported=None, step_gradient="frozen"),
        row(30, reported=None, changed="random start", random_start=True),
        row(40, reported=None, attack_batch=1),
    ]
    lines = beside(record(clean(880), row(530), *others))
    assert lines[1].ours is not None
    assert lines[1].ours.right == Proportion(530, 1000)


def test_a_gap_is_told_with_its_reasons_and_agreement_is_not() -> None:
    assert gaps(record(clean(880), row(540))) == []
    (gap,) = gaps(record(clean(880), row(400)))
    assert gap.attacks == ("PGD-20 linf 0.031",)
    assert "It was short." in str(gap)
    assert "outside our interval" in str(gap)
    assert "natural" not in str(gap)


def test_rows_that_were_not_run_are_named() -> None:
    assert not_run(record(row(540))) == ["resnet10-32/trades-6"]
    assert not_run(record()) == ["sonet-32/natural", "resnet10-32/trades-6"]
    assert not_run(synthetic_record()) == []


def test_the_terminal_shows_all_of_it_in_100_columns() -> None:
    text = shown(record(clean(880), row(400), changes=["Twelve epochs."]))
    assert max(map(len, text.splitlines())) <= 100
    for expected in ("Beside the paper", "0.400 [0.370, 0.431]", "0.537", NOT_RUN, "It was short.", "Twelve epochs."):
        assert expected in text
    assert "Not run: resnet10-32/trades-6." in text
    assert "Data: scikit-learn, load_digits()." in text
    other = shown(synthetic_record())
    assert "Beside the paper" not in other
    assert "Data: scikit-learn, load_digits()." in other


def audited(**changes: object) -> Audited:
    setting = {"model": "sonet-32", "seed": 0, "threat": "linf:0.031", "verdict": "masked", "natural": 60, "plain": 32}
    more = {"worst": 4, "n": 64, "cause": "The leak.", "summary": "All <b> of it.", "seconds": 1.0}
    return Audited.model_validate(setting | more | changes)


def test_audits_are_shown_with_what_plain_and_all_attacks_leave() -> None:
    refused = {"verdict": "inconclusive", "natural": None, "plain": None, "worst": None, "seed": 1}
    one = record(row(540), audits=[audited(), audited(**refused)])
    text = shown(one)
    (line,) = [line for line in text.splitlines() if "linf:0.031" in line and "masked" in line]
    assert "0.50" in line
    assert "0.06" in line
    (line,) = [line for line in text.splitlines() if "inconclusive" in line]
    assert "0.0" not in line.replace("0.031", "")


def test_the_page_has_the_table_the_gaps_and_the_audits() -> None:
    page = render(record(clean(880), row(400), audits=[audited()], changes=["Twelve <i> epochs."]))
    for expected in ("Beside the paper", "[0.370, 0.431]", NOT_RUN, "It was short.", "Twelve &lt;i&gt; epochs."):
        assert expected in page
    assert "All &lt;b&gt; of it." in page
    assert "resnet10-32/trades-6" in page
    assert "Beside the paper" not in render(synthetic_record(seeds=1))


def test_the_page_draws_what_an_audit_names_as_the_cause() -> None:
    left = Count.of(Proportion(20, 64))
    bars = [
        Bar(factor="reference", setting="PGD-25", left=left, reference=True),
        Bar(factor="step gradient", setting="frozen", left=Count.of(Proportion(1, 64)), carries=True, note="<i> fell"),
        Bar(factor="tolerance", setting="1e-02", left=left, carries=False),
    ]
    plain = render(record(row(540), audits=[audited()]))
    page = render(record(row(540), audits=[audited(), audited(seed=1, causes=bars)]))
    assert "causes-1" not in plain
    said = "carries the overestimate", "not by itself"
    for expected in ('id="causes-1"', "sonet-32, seed 1", *said, "&lt;i&gt; fell"):
        assert expected in page
        assert expected not in plain
    assert "not decided</li>" not in page


def test_what_the_verdict_says_of_each_network_is_a_paragraph() -> None:
    text = "Masked in a. sonet-32: masked. It fell. sonet-32 (madry): no masking found; to compare, 0.5. A bound."
    rows = [clean(880), row(540), row(500, objective="madry")]
    page = render(record(*rows).model_copy(update={"verdict": text}))
    assert '<span class="verdict">Masked in a.</span>' in page
    for said in ("sonet-32: masked. It fell.", "sonet-32 (madry): no masking found; to compare, 0.5. A bound."):
        assert f'<span class="details">{said}</span>' in page


def test_a_radius_that_was_only_switched_to_is_not_the_radius_of_the_bars() -> None:
    from sonet.report.figures import bar_rows, headline
    from sonet.report.lines import panels

    far = row(100, eps=8 / 255, changed="another radius", reported=None)
    (panel,) = panels(record(clean(880), row(540), far))
    assert panel.largest == 0.031
    assert headline(panel) == "sonet-32, eps 0.031"
    assert [one["accuracy"] for one in bar_rows(panel)] == [0.88, 0.54]
    (changed,) = [line for line in panel.lines if line.changed]
    assert "another radius" in changed.label


def test_records_of_before_are_still_read() -> None:
    """Their rows know neither objectives of leaks, nor planned rows, nor what was changed."""
    raw = json.loads((OLD / "record.json").read_text())
    assert "planned" not in raw
    old = read(OLD)
    assert len(old.rows) == len(raw["rows"])
    assert {entry.objective for entry in old.leaks} == {"natural"}
    assert "Not run" not in shown(old)
    assert "0.58 [0.52, 0.63]" in shown(old)


@pytest.mark.parametrize("kept", ["clipped to the ball", "success at eps"])
def test_how_a_nearest_image_is_counted_is_said(kept: str) -> None:
    from sonet.report.lines import panels

    one = row(5, attack="deepfool", loss=None, keep=kept, changed="nearest image", reported=None)
    (panel,) = panels(record(one))
    assert panel.lines[0].label.endswith(f"nearest image, {kept}")
