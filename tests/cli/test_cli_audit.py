"""`sonet audit` as it is typed: exit codes, what is printed and written, what is refused with one sentence."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_runner import Ended, Runner, seen
from safetensors.torch import save_file

from sonet.attacks import predict
from sonet.audit import EXIT_CODES
from sonet.data import load
from sonet.report import AuditRecord, read_audit
from sonet.training import load_model

EPS = 0.1
SURE, CLOSE = 8, 8
"""Images whose halves differ by 0.6 and by 0.15. A radius of EPS moves the difference by 0.2: it fells the second."""
SOURCE = '''
"""Classifiers of images of 4 x 4: is the left half brighter, or the right?"""
import time
import torch
from torch import nn

class Halves(nn.Module):
    def __init__(self, scale=20.0):
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.zeros(16))
    def forward(self, x):
        difference = self.scale * x.flatten(1) @ self.weight
        return torch.stack((-difference, difference), 1)

def halves(scale=20.0):
    model = Halves(scale)
    columns = torch.arange(16) % 4
    model.weight.data = torch.where(columns < 2, -1.0, 1.0) / 8
    return model.eval()

linear = halves()
scaled = halves(1e4)
mlp = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)).eval()
with torch.no_grad():
    mlp[1].weight.copy_(torch.eye(16))
    mlp[1].bias.zero_()
    mlp[3].weight.copy_(torch.stack((-20 * linear.weight, 20 * linear.weight)))
    mlp[3].bias.zero_()
several = nn.Sequential(halves(), nn.Unflatten(1, (2, 1))).eval()
stream = torch.Generator().manual_seed(0)

def rounded(x):
    return linear((50 * x).round() / 50)

def noisy(x):
    return linear(x) + 4 * torch.randn(len(x), 2, generator=stream)

def slow(x):
    time.sleep(0.03)
    return linear(x)

def chatty(x):
    print("asked for", len(x))
    return linear(x)

def not_alone(x):
    if len(x) == 1:
        raise ValueError("one image")
    return linear(x)

wide = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
'''


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with own.py and two.npz to work in."""
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(SOURCE)
    labels = np.arange(SURE + CLOSE) % 2
    gap = np.where(np.arange(SURE + CLOSE) // 2 < SURE // 2, 0.6, 0.15) * np.where(labels == 1, 1, -1)
    side = np.where(np.arange(4) < 2, -0.5, 0.5)
    images = np.broadcast_to(0.5 + gap[:, None, None] * side, (SURE + CLOSE, 4, 4))
    grey = (images * 255).round().astype(np.uint8)
    np.savez("two.npz", x_train=grey, y_train=labels, x_test=grey, y_test=labels)


@pytest.fixture
def unpainted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without figures: drawing takes time."""
    monkeypatch.setattr("sonet.report.audit_page.render_audit", lambda record: f"page of {record.title}")


def audit(run: Runner, name: str, *more: Any) -> Ended:
    words = ["--data", "two.npz", "--threat", f"linf:{EPS}", "--quick", "--images", 16]
    return run("audit", f"own.py:{name}", *words, *more)


@pytest.mark.usefixtures("unpainted")
@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_a_plain_model_is_left_alone(run: Runner, name: str) -> None:
    ended = audit(run, name, "--out", "found")
    assert ended.code == 0, ended.err
    record = read_audit("found")
    assert record.verdict == "no masking found"
    assert (record.plain.count, record.worst.count, record.worst.n) == (SURE, SURE, SURE + CLOSE)
    assert "No masking found." in ended.out
    assert "no proof" in ended.out
    assert Path("found/report.html").read_text() == f"page of own.py:{name} at linf:0.1"


@pytest.mark.usefixtures("unpainted")
@pytest.mark.parametrize(
    ("name", "raised"),
    [("scaled", ["scaled-output", "zero-gradients", "other-loss"]), ("rounded", ["zero-gradients", "gradient-free"])],
)
def test_a_masked_model_exits_with_3(run: Runner, name: str, raised: list[str]) -> None:
    ended = audit(run, name, "--out", "found")
    assert ended.code == 3, ended.err
    record = read_audit("found")
    assert (record.verdict, record.plain.count) == ("masked", SURE + CLOSE)
    assert record.worst.count == SURE
    assert record.decisive[0] == "overestimate"
    found = {finding.name for finding in record.findings if finding.raised}
    assert {"overestimate", *raised} <= found
    assert any(bar.carries for bar in record.causes)
    assert ended.out.startswith("Masked.")


@pytest.mark.usefixtures("unpainted")
def test_random_answers_are_never_passed(run: Runner) -> None:
    ended = audit(run, "noisy", "--out", "found")
    record = read_audit("found")
    assert ended.code == EXIT_CODES[record.verdict]
    assert ended.code in (3, 4), record.summary
    assert next(finding for finding in record.findings if finding.name == "randomness").raised


def test_json_is_the_record_alone_and_the_page_is_whole(run: Runner) -> None:
    """Whatever the model's own code prints."""
    ended = audit(run, "chatty", "--json", "--out", "found")
    assert ended.code == 0, ended.err
    record = AuditRecord.model_validate_json(ended.out)
    assert record == read_audit("found")
    assert "asked for 16" in ended.err
    assert sorted(path.name for path in Path("found").iterdir()) == ["audit.json", "report.html"]
    page = Path("found/report.html").read_text()
    assert "No masking found" in page
    assert page.rstrip().endswith("</html>")
    assert record.command.startswith("sonet audit own.py:chatty --data two.npz")


@pytest.mark.usefixtures("unpainted")
def test_time_that_does_not_suffice_leaves_it_open(run: Runner) -> None:
    ended = audit(run, "slow", "--budget", "1s", "--out", "found")
    assert ended.code == 4, ended.out
    record = read_audit("found")
    assert set(record.decisive) <= {finding.name for finding in record.findings}
    assert "the budget of 1 s was spent" in record.not_run["pgd"]
    assert record.seconds < 5


@pytest.mark.usefixtures("unpainted")
def test_attacks_transfer_from_a_backbone(run: Runner) -> None:
    """The undefended network's gradient fells what the rounding hides."""
    ended = audit(run, "rounded", "--backbone", "own.py:linear", "--out", "found")
    assert ended.code == 3, ended.err
    record = read_audit("found")
    transfer = next(finding for finding in record.findings if finding.name == "backbone-transfer")
    stage = next(stage for stage in record.stages if stage.name == "apgd-backbone")
    assert transfer.raised
    assert (stage.tried, stage.fell, stage.standing) == (SURE + CLOSE, CLOSE, SURE)
    assert record.settings["backbone"] == "own.py:linear"


@pytest.mark.usefixtures("unpainted")
def test_weights_from_a_file_and_what_to_type_next(run: Runner) -> None:
    save_file({"weight": torch.where(torch.arange(16) % 4 < 2, -1.0, 1.0) / 8}, "halves.safetensors")
    more = ["--weights", "halves.safetensors", "--batch-size", 8, "--out", "found"]
    ended = audit(run, "Halves", *more)
    assert ended.code == 0, ended.err
    record = read_audit("found")
    assert record.natural.count == SURE + CLOSE
    assert "It is what Halves() returned." in ended.err
    assert record.settings["notes"][0] == "It is what Halves() returned."
    words = shlex.split(record.next_command)
    assert words[:3] == ["sonet", "audit", "own.py:Halves"]
    told = dict(zip(words[3::2], words[4::2], strict=True))
    assert told == {
        "--threat": f"linf:{EPS}",
        "--data": "two.npz",
        "--weights": "halves.safetensors",
        "--batch-size": "8",
    }


@pytest.mark.usefixtures("unpainted")
@pytest.mark.parametrize("name", ["resnet", "fixed"])
def test_a_run_of_ours(run: Runner, trained: Path, name: str) -> None:
    ended = run("audit", trained / name, "--threat", "linf:0.1", "--quick", "--images", 8, "--json")
    record = AuditRecord.model_validate_json(ended.out)
    assert ended.code == EXIT_CODES[record.verdict], ended.err
    assert read_audit(f"runs/audit-{name}-linf-0.1") == record
    test = load(trained / "three.npz").test.take(8)
    right = predict(load_model(trained / name), test.images, 8) == test.labels
    assert (record.natural.count, record.natural.n) == (int(right.sum()), 8)
    assert (record.matrix is not None) == (name == "fixed")
    assert shlex.split(record.next_command)[2] == str(trained / name)


@pytest.mark.usefixtures("unpainted")
def test_an_audit_may_be_made_anew_in_its_own_folder(run: Runner) -> None:
    assert audit(run, "linear", "--out", "found").code == 0
    before = seen(Path("found"))
    assert audit(run, "scaled", "--out", "found").code == 3
    assert {name for name, what in seen(Path("found")).items() if what != before[name]} == {"audit.json", "report.html"}


@pytest.mark.parametrize(
    ("name", "more", "word"),
    [
        ("several", [], "expected logits (16, classes). Return logits.flatten(1)."),
        ("not_alone", [], "a batch of 1 fails where one of 16 does not"),
        ("Halves", [], "so would 1 of 20 who guess among 2 classes"),
        ("linaer", [], "there is no 'linaer' (did you mean 'linear'?)"),
        ("linear", ["--weights", "no.safetensors"], "no.safetensors: there is no such file"),
        ("linear", ["--backbone", "own.py:wide"], "--backbone own.py:wide: got 3 classes, expected 2"),
        ("linear", ["--backbone", "own.py:not_there"], "there is no 'not_there'"),
        ("linear", ["--out", "mine"], "mine is not empty and holds no audit.json"),
        ("linear", ["--out", "own.py/found"], "own.py is a file, expected a folder"),
    ],
)
def test_what_cannot_be_audited_is_one_sentence(run: Runner, name: str, more: list[str], word: str) -> None:
    Path("mine").mkdir()
    Path("mine/letter.txt").write_text("mine")
    before = {path for path in Path().rglob("*") if "__pycache__" not in path.parts}
    ended = audit(run, name, *more)
    assert ended.code == 2, ended.err
    (line,) = ended.err.strip().split("\n")
    assert line.startswith("sonet: ")
    assert word in line
    assert not ended.out
    assert {path for path in Path().rglob("*") if "__pycache__" not in path.parts} == before
