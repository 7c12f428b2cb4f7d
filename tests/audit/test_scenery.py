"""What a reader looks at: the surface of a linear model in closed form, and how each image fared."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
import torch
from audit_subjects import Landscape, drawn, on_landscape, reference_run, subject_of
from PIL import Image
from torch import Tensor, nn

from sonet.attacks import L2, Linf
from sonet.attacks.noise import ImageNoise
from sonet.audit.planted import Coupled, Detached, Linear, NaNNear
from sonet.audit.scenery import GRID, PICTURES, outcomes, pictures, surface
from sonet.audit.subject import Subject

MODEL = Linear.random(2, seed=1)
IMAGES = drawn(6)
LABELS = MODEL(IMAGES).argmax(1)


@pytest.mark.parametrize("threat", [Linf(0.05), L2(0.3)], ids=str)
def test_the_surface_of_a_linear_model_is_a_plane(threat: Any) -> None:
    r"""margin(x + eps (a v + b r)) = margin(x) + eps (a <w, v> + b <w, r>), w the difference of the two rows."""
    found = surface(subject_of(MODEL, IMAGES, threat=threat))
    assert found is not None
    assert found.index == 0
    label = int(LABELS[0])
    w = (MODEL.weight[1 - label] - MODEL.weight[label]).double()
    v = threat.steepest(w.view(1, 1, 8, 8)).flatten()
    r = threat.steepest(ImageNoise(IMAGES[:1], 3).normal()).flatten().double()
    gap = float(IMAGES[0].flatten().double() @ w + (MODEL.bias[1 - label] - MODEL.bias[label]).double())
    a = torch.linspace(-1, 1, GRID).double()
    plane = gap + threat.eps * (a[:, None] * float(w @ v.double()) + a[None, :] * float(w @ r))
    torch.testing.assert_close(torch.tensor(found.loss).double(), plane, rtol=1e-4, atol=1e-4)
    assert found.wrong == (plane > 0).tolist()
    assert found.attack == found.random == pytest.approx(a.tolist(), abs=1e-6)


def test_the_surface_is_of_the_first_that_only_others_fell() -> None:
    subject = subject_of(MODEL, IMAGES, threat=Linf(0.5))
    stages = subject.stages
    crafted = MODEL.nearest(IMAGES, LABELS, "linf").float()
    past = (IMAGES + 1.1 * (crafted - IMAGES)).clamp(0, 1)
    places = torch.arange(6)
    stages.note("pgd", "own", torch.where((places < 2).view(-1, 1, 1, 1), past, IMAGES), places < 6, plain=True)
    found = surface(subject)
    assert found is not None
    assert found.index == 0
    stages.note("square", "none", torch.where((places == 3).view(-1, 1, 1, 1), past, IMAGES), places == 3)
    found = surface(subject)
    assert found is not None
    assert found.index == 3


def test_the_surface_is_of_an_image_that_is_right_or_there_is_none() -> None:
    labels = LABELS.clone()
    labels[:2] = 1 - labels[:2]
    found = surface(subject_of(MODEL, IMAGES, labels))
    assert found is not None
    assert found.index == 2
    assert surface(subject_of(MODEL, IMAGES, 1 - LABELS)) is None


def test_no_answer_is_wrong_on_the_surface_and_has_a_number_as_its_loss() -> None:
    """Of class 0, which NaN has its largest logit at."""
    place = int((LABELS == 0).nonzero()[0])
    images = IMAGES[place : place + 1]
    eps = 0.01  # within reach of NaN but for the image itself

    class Around(nn.Module):
        def forward(self, given: Tensor) -> Tensor:
            same = (given - images).flatten(1).abs().amax(1, keepdim=True) < 1e-4
            return torch.where(same, MODEL(given), torch.nan)

    found = surface(subject_of(Around().eval(), images, threat=Linf(eps)))
    assert found is not None
    wrong = torch.tensor(found.wrong)
    assert not bool(wrong[GRID // 2, GRID // 2])
    assert int(wrong.sum()) == GRID * GRID - 1
    assert all(loss == 0 for loss in np.delete(np.array(found.loss).flatten(), GRID * GRID // 2))


def test_where_mates_matter_each_point_is_asked_for_by_itself() -> None:
    model = Coupled(MODEL, strength=5.0)
    subject = subject_of(model, IMAGES)
    assert subject.coupled
    found = surface(subject)
    assert found is not None
    image, label = IMAGES[found.index], int(subject.labels[found.index])
    alone = model(image[None])[0]
    assert found.loss[GRID // 2][GRID // 2] == pytest.approx(float(alone[1 - label] - alone[label]), abs=1e-4)


@pytest.mark.parametrize("model", [Detached(MODEL), MODEL])
def test_a_surface_without_radius_or_gradient_is_flat_along_the_attack(model: nn.Module) -> None:
    eps = 0.1 if isinstance(model, Detached) else 0.0
    found = surface(subject_of(model, IMAGES, threat=Linf(eps)))
    assert found is not None
    loss = torch.tensor(found.loss)
    torch.testing.assert_close(loss, loss[:1].expand(GRID, GRID), rtol=0, atol=1e-5)


def fared() -> Subject:
    """Four images: wrong by itself, no answer, felled by pgd, stands."""
    kinds = [[(-1.0, 1.0), (1.0, 1.0)], [(-1.0, -1.0), (1.0, -1.0)], [(-1.0, -2.0), (0.0, -0.01), (1.0, 9.0)]]
    images = on_landscape([0, 1, 2, 1], pixels=4)
    images[1, 0, 0, 3] = 0.9
    model = NaNNear(Landscape(*kinds).eval(), images[1], reach=0.2)
    subject = subject_of(model, images, torch.zeros(4, dtype=torch.int64), threat=Linf(0.1))
    reference_run(subject)
    return subject


def test_outcomes_say_how_each_image_fared() -> None:
    told = [(o.index, o.label, o.predicted, o.fell_to, o.plain_stood) for o in outcomes(fared(), ["cat", "dog"])]
    assert told == [
        (0, "cat", "dog", "no attack", False),
        (1, "cat", "no answer", "no attack", False),
        (2, "cat", "cat", "pgd", False),
        (3, "cat", "cat", "none", True),
    ]
    assert [o.predicted for o in outcomes(fared(), [])] == ["1", "no answer", "0", "0"]
    assert [o.predicted for o in outcomes(fared(), ["cat"])] == ["1", "no answer", "cat", "cat"]


def decoded(png: str) -> Tensor:
    """The picture's pixels, each drawn four by four, in [0, 1]."""
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))), dtype=np.float64)[::4, ::4]
    return torch.tensor(pixels / 255)


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_of_those_that_fell(channels: int) -> None:
    model = Linear(torch.eye(2, 4 * channels), torch.zeros(2))
    images = torch.rand(5, channels, 2, 2, generator=torch.Generator().manual_seed(0))
    subject = subject_of(model, images, threat=Linf(1.0))
    reference_run(subject)
    made = pictures(subject, "tiny", ["cat", "dog"])
    assert [picture.index for picture in made] == sorted(subject.stages.fell_to)
    assert len(made) > 0
    for picture in made:
        label = int(subject.labels[picture.index])
        assert (picture.label, picture.predicted_clean) == (("cat", "dog")[label],) * 2
        assert picture.predicted_adversarial == ("dog", "cat")[label]
        assert (picture.attack, picture.model, picture.eps) == ("pgd", "tiny", 1.0)
        for png, image in ((picture.original, images), (picture.adversarial, subject.stages.worst)):
            shown = image[picture.index].double()
            shown = shown[0] if channels == 1 else shown.permute(1, 2, 0)
            torch.testing.assert_close(decoded(png), shown, rtol=0, atol=0.5 / 255 + 1e-6)


def test_pictures_begin_with_those_that_plain_attacks_left_and_are_few() -> None:
    images = drawn(12)
    labels = MODEL(images).argmax(1)
    subject = subject_of(MODEL, images, threat=Linf(0.9))
    past = (images + 1.1 * (MODEL.nearest(images, labels, "linf").float() - images)).clamp(0, 1)
    places = torch.arange(12)
    for name, plain, whose in (("pgd", True, places < 10), ("square", False, places >= 10)):
        subject.stages.note(name, "own", torch.where(whose.view(-1, 1, 1, 1), past, images), whose, plain=plain)
    made = pictures(subject, "m", [])
    assert [picture.index for picture in made] == [10, 11, *range(PICTURES - 2)]
    assert [picture.attack for picture in made[:3]] == ["square", "square", "pgd"]


def test_no_pictures_of_images_that_have_no_colours() -> None:
    images = drawn(3, (2, 2, 2))
    subject = subject_of(Linear(torch.eye(2, 8), torch.zeros(2)), images, threat=Linf(1.0))
    reference_run(subject)
    assert subject.stages.fell_to
    assert pictures(subject, "m", []) == []


def test_no_pictures_where_none_fell_or_none_was_right() -> None:
    standing = subject_of(MODEL, IMAGES, threat=Linf(0.0))
    reference_run(standing)
    assert pictures(standing, "m", []) == []
    nobody = subject_of(MODEL, IMAGES, 1 - LABELS)
    assert pictures(nobody, "m", []) == []
    assert [o.fell_to for o in outcomes(nobody, [])] == ["no attack"] * 6
