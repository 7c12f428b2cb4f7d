"""Square: its moves written out, where it must arrive, and what it promises of queries, budget and independence."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from toy_classifiers import Counting, Linear, Wavy, images, linear, predicted, weights

from sonet.attacks import L2, PGD, AttackError, Linf, Threat, margin
from sonet.attacks.noise import ImageNoise
from sonet.attacks.square import Square, side
from sonet.attacks.square_moves import Flip, Move, Shift, bump

Norm = Literal["linf", "l2"]
NORMS: list[Norm] = ["linf", "l2"]
THREATS: list[Threat] = [Linf(0.1), L2(0.5)]
Shape = tuple[int, int, int]


def far(shape: Shape, x: Tensor, classes: int = 3, seed: int = 0) -> Linear:
    """A linear model of images of this shape whose boundary is in their middle."""
    weight = weights(classes, seed, shape)
    return Linear(weight, -(x.flatten(1) @ weight.T).mean(0))


class Seen:
    """Keeps every batch a classifier is shown; the attack writes into its own."""

    def __init__(self, classifier: Any) -> None:
        self.classifier = classifier
        self.batches: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.batches.append(x.clone())
        return self.classifier(x)


def test_the_side_of_the_square_follows_the_schedule() -> None:
    """p = 0.8 of 1024 pixels, halved after the published steps; rounded roots by hand."""
    x = torch.zeros(1, 3, 32, 32)
    after = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
    sides = [29, 20, 14, 10, 7, 5, 4, 3, 2, 1]
    for budget, scale in ((10_000, 1.0), (5000, 0.5), (20_000, 2.0)):
        for index, step in enumerate(after):
            assert side(0.8, int(scale * step), budget, x, Linf(1)) == sides[index]
            assert side(0.8, int(scale * step) + 1, budget, x, Linf(1)) == sides[index + 1]
        assert side(0.8, 1, budget, x, Linf(1)) == 29
    odd = [29, 21, 15, 11, 7, 5, 5, 3, 3, 3]
    assert [side(0.8, step + 1, 10_000, x, L2(1)) for step in (0, *after)] == odd
    assert side(1.0, 0, 100, torch.zeros(1, 1, 2, 9), L2(1)) == 2  # not larger than the image
    assert side(1.0, 0, 100, torch.zeros(1, 1, 1, 1), Linf(1)) == 1
    assert side(1e-6, 0, 100, x, Linf(1)) == 1


def test_the_bump_by_hand() -> None:
    """A pyramid of one column and the negative of one of two; 1/4 and 1 + 1/4 high."""
    low, high = 0.25, 1.25
    shape = torch.tensor([[low, -low, -low], [high, -low, -high], [low, -low, -low]], dtype=torch.float64)
    cpu = torch.device("cpu")
    torch.testing.assert_close(bump(3, torch.float64, cpu), shape / shape.norm(), rtol=1e-12, atol=0)
    assert bump(1, torch.float64, cpu).tolist() == [[-1.0]]
    for size in (1, 2, 3, 5, 6, 20):
        assert bump(size, torch.float64, cpu).norm().item() == pytest.approx(1.0)
        assert bump(size, torch.float64, cpu).shape == (size, size)
    five = bump(5, torch.float64, cpu)
    assert five[2, 1] == five.max()
    assert five[2, 3] == five.min()
    ratio = (1 + 1 / 4 + 1 / 9) / (1 / 4 + 1 / 9)
    assert (five[2, 1] / five[2, 0]).item() == pytest.approx(ratio)
    assert (five[:, :2] > 0).all()
    assert (five[:, 2:] < 0).all()


def a_move(kind: type[Move], x: Tensor, eps: float, sizes: list[int]) -> Any:
    return kind(x, eps, ImageNoise(x, 3), sizes)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 7), (2, 3, 3), (3, 8, 6)])
def test_linf_moves_by_hand(shape: Shape) -> None:
    """A square of the side asked for takes one end of the budget in each channel; some pixel changes in every image."""
    x = images(20, shape=shape)
    x[:5] = x[:5].round()
    largest = min(shape[1:])
    sizes = [largest, largest, *[max(1, largest - 1)] * 50, *[1] * 100]
    move = a_move(Flip, x, 0.1, sizes)
    lower, upper = (x - 0.1).clamp_min(0), (x + 0.1).clamp_max(1)
    started = move.current.clone()
    assert ((started == lower) | (started == upper)).all()
    stripes = started == upper
    assert torch.equal(stripes, stripes[:, :, :1].expand_as(stripes))
    generator = torch.Generator().manual_seed(0)
    corners = set()
    for step in range(1, len(sizes)):
        before, h = move.current.clone(), sizes[step]
        move.propose(step)
        for i in range(20):
            changed = (move.current[i] != before[i]).any(0).nonzero()
            assert len(changed)
            square = move._where[i, 0]
            top, left = divmod(int(square[0]), shape[2])
            corners.add((h, top, left))
            rows, columns = slice(top, top + h), slice(left, left + h)
            assert top + h <= shape[1]
            assert left + h <= shape[2]
            expected = before[i].clone()
            for c in range(shape[0]):
                high = bool((move.current[i, c, top, left] == upper[i, c, top, left]).item())
                expected[c, rows, columns] = (upper if high else lower)[i, c, rows, columns]
            assert torch.equal(move.current[i], expected)
        better = torch.rand(20, generator=generator) < 0.3
        tried = move.current.clone()
        move.settle(better)
        assert torch.equal(move.current, torch.where(better[:, None, None, None], tried, before))
    places = {
        (h, top, left) for h in set(sizes[1:]) for top in range(shape[1] - h + 1) for left in range(shape[2] - h + 1)
    }
    assert corners == places  # every place comes up


def by_hand(x: Tensor, nu: Tensor, step: Any, eps: float, h: int, width: int) -> Tensor:
    """The l2 move of one image, (C, H W), with loops; `step` gives its squares and coins."""
    to, source, coins = step
    channels, total = len(nu), nu.square().sum()
    shape = bump(h, torch.float64, torch.device("cpu"))
    eta = (shape.T if coins[0] else shape).flatten()
    new = nu.clone()
    for c in range(channels):
        union = sorted(set(to.tolist()) | set(source.tolist()))
        available = (nu[c, union].square().sum() + (eps**2 - total) / channels).clamp_min(0).sqrt()
        new[c, source] = 0
        own = nu[c, to]
        length = own.norm()
        direction = (-1 if coins[1 + c] else 1) * eta + (own / length if length > 0 else 0)
        new[c, to] = direction / direction.norm() * available
    return (x + new).clamp(0, 1) - x


@pytest.mark.parametrize(("shape", "inside"), [((2, 6, 8), True), ((3, 5, 5), False), ((1, 2, 2), True)])
def test_l2_moves_by_hand(shape: Shape, inside: bool) -> None:
    """Also where squares overlap and where the box cuts; the whole budget is used where it does not."""
    x = images(12, shape=shape, low=0.4 if inside else 0.0, high=0.6 if inside else 1.0)
    h, eps = min(3, shape[1]), 0.35 if inside else 0.9
    move = a_move(Shift, x, eps, [h] * 40)
    generator = torch.Generator().manual_seed(0)
    overlaps = cut = 0
    if inside:
        assert (move.current - x).flatten(1).norm(dim=1).tolist() == pytest.approx([eps] * 12)
    for step in range(1, 40):
        before = move.current.clone()
        move.propose(step)
        _, coins = move.draw(step)
        for i in range(12):
            to, source = move._to[i, 0], move._from[i, 0]
            overlaps += bool(set(to.tolist()) & set(source.tolist()))
            nu = (before[i] - x[i]).flatten(1)
            expected = by_hand(x[i].flatten(1), nu, (to, source, coins[i]), eps, h, shape[2])
            moved = (move.current[i] - x[i]).flatten(1)
            torch.testing.assert_close(moved, expected, rtol=1e-7, atol=1e-9)
            length = moved.norm().item()
            assert length <= eps + 1e-12
            cut += length < eps - 1e-9
            assert len(to) == len(source) == h * h
        better = torch.rand(12, generator=generator) < 0.5
        tried = move.current.clone()
        move.settle(better)
        assert torch.equal(move.current, torch.where(better[:, None, None, None], tried, before))
    assert overlaps > 20
    assert (cut == 0) is inside


def test_l2_starts_from_a_grid_of_bumps() -> None:
    """32 pixels: five by five tiles of six, one pixel in; every tile plus or minus the bump, or it turned."""
    x = torch.full((4, 3, 32, 32), 0.5, dtype=torch.float64)
    x += 1e-6 * images(4, shape=(3, 32, 32))  # or all had the same noise
    offset = (a_move(Shift, x, 0.5, [3]).current - x) * 75**0.5 / 0.5
    shape = bump(6, torch.float64, torch.device("cpu"))
    kinds = torch.stack((shape, -shape, shape.T, -shape.T))
    met = set()
    for i in range(4):
        for row in range(5):
            for column in range(5):
                tile = offset[i, :, 1 + 6 * row : 7 + 6 * row, 1 + 6 * column : 7 + 6 * column]
                which = ((tile[:, None] - kinds).abs().amax((2, 3)) < 1e-9).int()
                assert which.sum(1).tolist() == [1, 1, 1]
                turned = which.argmax(1) // 2
                assert len(turned.unique()) == 1  # as one, whatever the signs
                met |= set(which.argmax(1).tolist())
    assert met == {0, 1, 2, 3}
    edge = torch.ones(32, 32, dtype=torch.bool)
    edge[1:31, 1:31] = False
    assert offset[:, :, edge].abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threat", [Linf(8 / 255), Linf(0.6), L2(0.5), L2(2.0)], ids=str)
def test_no_query_leaves_the_threat(threat: Threat, dtype: torch.dtype) -> None:
    """For thousands of moves, and for images of black and white pixels."""
    shape = (3, 8, 7)
    x = images(6, shape=shape)
    x[:3] = x[:3].round()
    x = x.to(dtype)
    model = far(shape, x.double())
    seen = Seen(lambda images: model(images.double()).to(dtype))
    labels = seen(x).argmax(1)
    result = Square(queries=2000, stop_when_fooled=False).run(seen, x, labels, threat)
    queries = torch.stack([batch for batch in seen.batches if len(batch) == 6])
    assert len(queries) >= 2000
    assert queries.min() >= 0
    assert queries.max() <= 1
    offset = (queries.double() - x.double()).flatten(2)
    length = offset.abs().amax(2) if threat.norm == "linf" else offset.norm(dim=2)
    assert length.max() <= threat.eps + (1e-6 if dtype == torch.float32 else 1e-12)
    assert result.adversarial.dtype == dtype
    if threat.norm == "l2":  # clipped, but the rest of the budget is found again
        assert result.distance.min() > 0.95 * threat.eps


@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize("threat", [Linf(0.02), L2(0.1)], ids=str)
def test_queries_are_the_images_the_model_saw_and_never_above_the_setting(threat: Threat, stop: bool) -> None:
    x = images(12)
    model = Wavy()
    labels = predicted(model, x)
    labels[0] = (labels[0] + 1) % 3  # fooled by itself
    counting, heard = Counting(model), list[float]()
    attack = Square(queries=40, stop_when_fooled=stop, batch_size=5)
    result = attack.run(Wavy(), x, labels, threat, gradients_from=counting, progress=heard.append)
    assert result.queries == counting.queries
    assert counting.backward_images == 0
    assert result.queries_each.max() == 40
    assert result.zero_gradient_share == 0.0
    if stop:
        assert result.queries_each[0] == 1
        assert torch.equal(result.adversarial[0], x[0])
        assert (result.queries_each[result.fooled] < 40).sum() > 1
        assert (result.queries_each[~result.fooled] == 40).all()
        assert (~result.fooled).any()
    else:
        assert result.queries_each.tolist() == [40] * 12
        assert len(counting.batches) == 3 * 40  # never one image at a time
        assert sum(heard) == 12 * attack.work == 480
    assert torch.equal(torch.isfinite(result.loss).sum(0), result.queries_each)


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_the_loss_never_falls_and_is_that_of_the_best_query(threat: Threat, rounded: bool) -> None:
    """An accepted move raises the margin, any other is undone: the trace is the running maximum of all queries."""
    x = images(5, shape=(1, 6, 6))
    smooth = far((1, 6, 6), x)

    def model(x: Tensor) -> Tensor:
        return (4 * smooth(x)).round() if rounded else smooth(x)

    labels = predicted(model, x)
    seen = Seen(model)
    result = Square(queries=300, stop_when_fooled=False).run(model, x, labels, threat, gradients_from=seen)
    margins = torch.stack([margin(model(batch), labels) for batch in seen.batches])
    assert margins.shape == (300, 5)
    torch.testing.assert_close(result.loss[0].double(), margins[0], rtol=1e-6, atol=1e-6)
    running = margins[1:].cummax(0).values
    torch.testing.assert_close(result.loss[1:].double(), running, rtol=1e-6, atol=1e-6)
    assert (result.loss[1:].diff(dim=0) >= 0).all()
    assert (result.loss[1:].diff(dim=0) > 0).sum() > (10 if rounded else 50)
    torch.testing.assert_close(margin(model(result.adversarial), labels), margins.amax(0), rtol=0, atol=1e-12)
    # Every query is one move away from the best before it.
    best = seen.batches[1]
    for number, batch in enumerate(seen.batches[2:], 2):
        changed = (batch != best).any(1)
        h = side(0.8, number - 1, 300, x, threat)
        assert changed.flatten(1).any(1).all() or threat.norm == "l2"
        assert (changed.flatten(1).sum(1) <= (1 if threat.norm == "linf" else 2) * h * h).all()
        better = margins[number] > margins[1:number].amax(0)
        best = torch.where(better[:, None, None, None], batch, best)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_linear_model_is_driven_into_the_corner(classes: int) -> None:
    """linf, two or three classes: where the model must fall it does, and the end is the best image there is."""
    x = images(8, low=0.4, high=0.6)
    model = linear(classes, like=x)
    labels = predicted(model, x)
    logits = model(x)
    pulls = model.weight - model.weight[labels][:, None]  # (N, classes, pixels)
    radii = (logits.gather(1, labels[:, None]) - logits) / pulls.abs().sum(2)
    radius = torch.where(torch.nn.functional.one_hot(labels, classes).bool(), torch.inf, radii).amin(1)
    assert radius.max() < 0.35
    for i in range(8):
        image, label = x[i : i + 1], labels[i : i + 1]
        for factor, falls in ((0.99, False), (1.05, True)):
            threat = Linf(factor * radius[i].item())
            result = Square(queries=1500).run(model, image, label, threat)
            assert result.fooled.item() is falls
    if classes == 2:
        w = pulls.gather(1, (1 - labels)[:, None, None].expand(-1, 1, 18)).view(-1, 2, 3, 3)
        end = Square(queries=1500, stop_when_fooled=False).run(model, x, labels, Linf(0.1))
        torch.testing.assert_close(end.adversarial, x + 0.1 * w.sign(), rtol=0, atol=1e-12)


def test_a_linear_model_falls_in_l2_too() -> None:
    """Squares of three pixels cannot draw every direction: not at the radius, but at 1.6 times it; never before it."""
    shape = (1, 8, 8)
    x = images(20, low=0.4, high=0.6, shape=shape)
    model = far(shape, x, classes=2)
    labels = predicted(model, x)
    w = model.weight[1 - labels] - model.weight[labels]
    radius = -margin(model(x), labels) / w.norm(dim=1)
    reached = Square(queries=2000, stop_when_fooled=False).run(model, x, labels, L2(0.2)).adversarial
    gained = margin(model(reached), labels) - margin(model(x), labels)
    share = gained / (0.2 * w.norm(dim=1))
    assert share.min() > 1 / 1.6
    assert share.max() <= 1
    for i in range(4):
        for factor, falls in ((0.99, False), (1.6, True)):
            threat = L2(factor * radius[i].item())
            result = Square(queries=2000).run(model, x[i : i + 1], labels[i : i + 1], threat)
            assert result.fooled.item() is falls


@pytest.mark.parametrize("restarts", [1, 2])
@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize("threat", [Linf(0.03), L2(0.15)], ids=str)
def test_an_image_is_attacked_alike_in_any_batch(threat: Threat, stop: bool, restarts: int) -> None:
    model, x = Wavy(speed=9.0), images(9)
    labels = predicted(model, x)
    attack = Square(queries=150, stop_when_fooled=stop, restarts=restarts)
    whole = attack.run(model, x, labels, threat)
    again = attack.run(model, x, labels, threat)
    assert torch.equal(whole.adversarial, again.adversarial)
    order = torch.tensor([4, 2, 8, 0, 5, 7, 1, 3, 6])
    permuted = attack.run(model, x[order], labels[order], threat)
    split = attack.model_copy(update={"batch_size": 4}).run(model, x, labels, threat)
    alone = attack.model_copy(update={"batch_size": 1}).run(model, x, labels, threat)
    for other, same in ((permuted, order), (split, slice(None)), (alone, slice(None))):
        torch.testing.assert_close(other.adversarial, whole.adversarial[same], rtol=0, atol=1e-12)
        torch.testing.assert_close(other.loss, whole.loss[:, same], rtol=1e-5, atol=1e-6, equal_nan=True)
        assert torch.equal(other.queries_each, whole.queries_each[same])
    other = attack.model_copy(update={"seed": 1}).run(model, x, labels, threat)
    assert not torch.equal(other.adversarial, whole.adversarial)
    if stop:
        assert len(whole.queries_each.unique()) > 3  # they left the batch one by one


@pytest.mark.parametrize("threat", [Linf(0.012), L2(0.08)], ids=str)
def test_of_restarts_the_best_counts_and_who_fell_is_left_alone(threat: Threat) -> None:
    model, x = Wavy(speed=9.0), images(40)
    labels = predicted(model, x)
    often = Square(queries=15, restarts=4).run(model, x, labels, threat)
    once = Square(queries=15).run(model, x, labels, threat)
    assert once.fooled.sum() < often.fooled.sum() < 40
    assert torch.equal(often.adversarial[once.fooled], once.adversarial[once.fooled])
    assert torch.equal(often.queries_each[once.fooled], once.queries_each[once.fooled])
    assert (often.queries_each[~often.fooled] == 60).all()
    assert often.loss.shape == (60, 40)
    stand = ~often.fooled
    best = often.loss[:, stand].amax(0).double()
    torch.testing.assert_close(margin(model(often.adversarial), labels)[stand], best, rtol=1e-5, atol=1e-6)
    assert (often.loss[:, stand].amax(0) > often.loss[:15, stand].amax(0)).any()


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_it_needs_no_gradient_and_no_smooth_output(threat: Threat) -> None:
    """Logits rounded to whole numbers have the gradient 0: PGD stands still, this does not."""
    x = images(20, low=0.3, high=0.7, shape=(1, 6, 6))
    model = far((1, 6, 6), x)

    def rounded(x: Tensor) -> Tensor:
        return (8 * model(x)).round()

    labels = predicted(rounded, x)
    pgd = PGD().run(rounded, x, labels, threat)
    assert pgd.zero_gradient_share == 1.0
    assert pgd.accuracy.count == 20
    square = Square(queries=500).run(rounded, x, labels, threat)
    assert square.accuracy.count <= 5
    smooth = PGD(loss="margin").run(model, x, labels, threat)
    assert square.accuracy.count <= smooth.accuracy.count + 4


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_no_answer_counts_as_fooled_and_leaves_the_others_alone(threat: Threat) -> None:
    """Whether the clean image has none or a query does; nothing else fools here."""
    model = Linear(weights(3) / 100, torch.tensor([9.0, 0.0, 0.0], dtype=torch.float64))
    x = images(6, low=0.4, high=0.6)
    x[:, 0, 0, 0] = torch.tensor([0.3, 0.3, 0.95, 0.3, 0.79, 0.3])  # the fifth is a small change short of it

    def broken(x: Tensor) -> Tensor:
        corner = x[:, 0, 0, 0, None]
        return model(x).masked_fill((corner > 0.7) & ((corner - 0.79).abs() > 0.01), torch.nan)

    others = torch.tensor([0, 1, 3, 5])
    labels = predicted(model, x)
    for stop in (True, False):
        attack = Square(queries=60, stop_when_fooled=stop)
        result = attack.run(broken, x, labels, threat)
        without = attack.run(broken, x[others], labels[others], threat)
        assert result.fooled[2]
        assert result.clean[2] == -1
        assert result.clean[4] == 0
        assert result.predictions[4] == -1
        assert result.accuracy.count == 4
        assert torch.equal(result.adversarial[others], without.adversarial)
        assert torch.equal(result.queries_each[others], without.queries_each)
        assert torch.isfinite(result.adversarial).all()
        if stop:
            assert result.queries_each[2] == 1


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_logits_may_be_shifted_and_scaled(threat: Threat, classes: int) -> None:
    """The margin decides: the same images come out, to the last bit for a power of two."""
    x = images(6, shape=(2, 5, 5))
    model = far((2, 5, 5), x, classes)
    labels = predicted(model, x)
    attack = Square(queries=200, stop_when_fooled=False)
    plain = attack.run(model, x, labels, threat).adversarial
    assert (plain != x).any()
    for scale, shift in ((1024.0, 0.0), (2.0**-10, 0.0), (1000.0, 0.0), (1e-3, 0.0), (1.0, 50.0), (1.0, -50.0)):
        changed = attack.run(Linear(scale * model.weight, scale * model.bias + shift), x, labels, threat).adversarial
        torch.testing.assert_close(changed, plain, rtol=0, atol=1e-9)


@pytest.mark.parametrize("norm", NORMS)
def test_a_radius_of_zero_and_a_single_query_leave_the_images(norm: Norm) -> None:
    x = images(4)
    labels = predicted(Wavy(), x)
    for attack, eps in ((Square(queries=30), 0.0), (Square(queries=1), 0.2), (Square(queries=1, restarts=1), 0.2)):
        result = attack.run(Wavy(), x, labels, Threat(norm, eps))
        assert torch.equal(result.adversarial, x)
        assert result.accuracy.count == 4
        assert result.queries_each.tolist() == [attack.queries] * 4


@pytest.mark.parametrize("norm", NORMS)
def test_more_queries_are_worth_more(norm: Norm) -> None:
    x = images(40, shape=(1, 8, 8))
    model = far((1, 8, 8), x)
    labels = predicted(model, x)
    threat = Threat(norm, 0.02 if norm == "linf" else 0.2)
    counts = [Square(queries=queries).run(model, x, labels, threat).accuracy.count for queries in (1, 2, 20, 400)]
    assert counts[0] == 40
    assert all(more <= less for less, more in pairwise(counts))
    assert counts[3] < counts[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queries": 0}, r"Square: queries: Input should be greater than 0 \(got 0\)"),
        ({"restarts": 0}, "Square: restarts: Input should be greater than 0"),
        ({"p_init": 0.0}, "Square: p_init: Input should be greater than 0"),
        ({"p_init": 1.1}, "Square: p_init: Input should be less than or equal to 1"),
        ({"loss": "l1"}, "Square: loss: Input should be"),
        ({"steps": 10}, "Square: steps: Extra inputs are not permitted"),
    ],
)
def test_refuses_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(AttackError, match=message):
        Square(**settings)


def test_its_work_and_price() -> None:
    attack = Square(queries=30, restarts=2)
    assert attack.work == 60
    assert attack.price == (0, 60)
    assert Square().work == 5000
    assert not Square.needs_gradient
