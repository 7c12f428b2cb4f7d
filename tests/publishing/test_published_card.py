"""The card: every figure from the checkpoint or a record, "Not measured" for the rest, and text that stays text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from trained_digits import about, attacked, audited, certified, kept, reproduced

from sonet.publishing import PublicationError, publish
from sonet.publishing.card import render_card, without_places
from sonet.publishing.config import PublicConfig
from sonet.publishing.publication import read_publication
from sonet.report import AuditRecord, CertificateRecord, Record, Row
from sonet.report.planned import Audited
from sonet.training import load_checkpoint
from sonet.types import Proportion

WORDS = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)


@pytest.fixture(scope="session")
def config(published: Path) -> PublicConfig:
    return read_publication(published).description


def render(config: PublicConfig, *records: Record | AuditRecord | CertificateRecord, **more: Any) -> str:
    return render_card(config, records, **({"name": "mine", "parameters": 123} | more))


def front(card: str) -> dict[str, Any]:
    said = yaml.safe_load(card.split("---\n")[1])
    assert isinstance(said, dict)
    return said


def section(card: str, title: str) -> str:
    return card.split(f"\n## {title}\n")[1].split("\n## ")[0]


def cells(text: str) -> list[list[str]]:
    """The rows of Markdown tables, without their heads: split at every | that no backslash precedes."""
    found = []
    for line in text.splitlines():
        if line.startswith("|"):
            found.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    rules = [i for i, row in enumerate(found) if set("".join(row)) == {"-"}]
    return [row for i, row in enumerate(found) if i not in rules and i + 1 not in rules]


def unescaped(text: str) -> str:
    return re.sub(r"\\([^\w\s])|\\(_)", lambda found: found[1] or found[2], text)


def measured(n: int, value: float, low: float, high: float) -> tuple[str, ...]:
    return (str(n), f"{value:.3f}", f"[{low:.3f}, {high:.3f}]")


def test_without_records_only_the_checkpoint_speaks(run: Path, config: PublicConfig) -> None:
    card = render(config)
    right = Proportion(round(500 * load_checkpoint(run).description.history[-1].test_accuracy), 500)
    assert cells(section(card, "Natural accuracy")) == [
        ["digits", *measured(500, right.value, *right.interval), "0", "the run's checkpoint"]
    ]
    for title in ("Accuracy under attack", "Audit", "Certified accuracy"):
        assert section(card, title).strip() == "Not measured."
    assert "license" not in front(card)
    assert "Not measured: accuracy under attack, the audit, certified accuracy." in section(card, "Limits")
    figures = [metric["value"] for result in front(card)["model-index"][0]["results"] for metric in result["metrics"]]
    assert figures == [right.value]


def test_without_any_figure(config: PublicConfig) -> None:
    card = render(config.model_copy(update={"trained": config.trained.model_copy(update={"test_accuracy": None})}))
    assert section(card, "Natural accuracy").strip() == "Not measured."
    assert "model-index" not in front(card)
    assert "metrics" not in front(card)


def test_a_test_accuracy_of_other_images_is_not_quoted(config: PublicConfig) -> None:
    """0.971 is no whole number of 500 images by chance of float32: nobody knows its n."""
    card = render(config.model_copy(update={"trained": config.trained.model_copy(update={"test_accuracy": 0.9711})}))
    assert section(card, "Natural accuracy").strip() == "Not measured."


def test_every_record_has_its_section(run: Path, config: PublicConfig) -> None:
    card = render(config, attacked(run), audited(run), certified(run), license="mit")
    attack = cells(section(card, "Accuracy under attack"))
    assert [row[:2] + row[3:7] for row in attack] == [
        ["PGD-20, CE", "linf:0.1", *measured(100, 0.4, *Proportion(40, 100).interval), "0"]
    ]
    assert "is an upper bound: a stronger attack may leave less." in section(card, "Accuracy under attack")
    audit = section(card, "Audit")
    assert "Masked." in audit
    assert "Plain attacks leave 64 of 100 images, all attacks 2." in audit
    assert [row[4] for row in cells(audit)] == ["0.970", "0.640", "0.020"]
    assert "seed 7 of the attacks" in audit
    curve = cells(section(card, "Certified accuracy"))
    assert [(row[0], row[3], row[5]) for row in curve] == [("l2:0", "0.950", "-"), ("l2:0.25", "0.675", "0.875")]
    assert [row[2] for row in cells(section(card, "Natural accuracy"))][1:] == ["0.900", "0.970", "0.950"]
    assert "Not measured" not in card
    assert front(card)["license"] == "mit"


def test_of_an_experiment_only_this_network(run: Path, config: PublicConfig) -> None:
    card = render(config, reproduced(run))
    assert [row[4] for row in cells(section(card, "Accuracy under attack"))] == ["0.140"]
    assert "resnet10" not in card


def test_of_an_experiment_the_command_is_that_of_this_network_s_row(run: Path, config: PublicConfig) -> None:
    table = reproduced(run)
    mine = table.models[-1]
    for typed in ("sonet reproduce t --seeds 2", "sonet reproduce t --only a/b --seeds 2 --only c/d"):
        card = render(config, table.model_copy(update={"command": typed}))
        assert f"sonet reproduce t --seeds 2 --only {mine.model}/{mine.objective}" in card
        assert "c/d" not in card


def test_an_audit_within_a_table_is_told_as_one(run: Path, config: PublicConfig) -> None:
    table = reproduced(run)
    mine = table.models[-1]
    known: dict[str, Any] = {"model": mine.model, "objective": mine.objective, "seed": mine.seed}
    known |= {"threat": "linf:0.1", "n": 64, "seconds": 1.0}
    found = Audited(**known, verdict="masked", natural=60, plain=48, worst=16, cause="The step.", summary="48, all 16.")
    others = [found.model_copy(update={"model": "resnet10", "plain": 0}), found.model_copy(update={"seed": 99})]
    card = render(config, table.model_copy(update={"audits": [*others, found]}))
    audit = section(card, "Audit")
    assert audit.count("Masked.") == 1
    assert "48, all 16." in audit
    assert "The step." in audit
    assert [row[4] for row in cells(audit)] == ["0.938", "0.750", "0.250"]
    assert "the audit" not in section(card, "Limits")
    assert [row[2] for row in cells(section(card, "Natural accuracy"))][-1] == "0.938"
    refused = found.model_copy(update={"natural": None, "plain": None, "worst": None, "verdict": "inconclusive"})
    assert not cells(section(render(config, table.model_copy(update={"audits": [refused]})), "Audit"))


def test_verdicts_are_the_audit_s_and_never_another_word(run: Path, config: PublicConfig) -> None:
    for verdict, said in (
        ("masked", "Masked."),
        ("no masking found", "No masking found."),
        ("inconclusive", "Inconclusive."),
    ):
        card = render(config, audited(run, verdict=verdict))
        assert f"\n{said}\n" in section(card, "Audit")
        assert "robust" not in card.lower()
        assert ("Passing is no proof" in card) == (verdict == "no masking found")


def test_an_incomplete_record_says_so(run: Path, config: PublicConfig) -> None:
    assert "marked incomplete" in render(config, attacked(run, complete=False))
    assert "marked incomplete" not in render(config, attacked(run))


def test_shared_steps_are_a_limit(config: PublicConfig) -> None:
    own = config.model | {"solver": config.model["solver"] | {"scope": "sample"}}
    assert "shared within a batch" in section(render(config), "Limits")
    assert "shared" not in section(render(config.model_copy(update={"model": own})), "Limits")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(1, 2000), st.data(), st.sampled_from(["linf", "l2"])), min_size=1, max_size=5))
def test_every_number_of_tables_and_metadata_is_a_record_s(
    run: Path, config: PublicConfig, drawn: list[tuple[int, Any, str]]
) -> None:
    rows = [Row.of(Proportion(1, 3), model="sonet", seed=0, attack="none", eps=0.0, seconds=0.0)]
    for number, (n, data, norm) in enumerate(drawn, start=1):
        right = Proportion(data.draw(st.integers(0, n)), n)
        eps = data.draw(st.floats(0.001, 2.0))
        rows.append(
            Row.of(right, model="sonet", seed=0, attack="pgd", eps=eps, norm=norm, steps=number, seconds=1.0)  # type: ignore[arg-type]
        )
    card = render(config, attacked(run, rows=rows))
    expected = {measured(row.n, row.accuracy, row.low, row.high) for row in rows[1:]}
    shown = cells(section(card, "Accuracy under attack"))
    assert {tuple(row[3:6]) for row in shown} == expected
    assert {row[1] for row in shown} == {f"{row.norm}:{row.eps:.6g}" for row in rows[1:]}
    metrics = [m for result in front(card)["model-index"][0]["results"] for m in result["metrics"]]
    told = {(m["args"]["n"], m["value"], m["args"]["low"], m["args"]["high"]) for m in metrics}
    trained = Proportion(round(500 * (config.trained.test_accuracy or 0)), 500)
    records = {(row.n, row.accuracy, row.low, row.high) for row in rows}
    assert told == records | {(500, trained.value, *trained.interval)}
    assert all("(an upper bound)" in m["name"] for m in metrics if "threat" in m["args"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(WORDS, WORDS, WORDS)
@example("a\x85b", "", "")
@example("\x85", "\u2028", "\u2029")
def test_text_of_records_stays_text(run: Path, config: PublicConfig, title: str, note: str, data: str) -> None:
    row = Row.of(
        Proportion(1, 2), model="sonet", seed=0, attack="pgd", eps=0.1, norm="linf", steps=1, seconds=1.0, note=note
    )
    card = render(config, attacked(run, title=title, rows=[row], data={"name": data}), name=title)
    shown = cells(section(card, "Accuracy under attack"))
    assert len(shown) == 1
    assert len(shown[0]) == 8
    assert unescaped(shown[0][7]) == " ".join(note.split())
    assert unescaped(shown[0][2]) == " ".join(data.split())
    assert front(card)["model-index"][0]["name"] == title
    assert front(card)["model-index"][0]["results"][1]["metrics"][0]["args"]["source"] == title
    assert len(re.findall(r"^## ", card, re.MULTILINE)) == 8


def test_markup_in_a_record_is_shown_not_obeyed(run: Path, config: PublicConfig) -> None:
    card = render(config, attacked(run, verdict="<script>x</script> [a](b) | `c` *d* n_test _e_"))
    assert r"\<script\>x\</script\> \[a\](b) \| \`c\` \*d\* n_test \_e\_" in card


@pytest.mark.parametrize("license", ["MIT", "", "apache 2", "mit\nx: y"])
def test_a_license_is_an_identifier(config: PublicConfig, license: str) -> None:
    with pytest.raises(PublicationError, match="expected an identifier of the hub"):
        render(config, license=license)


def test_the_hub_s_own_reader_understands_it(run: Path, config: PublicConfig) -> None:
    hub = pytest.importorskip("huggingface_hub")
    read = hub.ModelCard(render(config, attacked(run), audited(run), certified(run), license="mit")).data
    assert (read.library_name, read.license, read.datasets) == ("sonet", "mit", ["digits"])
    found = {(one.metric_name, one.metric_value) for one in read.eval_results}
    assert ("PGD-20, CE at linf:0.1 (an upper bound)", 0.4) in found
    assert ("certified at l2:0.25", 0.675) in found


def test_commands_lose_the_places_of_the_machine(run: Path, config: PublicConfig) -> None:
    said = "sonet attack /home/me/runs/x --out=/data/me/y --data-dir ~/z --data ../few.npz --threat linf:8/255 runs/w"
    assert without_places(said) == "sonet attack x --out=y --data-dir z --data few.npz --threat linf:8/255 runs/w"
    assert without_places("sonet attack 'unclosed") == ""
    card = render(config, attacked(run))
    assert "somebody" not in card
    assert str(run.parent) not in card


def test_a_record_is_given_once(run: Path, tmp_path: Path) -> None:
    one = kept(attacked(run), tmp_path / "one")
    with pytest.raises(PublicationError, match="given before, expected each once"):
        publish(run, tmp_path / "out", [one, one / "record.json"])
    assert not (tmp_path / "out").exists()
    two = kept(attacked(run, eps=0.2, settings=about(run)), tmp_path / "two")
    assert publish(run, tmp_path / "out", [one, two]).card.count("PGD-20, CE | linf:") == 2
