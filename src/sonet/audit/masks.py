"""Networks whose gradient is masked, each in one known way, to try an audit on: the right answer is *masked*.

What follows the network's own cross-entropy gradient leaves far more accuracy than there is. The constants were chosen
on the digits (8 x 8 grey, `plain` and `KWinners` trained from seeds 100 to 102, 64 test images) so that at `MASK_EPS`
PGD and APGD on cross-entropy, in a batch of 64, leave at least 30 points more than those and all others together,
and that the natural accuracy stays above 0.9. For `plain` itself the two agree within 5 points: no masking.

Rounded pixels and a cut graph, `Quantised` and `Detached`, are in `sonet.audit.planted`, where `MASKS` has all by name.
The trained networks themselves are in `sonet.audit.networks`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sonet.audit.wrapper import Wrapper
from sonet.types import Classifier, Images, Logits

MASK_EPS = 0.15
"""The radius, linf. `plain` is left with about a tenth. At 0.2 `KWinners` falls to its own poor gradient as well."""
LEVELS = 8
"""Grey levels of rounded pixels: 1 / 7 apart, so that an attack of `MASK_EPS` moves each pixel by one of them."""
SATURATION = 1e4
"""Times a margin. Beyond 104 cross-entropy and its gradient are 0 in float32: here from a margin of 0.01 on."""
SURE = 40.0
"""Times a margin, before a softmax: 0 and 1 in float32 from a margin of 2.6 on, in float64 only from 18.6 on."""
QUALITY = 50
"""Of JPEG: the table of the standard as it is, steps of 10 to 121 grey levels."""
WAVE, FREQUENCY = 0.01, 3000.0
"""Of `Shattering`: the slope swings by 30 about 1, so that its sign is right in 51 % of the pixels."""
PHASE_WAVE, PHASE_FREQUENCY = 0.02, 1500.0
"""Of `RandomPhase`: slopes of -29 to 31. A mean over some hundred calls has the sign mostly right, one call has not."""
MATES_WAVE, MATES_FREQUENCY = 0.3, 1e4
"""Of `BatchMates`: 0.3 is small against margins of 3 to 12; the slope of the term is 3,000 times a mean of pixels."""


class RandomPhase(Wrapper):
    r"""Masked by noise: x + a sin(w x + phi) for x, phi uniform in [0, 2 pi) for each pixel at each call.

    To the forward pass that is input noise of standard deviation a / sqrt(2). The gradient of one call is multiplied by
    1 + a w cos(w x + phi), of mean 1 and standard deviation a w / sqrt(2) >> 1: stochastic gradients (Athalye et al.
    2018, arXiv:1802.00420). Right answer: masked; the mean gradient over calls, SPSA and Square tell. Predictions of
    images near a boundary change from call to call: judge by the majority of several.

    seed: of the stream of phases, which goes on from call to call.
    """

    def __init__(
        self, model: Classifier, amplitude: float = PHASE_WAVE, frequency: float = PHASE_FREQUENCY, seed: int = 0
    ) -> None:
        super().__init__(model)
        self.amplitude, self.frequency = amplitude, frequency
        self._generator = torch.Generator().manual_seed(seed)

    def forward(self, images: Images) -> Logits:
        turns = torch.rand(images.shape, generator=self._generator, dtype=images.dtype).to(images.device)
        return self.model(images + self.amplitude * torch.sin(self.frequency * images + 2 * math.pi * turns))


class BatchMates(Wrapper):
    r"""Masked by batch-mates: z_ik + a d_k sin(w s_i), s_i = sum_{j != i} mean_p(u_p x_jp), d_k from -1 to 1.

    u: a fixed sign for each pixel. A sample's logits move by a at most, and not with its own pixels; but those are in
    the logits of all others, with a slope of a w. The gradient of the batch's summed loss is therefore that of other
    samples' losses, along +-u: in a batch of 64 `own_gradient_share` is below a per cent for cross-entropy, about a
    tenth for margins. A batch of one is the model itself. Right answer: masked; attacks on one image at a time, or
    without gradients, tell.

    A caricature of step sizes shared by a batch, through which the gradient flows (`sonet.paper()`).
    """

    def __init__(
        self, model: Classifier, amplitude: float = MATES_WAVE, frequency: float = MATES_FREQUENCY, seed: int = 0
    ) -> None:
        super().__init__(model)
        self.amplitude, self.frequency, self.seed = amplitude, frequency, seed

    def forward(self, images: Images) -> Logits:
        logits = self.model(images)
        features = (images * fixed_signs(images, self.seed)).flatten(1).mean(1)
        mates = features.sum() - features  # exactly 0 for a batch of one
        direction = torch.linspace(-1, 1, logits.shape[1], dtype=logits.dtype, device=logits.device)
        return logits + self.amplitude * torch.sin(self.frequency * mates)[:, None] * direction


class SaturatedLogits(Wrapper):
    """Masked by saturation: logits times `by`, so that cross-entropy and its gradient are exactly 0 in float32.

    Right answer: masked; every loss of differences of logits (margin, ratio, log-odds) tells, and so does Square. The
    gradient of distilled networks vanished so (Carlini and Wagner 2017, arXiv:1608.04644).
    """

    def __init__(self, model: Classifier, by: float = SATURATION) -> None:
        super().__init__(model)
        self.by = by

    def forward(self, images: Images) -> Logits:
        return self.model(images) * self.by


class SureSoftmax(Wrapper):
    """Masked by a softmax in the model, of logits times `by`: 0 and 1 in float32, and no gradient of any loss is left.

    Right answer: masked. The same network in float64 tells (what is left there is the slope of the runner-up's logit),
    and the logits below the softmax do; Square tells less, for the outputs are flat to it too, and SPSA nothing.
    """

    def __init__(self, model: Classifier, by: float = SURE) -> None:
        super().__init__(model)
        self.by = by

    def forward(self, images: Images) -> Logits:
        return (self.model(images) * self.by).softmax(1)


class JPEGStep(Wrapper):
    r"""Masked by compression: blocks of 8 x 8 pixels, C = D B D^T, C <- Q round(C / Q), B = D^T C D: gradient 0.

    D is the orthonormal discrete cosine transform, B = 255 x - 128, Q the standard's table for luminance at `quality`,
    1 to 100, as libjpeg scales it. Right answer: masked; Square and SPSA tell, and a straight-through gradient would
    (Athalye et al. 2018, against Guo et al. 2018, arXiv:1711.00117).

    Deviations from JPEG: all channels are treated as luminance at full resolution, and the result, in [0, 1], is not
    rounded to grey levels. Sides that are not multiples of 8 are padded with their last pixels.
    """

    table: Tensor
    transform: Tensor

    def __init__(self, model: Classifier, quality: int = QUALITY) -> None:
        super().__init__(model)
        if not 1 <= quality <= 100:
            raise ValueError(
                f"JPEGStep: got quality {quality}, expected 1 to 100, where JPEG's scale of it is defined."
            )
        scale = 5000 // quality if quality < 50 else 200 - 2 * quality
        self.register_buffer("table", ((torch.tensor(LUMINANCE) * scale + 50) // 100).clamp(1, 255).double())
        place = torch.arange(8, dtype=torch.float64)
        transform = torch.cos(math.pi / 16 * (2 * place + 1) * place[:, None]) / 2
        transform[0] /= math.sqrt(2)
        self.register_buffer("transform", transform)

    def forward(self, images: Images) -> Logits:
        return self.model(self.compressed(images))

    def compressed(self, images: Images) -> Images:
        """What is left of the images, of the same shape, in [0, 1]."""
        height, width = images.shape[2:]
        padded = F.pad(images, (0, -width % 8, 0, -height % 8), mode="replicate")
        rows, columns = padded.shape[2] // 8, padded.shape[3] // 8
        blocks = (padded * 255 - 128).reshape(*padded.shape[:2], rows, 8, columns, 8).transpose(3, 4)
        transform, table = self.transform.to(images), self.table.to(images)
        kept = (transform @ blocks @ transform.T / table).round() * table
        whole = (transform.T @ kept @ transform).transpose(3, 4).reshape(padded.shape)
        found: Images = ((whole[:, :, :height, :width] + 128) / 255).clamp(0, 1)
        return found


class Shattering(Wrapper):
    r"""Masked by ripples: x + a sin(w x) for each pixel x, a w >> 1.

    Pixels move by a at most, which is small against the radius; slopes swing between 1 - a w and 1 + a w, and their
    signs are noise that no iteration averages out: shattered gradients (Athalye et al. 2018). Right answer: masked;
    Square and SPSA, whose probes are many ripples wide, tell. At a pixel of exactly 0 the slope is 1 + a w.
    """

    def __init__(self, model: Classifier, amplitude: float = WAVE, frequency: float = FREQUENCY) -> None:
        super().__init__(model)
        self.amplitude, self.frequency = amplitude, frequency

    def forward(self, images: Images) -> Logits:
        return self.model(images + self.amplitude * torch.sin(self.frequency * images))


class WrongBackward(Wrapper):
    """Masked by an error: the forward pass is the model's, the backward pass has a fixed wrong sign in half the pixels.

    Right answer: masked; every attack without gradients tells, and so do finite differences. Such an error is easily
    made in a hand-written backward pass. seed: of the signs; None: all are wrong, the attack goes the other way.
    """

    def __init__(self, model: Classifier, seed: int | None = 0) -> None:
        super().__init__(model)
        self.seed = seed

    def forward(self, images: Images) -> Logits:
        signs = -torch.ones_like(images[0]) if self.seed is None else fixed_signs(images, self.seed)
        return self.model(_Misled.apply(images, signs))  # type: ignore[no-untyped-call]


class _Misled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Images, signs: Tensor) -> Images:
        ctx.save_for_backward(signs)
        return images.view_as(images)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (signs,) = ctx.saved_tensors
        return gradients[0] * signs, None


def fixed_signs(images: Images, seed: int) -> Tensor:
    """-1 or +1 for each pixel of one image, (C, H, W), of the images' kind; the same for the same shape and seed."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(2, images.shape[1:], generator=generator) * 2 - 1).to(images)


# ITU-T T.81 (1992), table K.1.
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
