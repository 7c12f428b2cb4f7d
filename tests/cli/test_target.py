"""FILE.py:NAME: what it may name, what it becomes, and the sentence where it cannot be had."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from own_files import SOURCE, X, folder
from torch import nn

from sonet.cli.target import TargetError, load_target, parse_target

__all__ = ["folder"]  # a fixture


@pytest.mark.parametrize(
    "name",
    ["net", "fresh", "Net", "build", "build_some", "build_function", "predict", "predict_at", "Group.inner",
     "Group.Inner", "Group.Callable", "group.inner"],
)  # fmt: skip
def test_what_may_be_named(folder: Path, name: str) -> None:
    target = load_target(f"{folder}/net.py:{name}")
    assert target.classifier(X).shape == (3, 2)
    assert torch.equal(target.classifier(X), target.classifier(X))
    assert (target.name, target.file, target.weights) == (f"net.py:{name}", (folder / "net.py").resolve(), None)


@pytest.mark.parametrize(
    ("name", "notes"),
    [
        ("net", ()),
        ("predict", ()),
        ("build", ("It is what build() returned.",)),
        ("fresh", ("fresh was in train mode (Dropout); it is audited in eval mode, which is what is deployed.",)),
        (
            "Net",
            (
                "It is what Net() returned.",
                "Net was in train mode (Dropout); it is audited in eval mode, which is what is deployed.",
            ),
        ),
    ],
)
def test_notes_for_the_record(folder: Path, name: str, notes: tuple[str, ...]) -> None:
    target = load_target(f"{folder}/net.py:{name}")
    assert target.notes == notes
    assert not isinstance(target.classifier, nn.Module) or not any(m.training for m in target.classifier.modules())


def test_a_module_that_stays_in_train_mode_says_so(folder: Path) -> None:
    assert load_target(f"{folder}/net.py:Stubborn").notes[-1] == "eval() left in train mode: Dropout."


BAD: dict[str, tuple[str, str]] = {
    "no such name": ("net.py:Nett", r"there is no 'Nett' \(did you mean 'Net'\?\); it has Net, Wide, Stubborn"),
    "dotted": (
        "net.py:Group.iner",
        r"there is no 'iner' in Group \(did you mean 'inner'\?\); it has inner, Inner, Callable",
    ),
    "dotted into nothing": ("net.py:number.real.x", "there is no 'x' in number.real"),
    "attribute that raises": ("net.py:group.bad", "raised ZeroDivisionError: division by zero"),
    "a number": ("net.py:number", "number is a int, expected a torch.nn.Module, its class, a function that builds one"),
    "weights": ("net.py:state", "state is a OrderedDict, expected .* Weights alone are no network"),
    "class with arguments": ("net.py:Wide", "Wide needs width to be built, .* Add `def build\\(\\): return Wide"),
    "partial": ("net.py:wide", "wide needs width to be built"),
    "two arguments": ("net.py:predict_two", "predict_two needs x, y, expected images alone"),
    "builds nothing": ("net.py:build_nothing", r"build_nothing\(\) returned a NoneType, expected a torch.nn.Module"),
    "builds a class": ("net.py:build_class", r"build_class\(\) returned a type"),
    "fails to build": ("net.py:build_badly", r"line \d+: building build_badly raised IndexError: list index out of"),
    "fails in a neighbour": (
        "net.py:build_late",
        r"line \d+ \(at late.py, line 2\): building build_late raised OSError: no weights",
    ),
    "no such file": ("nett.py:Net", "nett.py: there is no such file. MODEL is the folder that"),
    "not Python": ("net.txt:Net", "got 'net.txt' before the colon, expected a Python file"),
    "no name": ("net.py", r"which of its names\? Write .*net.py:NAME; it has Net, Wide"),
    "empty name": ("net.py:", r"which of its names\? Write .*net.py:NAME; it has Net"),
    "no colon": ("netpy", "there is no such file or folder"),
    "a file of another kind": ("data.csv", "is a file of another kind"),
    "no run": ("", "got a folder without a checkpoint of a trained network"),
    "of ours": ("run", "is the folder of a run, expected FILE.py:NAME"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_had(folder: Path, case: str) -> None:
    text, said = BAD[case]
    (folder / "data.csv").write_text("")
    (folder / "run" / "epoch-0001").mkdir(parents=True)
    (folder / "run" / "epoch-0001" / "checkpoint.json").write_text("{}")
    with pytest.raises(TargetError, match=said):
        load_target(f"{folder}/{text}")


BROKEN: dict[str, tuple[str, str]] = {
    "syntax": ("x = 1\nclass Net(:\n", r"net.py, line 2: is not valid Python \(.*\): class Net\(:"),
    "no text": ("x = '\0'", "net.py.*: .*null bytes"),
    "raises": ("\n\n1 / 0\n", "net.py, line 3: importing it raised ZeroDivisionError: division by zero"),
    "raises below": ("def f():\n    assert False\nf()\n", "line 2: importing it raised AssertionError: no message"),
    "exits": ("import sys\nsys.exit(3)\n", r"line 2: importing it ended the program \(exit code 3\).*__main__"),
    "not installed": ("import nowhere_at_all\n", "raised ModuleNotFoundError: .*PYTHONPATH"),
    "relative": ("from .layers import SCALE\n", "line 1: .*A file imported by its path is in no package"),
    "neighbour": ("import broken\n", "broken.py, line 1: is not valid Python"),
    "nothing in it": ("", "there is no 'Net'."),
    "only imports": ("from torch.nn import Linear\n", "there is no 'Net'; it has Linear"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_cannot_be_imported(folder: Path, case: str) -> None:
    source, said = BROKEN[case]
    (folder / "net.py").write_text(source)
    (folder / "broken.py").write_text("def\n")
    before = set(sys.modules)
    with pytest.raises(TargetError, match=said):
        load_target(f"{folder}/net.py:Net")
    if case not in ("nothing in it", "only imports"):
        assert not [name for name in set(sys.modules) - before if name.startswith("sonet_audits_")]


def test_what_a_file_prints_is_not_the_answer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_target(f"{folder}/net.py:net")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "hello\n")


def test_reading_the_names_does_not_run_the_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TargetError):
        load_target(f"{folder}/net.py")
    assert capsys.readouterr() == ("", "")


def test_files_of_one_name_and_their_neighbours_do_not_mix(tmp_path: Path, folder: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "net.py").write_text(SOURCE)
    (other / "layers.py").write_text("SCALE = 0.0\n")
    first, second, again = (load_target(f"{place}/net.py:net") for place in (folder, other, folder))
    assert bool(first.classifier(X).any())
    assert not bool(second.classifier(X).any())
    assert bool(again.classifier(X).any())
    modules = {type(target.classifier).__module__ for target in (first, second, again)}
    assert len(modules) == 3
    assert all(name in sys.modules for name in modules)


def test_a_run_and_a_file_are_told_apart(folder: Path) -> None:
    (folder / "checkpoint.json").write_text("{}")
    assert parse_target(str(folder)) == folder
    assert parse_target("some/net.py:Net.inner") == (Path("some/net.py"), "Net.inner")


def test_what_must_be_the_same_to_go_on(folder: Path) -> None:
    target = load_target(f"{folder}/net.py:net")
    about = target.about
    assert about["model"] == f"{folder.resolve()}/net.py:net"
    (folder / "net.py").write_text(SOURCE + "\n")
    assert target.about != about
