"""The skew block's derivative by hand: what it gives, and to whom it is not given."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrize

from fast_and_plain import close, images, needs_kernels
from sonet import kernels
from sonet.blocks import SkewConv, skew_conv_block
from sonet.blocks.skew_gradient import SkewGradient
from sonet.solvers import Fixed, integrate
from sonet.solvers.own_gradient import evaluate, own_gradient
from sonet.types import State

pytestmark = needs_kernels


def field_and_state(
    in_channels: int, out_channels: int, stride: int, size: tuple[int, int], slope: float = 0.1, samples: int = 2
) -> tuple[SkewConv, State]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        field = SkewConv(in_channels, out_channels, stride, slope=slope).double()
        for name, weight in field.named_parameters():
            if "norm" in name:
                nn.init.normal_(weight)
        y = torch.randn(samples, out_channels, size[0] // stride, size[1] // stride, dtype=torch.float64)
        z = torch.randn(samples, in_channels, *size, dtype=torch.float64)
    channels_last = (kernels.channels_last(part).requires_grad_() for part in (y, z))
    return field, tuple(channels_last)


def small() -> tuple[SkewConv, State]:
    return field_and_state(2, 4, 2, (5, 6))


def gradients(slope: State, inputs: list[Tensor]) -> list[Tensor]:
    grads = [torch.arange(part.numel(), dtype=part.dtype).view(part.shape).cos() for part in slope]
    return [*(part.detach() for part in slope), *torch.autograd.grad(slope, inputs, grads)]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([1, 2]),
    st.tuples(st.integers(2, 9), st.integers(2, 9)),
    st.sampled_from([1.0, 0.01, 0.5]),
)
def test_slope_and_gradients_are_those_of_autograd(
    in_channels: int, out_channels: int, stride: int, size: tuple[int, int], slope: float
) -> None:
    """At any size: odd ones come back through K^T by their output padding."""
    field, state = field_and_state(in_channels, out_channels, stride, size, slope)
    own = own_gradient(field, state)
    assert isinstance(own, SkewGradient)
    inputs = [*state, *field.parameters()]
    close(gradients(evaluate(own, state), inputs), gradients(field(torch.zeros(2), state), inputs), 1e-11)
    close(list(own.plain(state, own.parameters)), list(field(torch.zeros(2), state)), 1e-13)


def test_it_can_be_differentiated_twice() -> None:
    field, state = field_and_state(2, 4, 2, (3, 4))
    own = own_gradient(field, state)
    assert own is not None
    assert torch.autograd.gradcheck(lambda *some: evaluate(own, some), state)
    assert torch.autograd.gradgradcheck(lambda *some: evaluate(own, some), state, atol=1e-4)


class Doubled(SkewConv):
    def forward(self, t: Tensor, state: State) -> State:
        dy, dz = super().forward(t, state)
        return 2 * dy, 2 * dz


class Other(nn.GroupNorm):
    def forward(self, values: Tensor) -> Tensor:
        return 2 * super().forward(values)


class Double(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def patched(field: SkewConv) -> SkewConv:
    convolve = field.convolve
    field.convolve = lambda z: 2 * convolve(z)  # type: ignore[method-assign]
    return field


def parametrized(field: SkewConv) -> SkewConv:
    parametrize.register_parametrization(field, "kernel", Double())
    return field


def replaced(**changes: Callable[[SkewConv], object]) -> Callable[[SkewConv], SkewConv]:
    def change(field: SkewConv) -> SkewConv:
        for name, make in changes.items():
            setattr(field, name, make(field))
        return field

    return change


def subclassed(field: SkewConv) -> SkewConv:
    other = Doubled(2, 4, 2, slope=field.slope).double()
    other.load_state_dict(field.state_dict())
    return other


def norm_parametrized(field: SkewConv) -> SkewConv:
    parametrize.register_parametrization(field.norm_z, "weight", Double())
    return field


def strided_weight(field: SkewConv) -> SkewConv:
    field.norm_y.weight = nn.Parameter(torch.randn(8, generator=torch.Generator().manual_seed(3)).double()[::2])
    return field


STRANGE: dict[str, Callable[[SkewConv], SkewConv]] = {
    "damped": replaced(gamma=lambda _: 0.5),
    "subclass": subclassed,
    "method of its own": patched,
    "forward of its own": replaced(
        forward=lambda field: lambda t, s: tuple(3 * d for d in SkewConv.forward(field, t, s))
    ),
    "norm of another kind": replaced(norm_dy=lambda _: Other(4, 4).double()),
    "norm's forward": lambda field: replaced(forward=lambda _: torch.sin)(field.norm_z) and field,  # type: ignore[arg-type]
    "no norm": replaced(norm_y=lambda _: nn.Identity()),
    "norm without weights": replaced(norm_y=lambda _: nn.GroupNorm(4, 4, affine=False)),
    "norm without bias": replaced(norm_y=lambda _: nn.GroupNorm(4, 4, bias=False).double()),
    "parametrized kernel": parametrized,
    "parametrized norm": norm_parametrized,
    "weights that lie apart": strided_weight,
}


@pytest.mark.parametrize("which", STRANGE)
def test_a_field_that_is_not_quite_the_formula_is_not_taken_for_it(which: str) -> None:
    """And gives what its own forward gives."""
    field, state = small()
    usual = field(torch.zeros(2), state)
    field = STRANGE[which](field)
    assert own_gradient(field, state) is None
    changed = field(torch.zeros(2), state)
    assert not all(torch.allclose(a, b) for a, b in zip(usual, changed, strict=True))
    end = integrate(field, state, Fixed(method="euler", num_steps=1)).state
    close(list(end), [part + slope for part, slope in zip(state, changed, strict=True)], 1e-14)


class Wrapper:
    """Hands on whatever it does not have."""

    def __init__(self, field: SkewConv) -> None:
        self.inner = field

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def __call__(self, t: Tensor, state: State) -> State:
        dy, dz = self.inner(t, state)
        return 2 * dy, 2 * dz


@pytest.mark.parametrize("method", ["forward", "convolve", "transpose"])
def test_a_method_put_into_the_class_is_not_passed_by(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    field, state = small()
    assert own_gradient(field, state) is not None
    written = getattr(SkewConv, method)
    monkeypatch.setattr(SkewConv, method, lambda *given: written(*given))
    assert own_gradient(field, state) is None


def test_a_wrapper_is_not_passed_by() -> None:
    field, state = small()
    slope = field(torch.zeros(2), state)
    end = integrate(Wrapper(field), state, Fixed(method="euler", num_steps=1)).state
    close(list(end), [part + 2 * some for part, some in zip(state, slope, strict=True)], 1e-14)


HOOKS: dict[str, Callable[[nn.Module, Callable[..., None]], object]] = {
    "forward": lambda part, hook: part.register_forward_hook(hook),
    "forward pre": lambda part, hook: part.register_forward_pre_hook(hook),
    "backward": lambda part, hook: part.register_full_backward_hook(hook),
    "backward pre": lambda part, hook: part.register_full_backward_pre_hook(hook),
    "everywhere": lambda part, hook: register_module_forward_hook(hook),
}


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")  # a state is a tuple, through which it cannot see
@pytest.mark.parametrize("kind", HOOKS)
@pytest.mark.parametrize("part", ["", "norm_y", "norm_dz"])
def test_hooks_are_called(part: str, kind: str) -> None:
    field, state = small()
    calls: list[object] = []

    def compute() -> int:
        calls.clear()
        read = integrate(field, state, Fixed(num_steps=1)).state[0].sum()
        read.backward()
        return len(calls)

    handle = HOOKS[kind](field.get_submodule(part), lambda module, *_: calls.append(module))
    try:
        count = compute()
        with kernels.plain():
            assert compute() == count > 0
    finally:
        handle.remove()  # type: ignore[attr-defined]
    assert own_gradient(field, state) is not None


def test_states_of_another_kind_are_left_to_the_plain_path() -> None:
    field, (y, z) = small()
    assert own_gradient(field, (y, z)) is not None
    for state in ((y.float(), z.float()), (y, z.float()), (y, z, z), (y[0], z[0]), (y[:1], z), (z, y)):
        assert own_gradient(field, state) is None


def test_what_is_wrong_is_said_as_on_the_plain_path() -> None:
    """Weights of the wrong size would be read past their end."""
    field, state = small()
    single = tuple(part[:1, :, :1, :1] for part in state)

    def message(change: Callable[[], State]) -> str:
        with pytest.raises((RuntimeError, ValueError)) as caught:
            integrate(field, change(), Fixed(num_steps=1))
        return str(caught.value)

    def short_weight() -> State:
        field.norm_y.weight = nn.Parameter(torch.ones(3, dtype=torch.float64))
        return state

    def one_number_a_group() -> State:
        field.norm_y = nn.GroupNorm(4, 4).double()
        return single

    for change in (one_number_a_group, short_weight, lambda: (state[0][:, :3], state[1]), lambda: (state[1], state[0])):
        found = message(change)
        with kernels.plain():
            assert message(change) == found


def test_a_large_mean_is_no_worse_than_plain() -> None:
    """In float32, against float64: images of brightness 1000 and contrast 1."""
    field, state = field_and_state(3, 8, 1, (9, 9))
    bright = tuple((part.detach() + 1000).float() for part in state)
    wide = field(torch.zeros(2), tuple(part.double() for part in bright))
    field.float()
    own = own_gradient(field, bright)
    assert own is not None
    for fast, plain, truth in zip(evaluate(own, bright), field(torch.zeros(2), bright), wide, strict=True):
        error = (fast - truth).abs().max().item()
        assert error <= 4 * (plain - truth).abs().max().item() + 16 * torch.finfo(torch.float32).eps


def frozen_then(field: SkewConv, damped: bool) -> nn.Module:
    """A block without trainable weights, and one with them on its channels-last output."""
    first = skew_conv_block(1, 2, 1, Fixed(num_steps=1), gamma=0.0, slope=0.1, norm=True).double().requires_grad_(False)
    second = skew_conv_block(2, 4, 2, Fixed(num_steps=1), gamma=0.3 * damped, slope=0.1, norm=True).double()
    second.field.load_state_dict(field.state_dict())
    return nn.Sequential(first, second)


@pytest.mark.parametrize("damped", [False, True])
def test_images_that_need_no_gradient(damped: bool) -> None:
    """PyTorch's GroupNorm crashes on such a state if it is channels last, where one block leaves it to the next."""
    field, _ = small()
    model = frozen_then(field, damped)
    x = images(2, 1, 6, 6).detach().contiguous(memory_format=torch.channels_last)
    weights = list(model[1].parameters())
    found = torch.autograd.grad(model(x).sin().sum(), weights)
    with kernels.plain():
        expected = torch.autograd.grad(model(x).sin().sum(), weights)
    close(list(found), list(expected))


def test_with_frozen_weights_there_is_no_graph() -> None:
    field, state = small()
    field.requires_grad_(False)
    own = own_gradient(field, state)
    assert own is not None
    assert not evaluate(own, tuple(part.detach() for part in state))[0].requires_grad
    assert evaluate(own, state)[0].requires_grad
