"""`verify` agrees with honest evidence and finds what was tampered with; the files say what happened to each image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import Coupled, Net, labels_of, members, some_images

from sonet.attacks import Linf
from sonet.evaluation import Evaluation, evaluate, make_record, read_evidence, verify, write_evaluation
from sonet.report import RecordError, read

CLASSES = ("a", "b", "c", "d")


def evaluated(out: Path, model: Any) -> Evaluation:
    x = some_images().float()
    labels = labels_of(model, x)
    labels[2] = (labels[2] + 1) % 4
    found = evaluate(model, x, labels, Linf(0.03), members(), out=out)
    record = make_record(
        found, x, title="t", model="net", seed=0, command="c", data={}, classes=CLASSES, settings={"a": 1}
    )
    write_evaluation(found, record, out)
    return found


def judged(out: Path, model: Any, x: torch.Tensor | None = None) -> Any:
    x = some_images().float() if x is None else x
    labels = labels_of(model, some_images().float())
    labels[2] = (labels[2] + 1) % 4
    return verify(model, x, labels, read_evidence(out), 100)


def test_honest_evidence_agrees_however_it_is_judged(tmp_path: Path) -> None:
    found = evaluated(tmp_path, Net())
    seen = judged(tmp_path, Net())
    assert seen.agrees
    assert seen.recorded == found.accuracy.count
    assert [judgement.right for judgement in seen.judgements] == [found.accuracy.count] * 6


def test_batch_mates_that_matter_show(tmp_path: Path) -> None:
    evaluated(tmp_path, Coupled())
    seen = judged(tmp_path, Coupled())
    assert not seen.agrees
    assert not seen.judgements[0].disagree
    assert any(judgement.disagree for judgement in seen.judgements if judgement.how == "one at a time")


@pytest.mark.parametrize("change", ["clean", "far", "outside", "label"])
def test_tampering_shows(tmp_path: Path, change: str) -> None:
    found = evaluated(tmp_path, Net())
    file = tmp_path / "adversarial.safetensors"
    tensors = load_file(file)
    fell = int((found.fell_to >= 0).nonzero()[0])
    if change == "clean":
        tensors["adversarial"][fell] = some_images().float()[fell]
    elif change == "far":
        tensors["adversarial"][fell, 0, 0, 0] = (tensors["adversarial"][fell, 0, 0, 0] + 0.5) % 1
    elif change == "outside":
        tensors["adversarial"][fell, 0, 0, 0] = 1.01
    else:
        tensors["labels"][fell] = (tensors["labels"][fell] + 1) % 4
    save_file(tensors, file)
    seen = judged(tmp_path, Net())
    assert not seen.agrees
    if change == "clean":
        assert all(fell in judgement.disagree for judgement in seen.judgements)
    else:
        assert fell in seen.outside


def test_files_that_are_missing_or_cut_short_are_named(tmp_path: Path) -> None:
    evaluated(tmp_path, Net())
    for name in ("adversarial.safetensors", "samples.json", "setting.json"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(RecordError, match="expected the evidence of an attack"):
            read_evidence(tmp_path)
        (tmp_path / name).unlink()
        with pytest.raises(RecordError, match="expected the evidence of an attack"):
            read_evidence(tmp_path)
        (tmp_path / name).write_bytes(whole)
    with pytest.raises(RecordError, match="other images than were attacked"):
        judged(tmp_path, Net(), some_images(5).float())


def test_the_files_say_what_happened_to_each_image(tmp_path: Path) -> None:
    found = evaluated(tmp_path, Net())
    kept = json.loads((tmp_path / "samples.json").read_text())
    names = [attempt.member.name for attempt in found.attempts]
    assert kept["fell_to"][2] == "wrong without attack"
    for code, fate in zip(found.fell_to.tolist(), kept["fell_to"], strict=True):
        assert fate == (names[code] if code >= 0 else {-1: "stands", -2: "wrong without attack"}[code])
    for name in names:
        entry = kept["attacks"][name]
        assert len(entry["queries"]) == 24
        assert all((queries > 0) == tried for queries, tried in zip(entry["queries"], entry["tried"], strict=True))
    record = read(tmp_path)
    assert record.complete
    assert [row.attack for row in record.rows] == ["none", *names, "worst-case"]
    left = [row.right.count for row in record.rows[1:]]
    assert left == sorted(left, reverse=True)
    assert left[-1] == left[-2] == found.accuracy.count
    assert f"{found.accuracy.count} of 24 images stand under every attack at linf:0.03" in record.verdict
    assert "robust" not in record.verdict
    assert (tmp_path / "report.html").stat().st_size > 10_000
    minima = kept["attacks"]["fab"]["minimum"]
    assert any(value is not None for value in minima)
    units = list((tmp_path / "units").glob("*.safetensors"))
    assert len(units) == len(names)
