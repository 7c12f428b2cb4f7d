"""The self-test catches planted liars, each in the cases that its lie is about, and passes honest attacks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import typer
from pydantic import Field
from torch import Tensor
from typer.testing import CliRunner

from sonet.attacks import ATTACKS, FGSM, PGD, SPSA, Attack, AttackError, Linf
from sonet.attacks.crafted import Crafted, blind
from sonet.attacks.losses import Goal
from sonet.attacks.minimum import Found, MinimumNorm, Nearest
from sonet.attacks.noise import ImageNoise
from sonet.audit.allowance import debt
from sonet.audit.linear import Linear, Scene
from sonet.audit.proof import Bench, Proof
from sonet.audit.selftest import cases, ready, selftest
from sonet.cli.selftest import selftest as command


class Scripted(PGD):
    """PGD that a liar changes afterwards."""

    def change(self, crafted: Crafted, images: Tensor) -> Crafted:
        raise NotImplementedError

    def craft(
        self, source: Any, images: Tensor, labels: Tensor, threat: Any, checkpoints: Any, progress: Any
    ) -> Crafted:
        crafted = super().craft(source, images, labels, threat, checkpoints, progress)
        return self.change(crafted, images)


class Clean(Scripted):
    def change(self, crafted: Crafted, images: Tensor) -> Crafted:
        return replace(crafted, images=images.clone())


class Leaves(Scripted):
    """Goes a thousandth farther than it may, in every pixel."""

    def change(self, crafted: Crafted, images: Tensor) -> Crafted:
        return replace(crafted, images=(images + 1.001 * (crafted.images - images)).clamp(0, 1))


class LeavesUnseen(Leaves):
    """The same, past the check of `Attack.run`."""

    def run(self, classifier: Any, images: Tensor, labels: Tensor, threat: Any, **settings: Any) -> Any:
        result = super().run(classifier, images, labels, replace(threat, eps=threat.eps * 1.01), **settings)
        return replace(result, threat=threat)


class NoFaces(Scripted):
    """Never moves a pixel that is 0 or 1, as a change of variables through tanh would."""

    def change(self, crafted: Crafted, images: Tensor) -> Crafted:
        return replace(crafted, images=torch.where((images == 0) | (images == 1), images, crafted.images))


class Silent(Scripted):
    def change(self, crafted: Crafted, images: Tensor) -> Crafted:
        return replace(crafted, zero_gradients=torch.zeros_like(crafted.zero_gradients))


class Excuse(Scripted):
    def change(self, crafted: Crafted, images: Tensor) -> Crafted:
        return replace(crafted, zero_gradients=torch.ones_like(crafted.zero_gradients))


class Contagious(Scripted):
    """One image without a gradient spoils its batch."""

    def change(self, crafted: Crafted, images: Tensor) -> Crafted:
        return replace(crafted, images=images.clone()) if crafted.zero_gradients.any() else crafted


class Quarter(PGD):
    """Sees a quarter of the gradient only."""

    def craft(self, source: Any, images: Tensor, *rest: Any) -> Crafted:
        class Part(type(source)):  # type: ignore[misc]
            def __call__(self, images: Tensor, goal: Any, noise: Any) -> Any:
                slope = super().__call__(images, goal, noise)
                kept = torch.arange(images[0].numel()).view(images.shape[1:]) % 4 == 0
                return replace(slope, gradient=slope.gradient * kept)

        return super().craft(Part(source.classifier), images, *rest)


class Unchecked(FGSM):
    """Takes whatever it is given."""

    def run(self, classifier: Any, images: Tensor, labels: Tensor, threat: Any, **settings: Any) -> Any:
        fine = Linear.random(2)
        return super().run(fine, images.nan_to_num(0.5).clamp(0, 1), fine(images).argmax(1), threat, **settings)


class Exact(MinimumNorm):
    """One step of `factor` times the way to the linearised boundary, walked back; reports `claim` times its length."""

    paper = "none"
    factor: float = Field(default=1.5)
    claim: float = Field(default=1.0)
    steps: int = Field(default=12)

    @property
    def work(self) -> int:
        return 2

    def search(self, source: Any, images: Tensor, labels: Tensor, threat: Any, progress: Any) -> Found:
        goal, nearest = Goal(labels), Nearest(images, threat)
        slope = source(images, goal, ImageNoise(images, 0))
        zero, everyone = blind(slope.gradient), torch.arange(len(images))
        g = slope.gradient.nan_to_num(0.0)
        nearest.note(everyone, images, goal.fooled(slope.logits))
        along = threat.steepest(g)
        rate = (g * along).flatten(1).sum(1).clamp_min(1e-12)
        t = self.factor * (-slope.loss.nan_to_num(0.0) / rate).clamp_max(10.0)
        moved = (images + t.view(-1, 1, 1, 1) * along).clamp(0, 1)
        nearest.note(everyone, moved, goal.fooled(source.logits(moved)))
        queries = slope.queries + 1 + nearest.to_boundary(source, goal, self.steps)
        return Found(nearest.images, nearest.distance * self.claim, slope.loss[None], zero, queries)


def failures(attack: Attack, only: Sequence[str] | None = None, seed: int = 0) -> dict[str, Proof]:
    """The proofs that do not hold, by case; of the cases `only` if given."""
    bench = Bench("it", attack, seed)
    proofs = {}
    for case, run in cases(attack).items():
        if only is None or case in only:
            try:
                proofs[case] = run(bench)
            except Exception as error:
                proofs[case] = Proof("it", case, "", "", False, f"{type(error).__name__}: {error}")
    return {case: proof for case, proof in proofs.items() if not proof.passed}


@pytest.mark.parametrize("attack", [FGSM(), PGD(), PGD(loss="margin"), PGD(random_start=True, steps=40)], ids=repr)
def test_honest_gradient_attacks_pass(attack: Attack) -> None:
    proofs = selftest({"it": attack}, seed=1)
    assert len(proofs) == 19
    assert [f"{proof.case}: {proof.why}" for proof in proofs if not proof.passed] == []


@pytest.mark.parametrize("attack", [SPSA(), SPSA(seed=3)], ids=["0", "3"])
def test_an_honest_attack_without_gradients_passes(attack: Attack) -> None:
    proofs = {proof.case: proof for proof in selftest({"it": attack})}
    assert [proof for proof in proofs.values() if not proof.passed] == []
    assert "sure softmax" not in proofs
    assert proofs["cut gradient"].measured == "8/8"


def test_an_honest_attack_of_minimum_norm_passes() -> None:
    """On a linear model clip(x + t v) is the nearest image, at the faces too; the margin's v is the runner-up's."""
    proofs = {proof.case: proof for proof in selftest({"it": Exact(factor=2.1)}, seed=1)}
    assert [proof for proof in proofs.values() if not proof.passed] == []
    for case in RADII:
        assert float(proofs[case].measured.rstrip("%")) == pytest.approx(0.0, abs=0.06)


RADII = {f"{what}, {norm}" for what in ("2 classes", "10 classes", "pixels 0 or 1") for norm in ("linf", "l2")}
SAME = {"logits +50", "logits -50", "logits x 0.001", "softmax"}


def test_clean_images_are_caught_at_every_radius() -> None:
    wrong = failures(Clean())
    assert set(wrong) == RADII | SAME
    assert "stood" in wrong["2 classes, linf"].why
    assert wrong["2 classes, linf"].measured == "0/8 0/8"


def test_an_attack_that_leaves_its_budget_is_caught_by_the_check_of_every_attack() -> None:
    wrong = failures(Leaves(), ["2 classes, linf"])
    assert "ThreatError" in wrong["2 classes, linf"].why


def test_an_attack_that_leaves_its_budget_past_that_check_is_caught_by_measuring() -> None:
    wrong = failures(LeavesUnseen())
    assert "box and budget" in wrong
    assert float(wrong["box and budget"].measured) > 1e-4
    farther = LeavesUnseen()
    object.__setattr__(farther, "change", lambda crafted, images: crafted)
    assert "box and budget" in failures(farther, ["2 classes, linf", "box and budget"])


def test_a_quarter_of_the_gradient_is_caught() -> None:
    wrong = failures(Quarter(), sorted(RADII | SAME))
    assert wrong.keys() >= SAME | {"2 classes, linf", "2 classes, l2", "pixels 0 or 1, linf", "pixels 0 or 1, l2"}


def test_pixels_that_never_move_from_the_faces_are_caught_there_only() -> None:
    assert set(failures(NoFaces())) == {"pixels 0 or 1, linf", "pixels 0 or 1, l2"}


def test_silence_about_zero_gradients_is_caught() -> None:
    wrong = failures(Silent())
    assert set(wrong) == {"logits x 1000", "sure softmax", "cut gradient", "rounded pixels"}
    assert "not reported" in wrong["cut gradient"].why


def test_zero_gradients_are_no_excuse_where_there_are_none() -> None:
    wrong = failures(Excuse())
    assert set(wrong) == RADII
    assert "claimed" in wrong["2 classes, l2"].why


def test_a_nan_sample_that_spoils_its_batch_is_caught() -> None:
    wrong = failures(Contagious())
    assert set(wrong) == {"one NaN sample"}
    assert "other samples' verdicts changed" in wrong["one NaN sample"].why


def test_an_attack_that_takes_unfit_input_is_caught() -> None:
    why = failures(Unchecked(), ["unfit input"])["unfit input"].why
    for what in ("train mode", "label of no class", "negative label", "NaN pixel", "outside [0, 1]"):
        assert what in why
    assert "eps < 0" not in why  # no attack can be given one


@pytest.mark.parametrize(("claim", "word"), [(0.9, "below the exact"), (1.02, "more than 1% beyond"), (0.999, "below")])
def test_a_false_minimum_is_caught(claim: float, word: str) -> None:
    assert failures(Exact(factor=1.003), ["2 classes, linf"]) == {}
    assert word in failures(Exact(factor=1.003, claim=claim), ["2 classes, linf"])["2 classes, linf"].why


def test_a_minimum_left_two_percent_beyond_the_boundary_is_caught() -> None:
    wrong = failures(Exact(factor=1.02, steps=0), ["2 classes, linf"])
    assert float(wrong["2 classes, linf"].measured.rstrip("%")) == pytest.approx(2.0, abs=0.02)
    assert failures(Exact(factor=1.005, steps=0), ["2 classes, linf"]) == {}


def test_an_attack_that_breaks_down_fails_and_the_others_go_on() -> None:
    class Broken(FGSM):
        def craft(self, *args: Any) -> Crafted:
            raise RuntimeError("no such kernel")

    proofs = selftest({"broken": Broken(), "fgsm": FGSM()}, quick=True)
    broken = {proof.case: proof for proof in proofs if proof.attack == "broken"}
    assert broken["2 classes, linf"].why == "RuntimeError: no such kernel"
    assert not any(proof.passed for case, proof in broken.items() if case not in ("unfit input", "box and budget"))
    assert all(proof.passed for proof in proofs if proof.attack == "fgsm")


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_what_is_owed_on_ten_classes(norm: Any) -> None:
    """Ordered as reasoned; a single step's radius is where FGSM itself begins to fool, to a thousandth."""
    scene = Scene.draw(10, 2, n=200)
    exact = scene.model.distance(scene.images, scene.labels, norm)
    ray, climb = debt(FGSM(), scene, norm), debt(PGD(), scene, norm)
    assert (ray.radius >= exact - 1e-12).all()
    assert (climb.radius >= exact - 1e-12).all()
    assert ray.why
    assert climb.why
    image, label = scene.images[:1], scene.labels[:1]
    for factor, fell in ((0.999, False), (1.001, True)):
        threat = replace(Linf(0), norm=norm, eps=float(ray.radius[0]) * factor)
        assert bool(FGSM().run(scene.model, image, label, threat).fooled) is fell
    two = debt(PGD(), Scene.draw(2, 2, n=50), norm)
    assert two.why == ""
    assert two.tolerance == 0.02


def test_attacks_of_minimum_norm_owe_the_exact_distance_where_the_runner_up_is_nearest() -> None:
    scene = Scene.draw(10, 2, n=200)
    owed = debt(Exact(), scene, "l2")
    assert torch.equal(owed.radius, scene.model.distance(scene.images, scene.labels, "l2"))
    assert 0 < int(owed.among.sum()) < 200
    assert owed.tolerance == 0.01


def test_an_allowance_goes_with_the_class_and_those_derived_from_it() -> None:
    class Mine(SPSA):
        pass

    class Transfer(PGD):
        pass

    class Boundary(Exact):
        needs_gradient = False

    scene = Scene.draw(2, 0, n=50)
    assert debt(Mine(), scene, "l2").tolerance == 0.25
    assert debt(Boundary(), scene, "l2").tolerance == 0.01
    assert debt(Boundary(), Scene.draw(2, 0, corners=True, n=50), "l2").tolerance == 0.1
    far = debt(Boundary(), Scene.draw(10, 0, n=50), "l2").radius
    assert (far >= Scene.draw(10, 0, n=50).distances("l2").amin(1)).all()
    assert not debt(Transfer(), scene, "linf").owed


def test_quick_is_a_part_and_progress_reaches_the_end() -> None:
    whole, part = cases(PGD()), cases(PGD(), quick=True)
    assert set(part) < set(whole)
    assert list(part)[-1] == "box and budget"
    told: list[tuple[float, str]] = []
    proofs = selftest({"one": FGSM(), "two": PGD()}, quick=True, tell=lambda done, word: told.append((done, word)))
    assert [proof.case for proof in proofs] == list(part) * 2
    assert told[0] == (0.0, "one: 2 classes, linf")
    assert told[-1] == (1.0, "done")
    shares = [done for done, _ in told]
    assert shares == sorted(shares)


def test_the_same_seed_gives_the_same_proofs() -> None:
    once, again = (selftest({"it": SPSA()}, seed=4, quick=True) for _ in range(2))
    assert once == again


def test_attacks_that_need_settings_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Needs(FGSM):
        folder: str

    monkeypatch.setitem(ATTACKS, "needs", (Needs, "needs a folder"))
    attacks, left = ready()
    assert left[-1] == "needs"
    assert {"fgsm", "pgd", "spsa"} <= set(attacks)
    assert "needs" not in attacks
    assert set(ready(["pgd"])[0]) == {"pgd"}
    with pytest.raises(AttackError, match="no attack is called 'pdg', expected one of fgsm"):
        ready(["pdg"])


@pytest.fixture(name="shell")
def _shell() -> Any:
    app = typer.Typer()
    app.command()(command)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def test_the_command_prints_a_table_and_a_sentence(shell: Any) -> None:
    ended = shell("--quick", "--attack", "fgsm", "--attack", "pgd")
    assert ended.exit_code == 0, ended.output
    assert "14 of 14 proofs hold." in ended.stdout
    assert "2 classes, linf" in ended.stdout
    assert "pass 0/4 4/4" in ended.stdout
    assert max(map(len, ended.stdout.splitlines())) <= 100


def test_the_command_fails_with_reasons(shell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ATTACKS, "clean", (Clean, "does nothing"))
    ended = shell("--quick", "--attack", "clean")
    assert ended.exit_code == 1
    assert "6 of 7 proofs hold; these do not:" in ended.stdout
    assert "FAIL 0/4 0/4" in ended.stdout
    assert "clean, 2 classes, linf: expected" in ended.stdout
    answer = json.loads(shell("--quick", "--attack", "clean", "--json", "--seed", "2").stdout)
    assert answer["holds"] is False
    assert answer["seed"] == 2
    assert [proof["passed"] for proof in answer["proofs"]].count(False) == 1
