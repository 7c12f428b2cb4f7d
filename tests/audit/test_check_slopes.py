"""Checks of the gradient, on models whose slopes are known in closed form."""

from __future__ import annotations

import pytest
import torch
from audit_subjects import Mates, Pixels, drawn, plausible, subject_of
from torch import Tensor, nn

from sonet.attacks import L2, Linf, Threat
from sonet.audit.planted import Detached, Linear, Noisy, Quantised, Softmax
from sonet.audit.slopes import cross_sample_leak, difference_ladder, finite_differences, zero_gradients
from sonet.audit.subject import Subject

MODEL, TWO = Linear.random(3, seed=1), Linear.random(2, seed=1)
IMAGES = drawn(20)
U = torch.tensor([0.5, -0.2, 0.3, 0.1])


class Along(nn.Module):
    """Logits (c + sign phi(<u, x>), 0) for a function phi of one number; always of class 0."""

    def __init__(self, phi: object, u: Tensor = U, c: float = 5.0) -> None:
        super().__init__()
        self.phi, self.u, self.c = phi, u, c
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        first = self.c - self.phi(images.flatten(1) @ self.u.to(images))  # type: ignore[operator]
        return torch.stack((first, torch.zeros_like(first)), 1)


class Some(nn.Module):
    """The linear model whose gradient is cut (or made NaN) for images whose first pixel is above one half."""

    def __init__(self, infinite: bool = False) -> None:
        super().__init__()
        self.infinite = infinite
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        cut = images[:, :1, :1, :1].detach() > 0.5
        logits = MODEL(torch.where(cut, images.detach(), images))
        if self.infinite:  # sqrt has no slope at 0
            nothing = torch.where(cut[:, :, 0, 0], images.flatten(1)[:, :1] * 0, 1.0)
            logits = logits + torch.where(cut[:, :, 0, 0], nothing.sqrt(), 0.0)
        return logits


@pytest.mark.parametrize("infinite", [False, True])
@pytest.mark.parametrize(("count", "raised"), [(0, False), (1, False), (2, True)])
def test_zero_gradients_are_counted(count: int, raised: bool, infinite: bool) -> None:
    """One of 20 is 5 %, which is not more."""
    images = drawn(20)
    images[:, 0, 0, 0] = 0.4
    images[:count, 0, 0, 0] = 0.6
    found = zero_gradients(subject_of(Some(infinite), images))
    assert (found.raised, found.value, found.n) == (raised, count / 20, 20)
    assert f"Of 20 images {count} have" in found.sentence


@pytest.mark.parametrize("model", [Quantised(MODEL, 16), Detached(MODEL)])
def test_all_gradients_of_rounding_and_of_a_cut_graph_are_zero(model: nn.Module) -> None:
    found = zero_gradients(subject_of(model, IMAGES))
    assert (found.raised, found.value) == (True, 1.0)


class Faint(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return MODEL(images) * 1e-30


def test_a_faint_gradient_is_not_zero() -> None:
    """Of 1e-30: its squares vanish in float32, an attack's sign of it does not."""
    found = zero_gradients(subject_of(Faint().eval(), IMAGES, MODEL(IMAGES).argmax(1)))
    assert (found.raised, found.value) == (False, 0.0)


def test_a_large_gradient_is_finite() -> None:
    class Loud(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return MODEL(images) * 1e25

    found = zero_gradients(subject_of(Loud().eval(), IMAGES, MODEL(IMAGES).argmax(1)))
    assert "and 0 none of the margin" in found.sentence


def test_the_leak_is_that_of_the_closed_form() -> None:
    r"""d L_j / d x_i = -(1 - p_j) b u for j != i, and (1 - p_i) a u of its own."""
    model, images = Mates(U, own=2.0, mates=0.3, bias=-3.0), drawn(8, (1, 2, 2))
    labels = model(images).argmax(1)
    odds = (1 - model(images).double().softmax(1)).gather(1, labels[:, None]).squeeze(1)  # 1 - p of the label
    odds = odds * torch.where(labels == 0, 1.0, -1.0)
    own, mates = (2.0 * odds).abs(), (0.3 * (odds.sum() - odds)).abs()
    shares = own / (own + mates)
    found = cross_sample_leak(subject_of(model, images, labels))
    assert found.value == pytest.approx(float(shares.quantile(0.5)), rel=1e-4)
    assert found.interval == pytest.approx((float(shares.quantile(0.25)), float(shares.quantile(0.75))), rel=1e-4)
    assert found.raised is True
    assert found.n == 8


@pytest.mark.parametrize(("share", "raised"), [(0.89, True), (0.91, False)])
def test_the_leak_is_raised_below_nine_tenths(share: float, raised: bool) -> None:
    """Equal images have equal weights: share = a / (a + (n - 1) b)."""
    images = drawn(1, (1, 2, 2)).expand(8, 1, 2, 2).contiguous()
    model = Mates(U, own=share, mates=(1 - share) / 7, bias=1.0)
    found = cross_sample_leak(subject_of(model, images))
    assert found.value == pytest.approx(share, rel=1e-4)
    assert found.raised is raised


def test_no_leak_where_samples_are_independent() -> None:
    found = cross_sample_leak(subject_of(MODEL, IMAGES))
    assert (found.raised, found.value) == (False, 1.0)
    assert "100.0%" in found.sentence


def test_a_leak_needs_company_and_a_gradient() -> None:
    assert cross_sample_leak(subject_of(MODEL, IMAGES[:1])).raised is None
    assert cross_sample_leak(subject_of(MODEL, IMAGES, batch=1)).raised is None
    images = drawn(6)
    images[:, 0, 0, 0] = 0.6
    found = cross_sample_leak(subject_of(Some(infinite=True), images))
    assert found.raised is None
    assert plausible(found.sentence)


def ratios(subject: Subject) -> Tensor:
    """(images, lengths) of the ladder."""
    ladder = difference_ladder(subject)
    assert ladder is not None
    return torch.tensor([[float("nan") if y is None else y for y in line.y] for line in ladder.lines]).double()


@pytest.mark.parametrize("threat", [Linf(0.2), L2(0.2)])
@pytest.mark.parametrize("phi", [lambda s: s, lambda s: s**2])
def test_central_differences_of_a_line_and_of_a_parabola_are_exact(phi: object, threat: object) -> None:
    subject = subject_of(Along(phi), drawn(6, (1, 2, 2)), threat=threat)  # type: ignore[arg-type]
    found = finite_differences(subject)
    assert (found.raised, found.value, found.n) == (False, 0.0, 6)
    assert "they gain 1 of it" in found.sentence
    ladder = difference_ladder(subject)
    assert ladder is not None
    long = torch.tensor(ladder.x) > 1e-3  # of shorter ones the images are rounded
    torch.testing.assert_close(ratios(subject)[:, long], torch.ones(4, int(long.sum())).double(), rtol=1e-3, atol=1e-3)


def test_central_differences_of_a_cube_are_too_large_by_a_known_amount() -> None:
    r"""((s + d)^3 - (s - d)^3) / 2d = 3 s^2 + d^2, with d = h ||u||_1."""
    images = drawn(4, (1, 2, 2))
    subject = subject_of(Along(lambda s: s**3), images, threat=Linf(0.2))
    ladder = difference_ladder(subject)
    assert ladder is not None
    s, d = images.flatten(1).double() @ U.double(), torch.tensor(ladder.x).double() * float(U.abs().sum())
    expected = 1 + d[None, :] ** 2 / (3 * s[:, None] ** 2)
    long = torch.tensor(ladder.x) > 1e-3
    torch.testing.assert_close(ratios(subject)[:, long], expected[:, long], rtol=2e-3, atol=0.0)


def test_the_ladder_runs_from_the_shortest_to_the_radius_with_a_tenth_of_it() -> None:
    ladder = difference_ladder(subject_of(MODEL, IMAGES, threat=Linf(0.2)))
    assert ladder is not None
    assert ladder.x == sorted(ladder.x)
    assert ladder.x[0] == pytest.approx(1e-6)
    assert ladder.x[-1] == 0.2
    assert 0.2 / 10 in ladder.x


def test_the_ladder_is_measured_once() -> None:
    subject = subject_of(MODEL, IMAGES)
    first = difference_ladder(subject)
    passes = subject.passes
    assert difference_ladder(subject) is first
    assert subject.ladders["differences"] is first
    assert subject.passes == passes


@pytest.mark.parametrize("hidden", [False, True])
def test_each_image_is_moved_by_itself(hidden: bool) -> None:
    """The gradient promises own + (n - 1) mates, the image by itself gains own; and that over the hidden leak too."""
    model = Mates(U, own=1.0, mates=0.5, bias=3.0, hidden=hidden)
    subject = subject_of(model, drawn(4, (1, 2, 2)), threat=Linf(0.2))
    assert subject.leaks
    long = ratios(subject)[:, -3:]
    torch.testing.assert_close(long, torch.full_like(long, 1 / (1 + 3 * 0.5)), rtol=1e-3, atol=1e-3)
    assert finite_differences(subject).raised is False


class Ripples(nn.Module):
    """Logits (3 + <u, x_i> + 1e-4 sin(1e4 sum_{j != i} <u, x_j>), 0): mates move an answer by nothing worth the name,
    but their share of the gradient is as large as the sample's own."""

    def forward(self, images: Tensor) -> Tensor:
        each = images.flatten(1) @ U.to(images)
        first = 3 + each + 1e-4 * (1e4 * (each.sum() - each)).sin()
        return torch.stack((first, torch.zeros_like(first)), 1)


def test_mates_stay_where_they_are_also_where_only_gradients_mix() -> None:
    images = drawn(4, (1, 2, 2)).double()
    subject = subject_of(Ripples().eval(), images)
    assert subject.leaks
    assert not subject.coupled
    each = images.flatten(1) @ U.double()
    slope = (1e4 * (each.sum() - each)).cos()  # of the mates' part of each image's logit, to a mate's <u, x>
    expected = 1 / (1 + slope.sum() - slope)
    torch.testing.assert_close(ratios(subject)[:, 0], expected, rtol=1e-3, atol=1e-3)


def test_a_gradient_that_is_mostly_the_mates_is_told() -> None:
    found = finite_differences(subject_of(Mates(U, own=0.1, mates=1.0, bias=3.0), drawn(4, (1, 2, 2))))
    assert (found.raised, found.value) == (True, 1.0)
    assert f"they gain {0.1 / 3.1:.2g} of it" in found.sentence


def test_a_gradient_of_zero_promises_nothing_and_counts_as_poor() -> None:
    subject = subject_of(Quantised(MODEL, 16), IMAGES)
    found = finite_differences(subject)
    assert (found.raised, found.value) == (True, 1.0)
    assert "in the median they gain 0 of it" in found.sentence
    assert ratios(subject).isnan().all()


class Reversed(nn.Module):
    """The gradient of the linear model, backwards."""

    def forward(self, images: Tensor) -> Tensor:
        return 2 * TWO(images.detach()) - TWO(images)


def test_a_reversed_gradient_promises_the_opposite() -> None:
    subject = subject_of(Reversed().eval(), IMAGES[:4])
    found = finite_differences(subject)
    assert (found.raised, found.value) == (True, 1.0)
    assert float((ratios(subject)[:, -2] + 1).abs().max()) < 0.01


@pytest.mark.parametrize(("poor", "raised"), [(1, False), (2, True)])
def test_more_than_a_quarter_must_be_poor(poor: int, raised: bool) -> None:
    images = drawn(4)
    images[:, 0, 0, 0] = 0.4
    images[:poor, 0, 0, 0] = 0.6
    found = finite_differences(subject_of(Some(), images, threat=Linf(0.05)))
    assert (found.raised, found.value) == (raised, poor / 4)


@pytest.mark.parametrize(
    ("poor", "found"),
    [
        ([0, 1, 2, 3], (True, 4, 4)),  # of four all: decided
        ([], (False, 0, 16)),  # of eight none is not: up to a third of all might be
        ([0], (False, 1, 20)),
        ([0, 4, 8, 12, 16], (False, 5, 20)),  # a quarter is no more than a quarter
        ([0, 4, 8, 12, 16, 17], (True, 6, 20)),
    ],
)
def test_more_images_are_asked_where_few_leave_it_open(poor: list[int], found: tuple[bool, int, int]) -> None:
    images = drawn(20)
    images[:, 0, 0, 0] = 0.4
    images[poor, 0, 0, 0] = 0.6
    subject = subject_of(Some(), images, threat=Linf(0.05))
    assert subject.effort.probes == 4
    raised, count, n = found
    told = finite_differences(subject)
    assert (told.raised, told.value, told.n) == (raised, count / n, n)
    assert f"{count} of {n} images" in told.sentence
    assert len(difference_ladder(subject).lines) == 4


@pytest.mark.parametrize("threat", [Linf(0.2), L2(0.2)])
def test_no_difference_leaves_the_box(threat: Threat) -> None:
    """At its edges half of the way counts: a model of clipped images has no slope beyond."""
    seen = list[tuple[float, float]]()

    class Clipped(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append((float(images.detach().min()), float(images.detach().max())))
            return Along(lambda s: s)(images.clamp(0, 1))  # type: ignore[no-any-return]

    images = drawn(6, (1, 2, 2))
    images[:, 0, 0, 0], images[:, 0, 1, 1] = 0.0, 1.0
    subject = subject_of(Clipped().eval(), images, threat=threat)
    slopes = ratios(subject)[:, -3:]
    torch.testing.assert_close(slopes, torch.ones_like(slopes), rtol=1e-3, atol=1e-3)
    assert min(low for low, _ in seen) == 0.0
    assert max(high for _, high in seen) == 1.0


@pytest.mark.parametrize(("share", "raised"), [(0.09, True), (0.11, False)])
def test_a_tenth_of_the_promise_is_enough(share: float, raised: bool) -> None:
    """Straight through: the model gains `share` of what its gradient says."""

    class Boast(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return share * MODEL(images) + (1 - share) * (MODEL(images) - MODEL(images).detach() + 0 * images.sum())

    labels = MODEL(IMAGES[:4]).argmax(1)
    found = finite_differences(subject_of(Boast().eval(), IMAGES[:4], labels, threat=Linf(0.02)))
    assert found.raised is raised
    assert f"they gain {share:.2g} of it" in found.sentence


@pytest.mark.parametrize("module", [True, False])
def test_probabilities_are_compared_with_their_own_slope(module: bool) -> None:
    """As a plain function there is no float64 form; the logarithm's slope would be another."""
    soft = Softmax(TWO)
    model = soft if module else lambda images: soft(images)
    subject = subject_of(model, IMAGES[:4], threat=Linf(0.001))  # type: ignore[arg-type]
    assert subject.probabilities
    slopes = ratios(subject)[:, -1]
    torch.testing.assert_close(slopes, torch.ones(4).double(), rtol=0.05, atol=0.05)


def test_the_slope_of_a_random_model_is_that_of_its_mean() -> None:
    """Noise of std s in a difference over 2 h of the mean of c calls: about s sqrt(2 / c) / 2h, a hundredth."""
    subject = subject_of(Noisy(TWO, 0.01, seed=0), IMAGES[:4], calls=16, threat=Linf(0.2))
    assert subject.random
    assert finite_differences(subject).raised is False
    assert float((ratios(subject)[:, -1] - 1).abs().max()) < 0.02


def test_without_a_right_image_there_is_no_slope() -> None:
    subject = subject_of(MODEL, IMAGES, (MODEL(IMAGES).argmax(1) + 1) % 3)
    for look in (zero_gradients, cross_sample_leak, finite_differences):
        assert look(subject).raised is None
        assert plausible(look(subject).sentence)


def test_a_radius_of_zero_is_looked_at_as_a_thousandth() -> None:
    subject = subject_of(MODEL, IMAGES, threat=Linf(0.0))
    assert finite_differences(subject).raised is False
    ladder = difference_ladder(subject)
    assert ladder is not None
    assert ladder.x[-1] == 1e-3


def test_colour_images_have_slopes_too() -> None:
    found = finite_differences(subject_of(Pixels(3), drawn(4, (3, 5, 5))))
    assert (found.raised, found.value) == (False, 0.0)
