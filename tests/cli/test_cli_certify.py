"""`sonet certify` as it is typed: what is printed and written, and what gets no certificate but one sentence."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runner import BATCH, Ended, Runner, seen, write_npz, write_three
from safetensors.torch import save_file

from sonet.blocks.stability import stability
from sonet.certificate import CertificateBroken, certify
from sonet.cli import main
from sonet.cli.certify import default_radii, parse_radii
from sonet.data import load
from sonet.report import CertificateRecord, read_certificate
from sonet.training import load_checkpoint, load_model

MARGIN = ["--objective", "margin", "--threat", "l2:0.2", "--epochs", "2"]
SHAPE = ["--set", "model.channels=8", "--set", "model.blocks=[1]", "--set", "model.strides=[2]"]
SOURCE = """
import torch
from torch import nn

torch.manual_seed(0)
chain = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3)).eval()

class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.flat, self.head = nn.Flatten(), nn.Linear(64, 3)
    def forward(self, x):
        return self.head(self.flat(x))
    def path(self):
        return [("flat", self.flat), ("head", self.head)]

class Liar(Own):
    def forward(self, x):
        return 2 * super().forward(x)

own, liar, pathless = Own().eval(), Liar().eval(), nn.Linear(8, 3).eval()
curved = nn.Sequential(nn.Flatten(), nn.Tanh(), nn.Linear(64, 3)).eval()
small = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
narrow = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).eval()

def function(x):
    print("asked")
    return own(x)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained stable network, its data three.npz, and own.py. Nobody writes into it."""
    folder = tmp_path_factory.mktemp("certified")
    data = write_three(folder / "three.npz")
    (folder / "own.py").write_text(SOURCE)
    words = ["train", "stable-sonet", *SHAPE, *BATCH, *MARGIN, "--data", str(data), "--out", str(folder / "stable")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["sonet", *words])
        with pytest.raises(SystemExit, match="0"):
            main()
    return folder


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def unpainted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without figures: drawing takes time."""
    monkeypatch.setattr("sonet.report.certificate_page.render_certificate", lambda record: f"page of {record.title}")


def own(run: Runner, home: Path, name: str, *more: Any) -> Ended:
    return run("certify", f"{home / 'own.py'}:{name}", "--data", home / "three.npz", "--attack", "none", *more)


def test_train_with_margin_then_certify(run: Runner, tmp_path: Path) -> None:
    data = write_three(tmp_path / "three.npz")
    words = [*SHAPE, *BATCH, *MARGIN, "--epochs", 1, "--limit-train", 30, "--data", data, "--out", "runs/stable"]
    trained = run("train", "stable-sonet", *words)
    assert trained.code == 0, trained.err
    assert "trained with margin at l2:0.2: test accuracy" in trained.out
    assert trained.out.rstrip().endswith("Next: sonet certify runs/stable")
    description = load_checkpoint(Path("runs/stable")).description
    assert (description.training.objective, description.training.optimizer) == ("margin", "adamw")
    assert description.model["image_size"] == [8, 8]
    ended = run("certify", "runs/stable", "--radii", "0.1,0.4", "--images", 3)
    assert ended.code == 0, ended.err
    folder = Path("runs/stable-certify-l2")
    assert "Wrote runs/stable-certify-l2/certificate.json and runs/stable-certify-l2/report.html." in ended.out
    assert max(map(len, ended.out.splitlines()[:-1])) <= 100
    assert {path.name for path in folder.iterdir()} == {"certificate.json", "evidence", "report.html"}
    record = read_certificate(folder)
    assert (record.norm, record.attack, record.model, len(record.images)) == ("l2", "quick", "stable", 3)
    assert [point.eps for point in record.curve] == [0.0, 0.1, 0.4]
    assert all((point.attacked is None) == (point.eps == 0) for point in record.curve)
    assert record.command == "sonet certify runs/stable --radii 0.1,0.4 --images 3"
    assert record.settings["radii"] == [0.0, 0.1, 0.4]
    assert (folder / "report.html").read_text().rstrip().endswith("</html>")
    test = load(data).test.take(3)
    alone, bound = certify(load_model(Path("runs/stable")), test.images, test.labels, "l2")
    assert [image.radius for image in record.images] == alone.radii.tolist()
    assert record.gap == bound.largest

    shown = run("report", folder)
    assert shown.code == 0, shown.err
    assert shown.out == ended.out[: ended.out.rindex("Wrote ")]
    assert json.loads(run("report", folder, "--json").out) == json.loads((folder / "certificate.json").read_text())


@pytest.mark.usefixtures("unpainted")
def test_json_is_the_record_alone(run: Runner, home: Path) -> None:
    ended = run("certify", home / "stable", "--radii", "0.2", "--images", 4, "--json", "--out", "found", "--seed", 3)
    assert ended.code == 0, ended.err
    record = CertificateRecord.model_validate_json(ended.out)
    assert record == read_certificate("found")
    assert record.settings["seed"] == 3
    assert Path("found/report.html").read_text() == "page of stable: certified against l2"


@pytest.mark.usefixtures("unpainted")
def test_without_attacks_nothing_but_the_certificate_is_made(run: Runner, home: Path) -> None:
    ended = run("certify", home / "stable", "--attack", "none", "--norm", "linf")
    assert ended.code == 0, ended.err
    folder = Path("runs/stable-certify-linf")
    assert sorted(path.name for path in folder.iterdir()) == ["certificate.json", "report.html"]
    record = read_certificate(folder)
    assert (record.norm, record.attack, len(record.images)) == ("linf", "none", 24)
    assert all(point.attacked is None for point in record.curve)
    assert len(record.curve) == 11
    assert "The worst of" not in ended.out


@pytest.mark.usefixtures("unpainted")
def test_the_same_command_goes_on_and_other_seeds_want_another_folder(run: Runner, home: Path) -> None:
    words = ["certify", home / "stable", "--radii", "0.2", "--images", 4, "--out", "found"]
    assert run(*words).code == 0
    before = seen(Path("found"))
    first = read_certificate("found")
    assert run(*words).code == 0
    changed = {name for name, what in seen(Path("found")).items() if what != before[name]}
    assert changed <= {"certificate.json", "report.html"}
    again = read_certificate("found")
    assert again.images == first.images
    assert [point.attacked for point in again.curve] == [point.attacked for point in first.curve]
    ended = run(*words, "--seed", 1)
    assert ended.code == 2
    assert "holds another experiment" in ended.err


# Networks of files


@pytest.mark.usefixtures("unpainted")
@pytest.mark.parametrize(("name", "layers"), [("chain", ["0", "1", "2", "3"]), ("own", ["flat", "head"])])
def test_a_network_from_a_file(run: Runner, home: Path, name: str, layers: list[str]) -> None:
    ended = own(run, home, name, "--out", "found")
    assert ended.code == 0, ended.err
    record = read_certificate("found")
    assert [layer.name for layer in record.layers] == layers
    assert record.model == f"own.py:{name}"


@pytest.mark.usefixtures("unpainted")
def test_weights_from_a_file_are_those_certified(run: Runner, home: Path) -> None:
    weight = torch.zeros(3, 64)
    weight[0, 0] = 1
    save_file({"head.weight": weight, "head.bias": torch.tensor([0.0, 5.0, 0.0])}, "w.safetensors")
    ended = own(run, home, "Own", "--weights", "w.safetensors", "--out", "found")
    assert ended.code == 0, ended.err
    record = read_certificate("found")
    assert record.gap == pytest.approx(1.0, rel=1e-6)
    assert {image.label for image in record.images if image.radius >= 0} == {1}


REFUSED: dict[str, tuple[list[Any], str]] = {
    "a function": (["own.py:function"], "own.py:function is a function, expected a torch.nn.Module"),
    "a path that lies": (["own.py:liar"], "Liar: its path() is not what it computes"),
    "no path": (["own.py:pathless"], "Linear does not say in which order its layers come. Give it a method path()"),
    "a layer without a bound": (["own.py:curved"], "1 has no bound, so the network has none. Tanh: no bound is known"),
    "no such name": (["own.py:chian"], "there is no 'chian' (did you mean 'chain'?)"),
    "radii without any": (["stable", "--radii", "0"], "--radii: got '0', expected radii above 0 with commas"),
    "radii of nothing": (["stable", "--radii", ","], "--radii: got ',', expected radii above 0"),
    "radii of words": (["stable", "--radii", "0.1,far"], "eps: got 'far', expected a number such as 0.031"),
    "a negative radius": (["stable", "--radii", "0.1,-0.2"], "eps: got -0.2, expected a finite number >= 0"),
    "an endless radius": (["stable", "--radii", "inf"], "eps: got inf"),
    "a folder with other things": (["stable", "--out", "mine"], "mine is not empty and holds no certificate.json"),
    "a file as folder": (["stable", "--out", "letter.txt"], "letter.txt is a file, expected a folder for the certific"),
    "weights for a run": (["stable", "--weights", "w.safetensors"], "--weights: a run has its own weights"),
    "other images": (["stable", "--data", "wide.npz"], "images of 12 x 12 pixels, which this network cannot take"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_gets_no_certificate_is_one_sentence(run: Runner, home: Path, case: str) -> None:
    (name, *more), word = REFUSED[case]
    Path("mine").mkdir()
    Path("mine/letter.txt").write_text("mine")
    Path("letter.txt").write_text("mine")
    few = load("digits").train.take(30)
    large = torch.nn.functional.pad(few.images[:, 0], (2, 2, 2, 2))
    write_npz(Path("wide.npz"), **{f"x_{which}": (240 * large).to(torch.uint8).numpy() for which in ("train", "test")})
    before = seen(Path())
    if ":" in name:
        more = ["--data", home / "three.npz", *more]
    ended = run("certify", home / name, *more)
    assert ended.code == 2, ended.err
    line = ended.err.strip().split("\n")[-1]
    assert line.startswith("sonet: ")
    assert word in line
    assert "Traceback" not in ended.err
    assert not ended.out
    assert seen(Path()) == before


@pytest.mark.parametrize(("name", "why"), [("paper", "daptive steps depend on"), ("fixed", "SkewConv with GroupNorm")])
def test_the_paper_s_network_is_refused_as_json_with_the_reason_alone(
    run: Runner, trained: Path, name: str, why: str
) -> None:
    ended = run("certify", trained / name, "--json")
    assert (ended.code, ended.out) == (2, "")
    (line,) = ended.err.strip().split("\n")
    assert line.startswith("sonet: first has no bound, so the network has none. ")
    assert why in line


def test_else_after_a_table_of_what_is_known_of_its_blocks(
    run: Runner, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sonet.blocks.stability.stability", partial(stability, rounds=2))
    ended = run("certify", trained / "paper")
    assert (ended.code, ended.out) == (2, "")
    lines = ended.err.strip().split("\n")
    assert lines[-1].startswith("sonet: first has no bound")
    blocks = [line.split()[0] for line in lines if line.startswith(("first", "stages", "head"))]
    assert blocks == ["first", "stages.0.0", "head"]
    assert not Path("runs").exists()


@pytest.mark.usefixtures("unpainted")
def test_a_network_that_was_not_trained_for_it_gets_what_little_there_is(run: Runner, trained: Path) -> None:
    ended = run("certify", trained / "resnet", "--attack", "none", "--json", "--out", "found")
    assert ended.code == 0, ended.err
    record = CertificateRecord.model_validate_json(ended.out)
    assert record.gap > 1
    assert len(record.curve) == 11


def test_a_certificate_that_is_disproved_is_no_mistake_of_the_user_s(
    run: Runner, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise CertificateBroken("image 3 is certified up to 1 and pgd fooled the network at 0.5")

    monkeypatch.setattr("sonet.certificate.certify_model", broken)
    ended = run("certify", home / "stable", "--radii", "0.1", "--out", "found")
    assert ended.code == 1
    assert "sonet: image 3 is certified up to 1 and pgd fooled the network at 0.5" in ended.err
    assert not Path("found/certificate.json").exists()


@pytest.mark.parametrize("name", ["small", "narrow"])
def test_a_network_of_a_file_that_cannot_take_the_images_is_one_sentence(run: Runner, home: Path, name: str) -> None:
    ended = own(run, home, name)
    assert ended.code == 2
    assert len(ended.err.strip().split("\n")) == 1


# The radii of the curve


@pytest.mark.parametrize(
    ("text", "radii"),
    [("0.5,0.25", [0.0, 0.25, 0.5]), ("0.1, 0.1 ,0", [0.0, 0.1]), ("8/255,", [0.0, 8 / 255]), ("1", [0.0, 1.0])],
)
def test_radii_are_in_order_with_zero_first(text: str, radii: list[float]) -> None:
    assert parse_radii(text) == radii


def test_radii_by_themselves_reach_to_where_hardly_an_image_is_certified(home: Path) -> None:
    model, test = load_model(home / "stable"), load(home / "three.npz").test
    for norm in ("l2", "linf"):
        grid = default_radii(model, test, norm)  # type: ignore[arg-type]
        radii = certify(model, test.images, test.labels, norm)[0].radii  # type: ignore[arg-type]
        assert len(grid) == 11
        assert grid[0] == 0
        assert grid == sorted(set(grid))
        assert float((radii > grid[-1]).double().mean()) <= 0.05
        assert float(radii.max()) > grid[3]
