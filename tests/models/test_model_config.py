"""Options of the networks: every one is read, wrong ones are refused by name, and all travel through JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from torch import Tensor, nn

from sonet.blocks import SkewConv, SkewDense, ode_blocks
from sonet.models import MODELS, ConfigError, build, configure, parse_config
from sonet.solvers import Adaptive, Fixed, paper

RK4 = Fixed(method="rk4", num_steps=2)
STAGES: dict[str, Any] = {"channels": 2, "blocks": (1, 1), "strides": (1, 2)}
WIDE: dict[str, Any] = {"depth": 10, "widen": 1}
SKEW: dict[str, Any] = {"solver": RK4}
STABLE: dict[str, Any] = STAGES | {"channels": 4, "image_size": (8, 8), "solver": Fixed(method="euler", num_steps=2)}
BASE: dict[str, dict[str, Any]] = {
    "sonet": STAGES | SKEW,
    "stable-sonet": STABLE,
    "convex-potential": STABLE,
    "soblock-resnet10": STAGES | SKEW,
    "soblock-wide-resnet": WIDE | SKEW,
    "odenet": {"channels": 2, "num_blocks": 1} | SKEW,
    "resnet10": STAGES,
    "wide-resnet": WIDE,
}
CHANGED: dict[str, Any] = {
    "in_channels": 4,
    "classes": 7,
    "channels": 3,
    "blocks": (1, 2),
    "strides": (2, 2),
    "gamma": 0.5,
    "slope": 0.3,
    "norm": False,
    "solver": Fixed(method="euler", num_steps=1),
    "depth": 16,
    "widen": 2,
    "dropout": 0.5,
    "num_blocks": 2,
    "image_size": (9, 8),
    "kernel_norm": 0.3,
}
STABLE_NETWORKS = ("stable-sonet", "convex-potential")
EVEN: dict[str, Any] = {"channels": 6}
"""What networks that halve their channels are given instead."""


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def logits(model: nn.Module, channels: int = 3, seed: int = 1) -> Tensor:
    """In train mode, so that dropout is seen too."""
    x = torch.rand(3, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        return model.train()(x)


OPTIONS = [(name, option) for name, (kind, _) in MODELS.items() for option in kind.model_fields if option != "kind"]


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_every_option_changes_the_network_or_its_logits(name: str, option: str) -> None:
    """An option that is accepted and not read would fail here; a new one must be given a change to try."""
    plain = build(name, seed=0, **BASE[name])
    change = EVEN[option] if name in STABLE_NETWORKS and option in EVEN else CHANGED[option]
    changed = build(name, seed=0, **(BASE[name] | {option: change}))
    if shapes(plain) != shapes(changed):
        return
    if option == "in_channels":
        with pytest.raises(ValueError, match="expected images with 4 channels, got 3"):
            logits(changed)
    else:
        assert not torch.allclose(logits(plain), logits(changed), rtol=0, atol=1e-4)
        assert torch.equal(
            logits(plain), logits(build(name, seed=0, **BASE[name]))
        )  # the same options, the same logits


@pytest.mark.parametrize("name", ["sonet", "soblock-resnet10", "soblock-wide-resnet", "odenet"])
def test_the_solver_is_that_of_every_block_with_all_its_settings(name: str) -> None:
    solver = paper(rtol=0.05, max_steps=77, first_step=0.3)
    model = build(name, **(BASE[name] | {"solver": solver}))
    blocks = ode_blocks(model)
    assert blocks
    assert all(block.solver == solver for block in blocks.values())
    assert all(block.name == path for path, block in blocks.items())


@pytest.mark.parametrize("name", ["sonet", "soblock-resnet10", "soblock-wide-resnet"])
def test_damping_slope_and_norm_are_those_of_every_field(name: str) -> None:
    model = build(name, **(BASE[name] | {"gamma": 0.3, "slope": 0.2, "norm": False}))
    fields = [block.field for block in ode_blocks(model).values()]
    convolutions = [field for field in fields if isinstance(field, SkewConv)]
    assert len(convolutions) == (3 if name == "sonet" else 1)
    assert [type(field) for field in fields[len(convolutions) :]] == ([SkewDense] if name == "sonet" else [])
    assert all(field.slope == 0.2 for field in fields)
    assert all(field.gamma == 0.3 for field in convolutions)
    assert not any(isinstance(module, nn.GroupNorm) for module in model.modules())


def test_defaults_are_those_of_the_paper() -> None:
    sonet = configure("sonet")
    assert (sonet.channels, sonet.blocks, sonet.strides) == (32, (2, 2, 2, 2), (1, 2, 2, 2))
    assert (sonet.gamma, sonet.slope, sonet.norm) == (0.0, 0.01, True)
    assert sonet.solver == Adaptive()
    stable = configure("stable-sonet")
    assert (stable.kernel_norm, stable.slope, stable.image_size) == (0.4, 0.9, (28, 28))
    assert stable.solver == Fixed(method="euler", num_steps=2)
    for name in ("soblock-resnet10", "resnet10"):
        resnet = configure(name)
        assert (resnet.channels, resnet.blocks, resnet.strides) == (32, (1, 1, 1, 1), (1, 2, 2, 2))
    assert (configure("odenet").channels, configure("odenet").num_blocks) == (54, 10)
    assert (configure("wide-resnet").depth, configure("wide-resnet").widen) == (34, 10)


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("sonett", {}, r"no network is called 'sonett', expected one of sonet, .*did you mean 'sonet'\?"),
    ("vit", {}, r"no network is called 'vit', expected one of [^?]*$"),
    ("sonet", {"chanels": 3}, r"sonet has no option 'chanels'\. Did you mean 'channels'\? It has: .*blocks"),
    ("resnet10", {"gamma": 0.1}, r"resnet10 has no option 'gamma'\."),
    ("sonet", {"chanels": 3, "gama": 1}, r"no option 'chanels', 'gama'\. Did you mean 'channels' and 'gamma'\?"),
    ("sonet", {"kind": "resnet10"}, "sonet has no option 'kind'"),
    ("sonet", {"channels": 0}, r"channels: Input should be greater than 0 \(got 0\)"),
    ("sonet", {"channels": 2.5}, r"channels: .*integer.*\(got 2\.5\)"),
    ("sonet", {"classes": 1}, r"classes: .*greater than or equal to 2 \(got 1\)"),
    ("sonet", {"gamma": -0.1}, r"gamma: .*greater than or equal to 0 \(got -0\.1\)"),
    ("sonet", {"gamma": float("inf")}, r"gamma: .*finite number \(got inf\)"),
    ("sonet", {"gamma": float("nan")}, r"gamma: .*\(got nan\)"),
    ("sonet", {"slope": 0.0}, r"slope: .*greater than 0 \(got 0\.0\)"),
    ("sonet", {"slope": 1.1}, r"slope: .*less than or equal to 1 \(got 1\.1\)"),
    ("sonet", {"strides": (1, 3)}, r"strides\.1: Input should be 1 or 2 \(got 3\)"),
    ("sonet", {"blocks": (1, 0), "strides": (1, 1)}, r"blocks\.1: .*greater than 0 \(got 0\)"),
    ("sonet", {"blocks": (), "strides": ()}, r"blocks: .*at least 1"),
    ("sonet", {"blocks": (1, 1)}, r"blocks \(1, 1\) and strides \(1, 2, 2, 2\) must name as many stages"),
    ("sonet", {"solver": {"kind": "adaptive", "rtol": -1}}, r"solver\.adaptive\.rtol: .*greater than 0 \(got -1\)"),
    ("sonet", {"solver": {"kind": "adaptive", "method": "rk4"}}, "'rk4' cannot estimate its error; use Fixed"),
    ("sonet", {"solver": {"kind": "adaptive", "tol": 1}}, r"solver\.adaptive\.tol: Extra inputs"),
    ("sonet", {"solver": "dopri5"}, "solver: "),
    ("wide-resnet", {"depth": 12}, r"depth must be 6n \+ 4 with n >= 1 .*, got 12"),
    ("wide-resnet", {"depth": 4}, r"depth must be 6n \+ 4 with n >= 1 .*, got 4"),
    ("wide-resnet", {"dropout": 1.0}, r"dropout: .*less than 1 \(got 1\.0\)"),
    ("odenet", {"num_blocks": 0}, r"num_blocks: .*greater than 0 \(got 0\)"),
]


@pytest.mark.parametrize(("name", "options", "message"), REFUSED)
def test_refuses(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(name, **options)


def test_an_error_names_every_option_that_does_not_fit() -> None:
    with pytest.raises(ConfigError) as error:
        configure("sonet", channels=0, classes=1, slope=2)
    assert all(f"{option}: " in str(error.value) for option in ("channels", "classes", "slope"))


def test_a_config_that_was_read_refuses_unknown_keys_and_kinds() -> None:
    for values in ({"kind": "sonet", "chanels": 3}, {"kind": "vit"}, {"channels": 3}):
        with pytest.raises(ValidationError):
            parse_config(values)


def test_a_config_cannot_be_changed_after_it_was_checked() -> None:
    config = configure("sonet")
    with pytest.raises(ValidationError):
        config.channels = 7


SOLVERS = st.one_of(
    st.builds(Fixed, method=st.sampled_from(["euler", "rk4", "dopri5"]), num_steps=st.integers(1, 9)),
    st.builds(
        Adaptive,
        method=st.sampled_from(["bosh3", "dopri5", "tsit5"]),
        rtol=st.floats(1e-12, 1),
        scope=st.one_of(st.sampled_from(["sample", "batch"]), st.integers(1, 9)),
        step_gradient=st.sampled_from(["frozen", "first", "differentiated"]),
        first_step=st.one_of(st.none(), st.floats(1e-6, 1)),
    ),
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "in_channels": st.integers(1, 9),
    "classes": st.integers(2, 99),
    "channels": st.integers(1, 99),
    "gamma": st.floats(0, 1e300),
    "slope": st.floats(1e-300, 1),
    "norm": st.booleans(),
    "solver": SOLVERS,
    "depth": st.integers(1, 9).map(lambda n: 6 * n + 4),
    "widen": st.integers(1, 12),
    "dropout": st.floats(0, 0.99),
    "num_blocks": st.integers(1, 12),
    "image_size": st.tuples(st.integers(1, 99), st.integers(1, 99)),
    "kernel_norm": st.sampled_from([0.1, 0.4]),
}
STABLE_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "channels": st.integers(5, 50).map(lambda half: 2 * half),
    "slope": st.sampled_from([0.5, 1.0]),
    "solver": st.builds(Fixed, method=st.just("euler"), num_steps=st.integers(1, 9)),
}
"""What all of their settings are possible with: others would be refused."""


@settings(max_examples=60, deadline=None)
@given(data=st.data(), name=st.sampled_from(list(MODELS)))
def test_a_config_comes_back_from_json_as_it_was(data: st.DataObject, name: str) -> None:
    known = MODELS[name][0].model_fields
    fields = FIELDS | (STABLE_FIELDS if name in STABLE_NETWORKS else {})
    options = {key: data.draw(values, key) for key, values in fields.items() if key in known}
    if "blocks" in known:
        stages = data.draw(st.lists(st.tuples(st.integers(1, 4), st.sampled_from([1, 2])), min_size=1, max_size=5))
        options |= {"blocks": tuple(n for n, _ in stages), "strides": tuple(stride for _, stride in stages)}
    assert set(options) | {"kind"} == set(known)
    config = configure(name, **options)
    text = config.model_dump_json()
    assert parse_config(json.loads(text)) == config
    assert json.loads(text) == config.model_dump(mode="json")
    assert type(parse_config(json.loads(text))) is type(config)


@pytest.mark.parametrize("name", list(MODELS))
def test_a_network_built_from_its_config_is_the_same_network(name: str) -> None:
    model = build(name, seed=4, **BASE[name])
    assert isinstance(model.config, BaseModel)
    assert model.config.kind == name
    again = build(parse_config(json.loads(model.config.model_dump_json())), seed=4)
    assert torch.equal(logits(model), logits(again))


@pytest.mark.parametrize("name", list(MODELS))
def test_a_seed_makes_the_weights_and_leaves_the_global_generator_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seeded(*_: Any) -> None:
        raise AssertionError("a generator of a GPU was seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded)
    before = torch.get_rng_state()
    first, second, other = (build(name, seed=seed, **BASE[name]) for seed in (7, 7, 8))
    assert torch.equal(torch.get_rng_state(), before)
    weights = [torch.cat([parameter.flatten() for parameter in model.parameters()]) for model in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_without_a_seed_the_global_generator_makes_the_weights() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        first, second = build("sonet", **BASE["sonet"]), build("sonet", **BASE["sonet"])
        torch.manual_seed(5)
        again = build("sonet", **BASE["sonet"])
    assert torch.equal(first.first.field.kernel, again.first.field.kernel)
    assert not torch.equal(first.first.field.kernel, second.first.field.kernel)


@dataclass(frozen=True)
class Data:
    channels: int = 5
    num_classes: int = 4
    size: tuple[int, int] = (9, 6)


def test_like_data_gives_channels_classes_and_size_and_options_go_before_it() -> None:
    model = build("sonet", like=Data(), **STAGES, solver=RK4)
    assert model(torch.rand(2, 5, 8, 8)).shape == (2, 4)
    assert build("sonet", like=Data(), classes=9, **STAGES).config.classes == 9
    assert build("stable-sonet", like=Data(), channels=6).config.image_size == (9, 6)
    assert build("stable-sonet", like=Data(), channels=6, image_size=(4, 4)).config.image_size == (4, 4)


@pytest.mark.parametrize("extra", [{"channels": 4}, {"like": Data()}])
def test_a_whole_config_takes_no_options_besides(extra: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"got a whole SONetConfig and besides (channels|in_channels, classes)"):
        build(configure("sonet", **STAGES), **extra)
