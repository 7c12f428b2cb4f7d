"""The table of a network: what each block was seen to do stays below what is proven, and reasons are given."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sonet.blocks import BasicBlock, ODEBlock, ode_blocks, skew_conv_block
from sonet.blocks.stability import Stability, format_stability, stability
from sonet.models import build, swap_solver
from sonet.solvers import Adaptive, Fixed

SEEN = 1 + 1e-4
"""What is measured is computed in float32."""
EULER = Fixed(method="euler", num_steps=2)
STAGES: dict[str, Any] = {"in_channels": 1, "channels": 2, "blocks": (1, 1), "strides": (1, 2), "classes": 3}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "stable": ("stable-sonet", STAGES | {"image_size": (7, 6), "kernel_norm": 0.5, "slope": 0.8}),
    "potential": ("convex-potential", STAGES | {"image_size": (7, 6)}),
    "sonet": ("sonet", STAGES | {"solver": EULER}),
    "sonet, no norm": ("sonet", STAGES | {"solver": EULER, "norm": False, "gamma": 0.2}),
    "resnet": ("resnet10", STAGES),
    "wide": ("wide-resnet", {"in_channels": 1, "depth": 10, "widen": 1, "classes": 3}),
    "odenet": ("odenet", {"in_channels": 1, "channels": 2, "num_blocks": 2, "solver": EULER}),
}
PROVEN = ["stable", "potential", "sonet, no norm", "resnet", "wide"]


def images(n: int = 3, height: int = 7, width: int = 6) -> Tensor:
    return torch.rand(n, 1, height, width, generator=torch.Generator().manual_seed(0))


def network(name: str) -> nn.Module:
    """With random biases and, from some images, statistics."""
    kind, options = NETWORKS[name]
    model = build(kind, seed=3, **options)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        if name in ("resnet", "wide"):
            for _ in range(3):
                model(images(12))
    return model


def table(model: nn.Module) -> tuple[Stability, ...]:
    return stability(model, images(), rounds=12)


def assert_within(row: Stability) -> None:
    assert row.block is not None
    assert 0 < row.measured <= row.block * SEEN
    assert 0 < row.pairs <= row.block * SEEN
    if row.field is not None:
        assert row.logarithmic is not None
        assert row.field <= row.logarithmic + 1e-4


@pytest.mark.parametrize("name", PROVEN)
def test_what_is_seen_stays_below_what_is_proven(name: str) -> None:
    model = network(name)
    rows = table(model)
    blocks = [n for n, m in model.named_modules() if type(m).__name__ in ("ODEBlock", "BasicBlock", "WideBlock")]
    assert [row.name for row in rows] == blocks
    for row in rows:
        assert row.why == ""
        assert_within(row)
        assert isinstance(model.get_submodule(row.name), ODEBlock) == (row.field is not None)


@pytest.mark.parametrize("name", ["stable", "potential"])
def test_no_block_of_a_stable_network_expands(name: str) -> None:
    for row in table(network(name)):
        assert row.step is not None
        assert row.block is not None
        assert row.step <= 1 + 1e-9
        assert row.block <= 1 + 1e-8
        assert row.kernel_norm is not None
        assert row.measured > 0.3


def test_a_stable_network_that_was_trained_hard_stays_so() -> None:
    """Away from zero, large weights, biases at which neurons switch: the bounds are those of the construction."""
    model = network("stable").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=3.0)
    for _ in range(5):
        loss = -model(images(8)).std(0).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for row in table(model):
        assert_within(row)
        assert row.block is not None
        assert row.block <= 1 + 1e-8


@pytest.mark.parametrize("name", ["sonet", "odenet"])
def test_blocks_without_a_bound_are_measured_and_say_why(name: str) -> None:
    rows = table(network(name))
    convolutions = [row for row in rows if row.name != "head"]
    for row in convolutions:
        assert (row.kernel_norm, row.logarithmic, row.flow, row.step, row.block) == (None,) * 5
        assert "GroupNorm" in row.why
        assert row.measured > 0
        assert row.pairs > 0
        assert row.field is not None
        assert math.isfinite(row.field)
    if name == "sonet":
        (head,) = (row for row in rows if row.name == "head")
        assert head.why == ""
        assert_within(head)


def test_adaptive_steps_have_a_flow_but_no_step_and_no_block() -> None:
    model = network("sonet, no norm")
    with swap_solver(model, Adaptive()):
        rows = table(model)
    for row in rows:
        assert "adaptive steps depend on the input" in row.why.lower()
        assert (row.step, row.block) == (None, None)
        assert row.logarithmic is not None
        assert row.flow == pytest.approx(math.exp(row.logarithmic), rel=1e-9)
        assert row.field is not None
        assert row.field <= row.logarithmic + 1e-4


def test_without_its_damping_a_stable_network_may_expand_and_the_table_says_so() -> None:
    model = network("stable")
    for block in ode_blocks(model).values():
        assert isinstance(block, ODEBlock)
        vars(block.field)["gamma"] = 0.0
    rows = table(model)
    assert all(row.step is not None and row.step > 1.005 for row in rows)
    for row in rows:
        assert_within(row)


@pytest.mark.parametrize("mode", [True, False])
def test_the_model_is_left_as_it_was(mode: bool) -> None:
    model = network("resnet").train(mode)
    inner = model.get_submodule("stages.0.0.bn1")
    inner.train(not mode)
    modes = [module.training for module in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    table(model)
    assert [module.training for module in model.modules()] == modes
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_modes_and_hooks_are_put_back_after_an_error() -> None:
    model = network("stable").train()
    with pytest.raises(ValueError, match="expected"):
        stability(model, torch.rand(1, 1, 9, 9))
    assert all(module.training for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_the_same_seed_gives_the_same_table() -> None:
    model = network("sonet, no norm")
    assert table(model) == table(model)


def test_the_global_generator_is_not_touched() -> None:
    model = network("resnet")
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    table(model)
    assert torch.equal(torch.rand(3), wanted)


def test_the_text_has_a_line_for_every_block_and_every_reason() -> None:
    model = nn.Sequential(
        skew_conv_block(1, 2, 1, EULER, gamma=0.0, slope=0.1, norm=True),
        skew_conv_block(2, 2, 1, Adaptive(), gamma=0.0, slope=0.1, norm=False),
        BasicBlock(2, 2),
    )
    text = format_stability(table(model)).splitlines()
    assert text[0].split() == ["block", "||K||", "log", "norm", "flow", "step", "block", "measured", "pairs"]
    assert [line.split()[0] for line in text[1:4]] == ["0", "1", "2"]
    assert text[1].split()[1:6] == ["-"] * 5
    assert text[2].split()[4:6] == ["-"] * 2
    assert "-" not in text[3].split()[5:]
    reasons = text[4:]
    assert len(reasons) == 2
    assert any(line.startswith("not covered: 0: ") and "GroupNorm" in line for line in reasons)
    assert any(line.startswith("not covered: 1: ") and "adaptive" in line.lower() for line in reasons)


def test_blocks_with_one_reason_share_its_line() -> None:
    text = format_stability(table(network("odenet"))).splitlines()
    assert len(text) == 1 + 2 + 1
    assert text[-1].startswith("not covered: blocks.0, blocks.1: ODENetField: GroupNorm")
