"""What a network is made of, one config a kind: validated, JSON-able, unknown keys refused, every key read."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, TypeAdapter, model_validator

from sonet.blocks.fields import SLOPE
from sonet.bounds import largest_norm, least_damping
from sonet.solvers import Adaptive, Fixed, Solver


class _Network(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    in_channels: PositiveInt = Field(default=3, description="channels of an image")
    classes: int = Field(default=10, ge=2, description="number of classes")


class _Staged(_Network):
    """Stages of blocks: stage i has `blocks[i]`, the first of stride `strides[i]`; channels double at stride 2."""

    channels: PositiveInt = Field(default=32, description="channels after the first layer")
    blocks: tuple[PositiveInt, ...] = Field(default=(1, 1, 1, 1), min_length=1, description="blocks in each stage")
    strides: tuple[Literal[1, 2], ...] = Field(default=(1, 2, 2, 2), min_length=1, description="stride of each stage")

    @model_validator(mode="after")
    def _stages_match(self) -> _Staged:
        if len(self.blocks) != len(self.strides):
            raise ValueError(f"blocks {self.blocks} and strides {self.strides} must name as many stages as each other")
        return self


class _Skew(BaseModel):
    gamma: float = Field(default=0.0, ge=0, description="damping of the field; 0 in the paper")
    slope: float = Field(default=SLOPE, gt=0, le=1, description="slope of LeakyReLU left of zero")
    norm: bool = Field(default=True, description="GroupNorm in the field, as the paper's code has it")
    solver: Solver = Field(default=Adaptive(), description="how ODE blocks are solved")


class SONetConfig(_Staged, _Skew):
    """SONet (Huang et al. 2020): every layer a skew-symmetric ODE block; the paper's has blocks (2, 2, 2, 2)."""

    kind: Literal["sonet"] = "sonet"
    blocks: tuple[PositiveInt, ...] = Field(default=(2, 2, 2, 2), min_length=1, description="blocks in each stage")


class SOBlockResNet10Config(_Staged, _Skew):
    """ResNet10 whose first layer is a skew-symmetric ODE block (Huang et al. 2020)."""

    kind: Literal["soblock-resnet10"] = "soblock-resnet10"


class ResNet10Config(_Staged):
    """ResNet10: BasicBlocks [1, 1, 1, 1] (He et al. 2016, as in the paper's comparison)."""

    kind: Literal["resnet10"] = "resnet10"


class _Wide(_Network):
    """The paper's is 34-10: depth 34, widen 10."""

    depth: int = Field(default=34, description="6n + 4 layers")
    widen: PositiveInt = Field(default=10, description="factor on the channels 16, 32, 64")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout inside blocks")

    @model_validator(mode="after")
    def _depth_fits(self) -> _Wide:
        if self.depth < 10 or (self.depth - 4) % 6:
            raise ValueError(f"depth must be 6n + 4 with n >= 1 (10, 16, 22, 28, 34, ...), got {self.depth}")
        return self


class WideResNetConfig(_Wide):
    """WideResNet (Zagoruyko and Komodakis 2016)."""

    kind: Literal["wide-resnet"] = "wide-resnet"


class SOBlockWideResNetConfig(_Wide, _Skew):
    """WideResNet whose first layer is a skew-symmetric ODE block (Huang et al. 2020)."""

    kind: Literal["soblock-wide-resnet"] = "soblock-wide-resnet"


class ODENetConfig(_Network):
    """ODENet (Chen et al. 2018, as in the paper's comparison): repeated channels, ten ODE blocks, pool to 3 x 3."""

    kind: Literal["odenet"] = "odenet"
    channels: PositiveInt = Field(default=54, description="channels of every block")
    num_blocks: PositiveInt = Field(default=10, description="ODE blocks")
    solver: Solver = Field(default=Adaptive(), description="how ODE blocks are solved")


class _Stable(_Staged):
    """No strided blocks: a stage of stride 2 first turns 2 x 2 squares into channels, four times as many."""

    channels: PositiveInt = Field(default=16, description="channels after the first layer; times 4 at stride 2")
    blocks: tuple[PositiveInt, ...] = Field(default=(2, 2), min_length=1, description="blocks in each stage")
    strides: tuple[Literal[1, 2], ...] = Field(default=(1, 2), min_length=1, description="stride of each stage")
    image_size: tuple[PositiveInt, PositiveInt] = Field(default=(28, 28), description="height and width of images")

    @model_validator(mode="after")
    def _some_channels(self) -> Self:
        if self.channels % 2 or self.channels < self.in_channels:
            raise ValueError(
                f"channels must be even and at least the {self.in_channels} of the images, got {self.channels}"
            )
        return self


class StableSONetConfig(_Stable):
    """SONet whose blocks cannot expand, by construction: kernels of tied norm, damping to match (Huang et al. 2020)."""

    kind: Literal["stable-sonet"] = "stable-sonet"
    kernel_norm: PositiveFloat = Field(default=0.4, description="norm of every block's kernel, by construction")
    slope: float = Field(default=0.9, gt=0, le=1, description="slope of LeakyReLU left of zero")
    solver: Fixed = Field(default=Fixed(method="euler", num_steps=2), description="fixed steps; damping fits them")

    @model_validator(mode="after")
    def _can_be_damped(self) -> Self:
        least_damping(self.kernel_norm * (1 + 1e-3), self.slope, self.solver.tableau, 1 / self.solver.num_steps)
        return self


class ConvexPotentialConfig(_Stable):
    """Stable network of convex-potential blocks, f(x) = -W^T ReLU(W x + b) (Meunier et al. 2022)."""

    kind: Literal["convex-potential"] = "convex-potential"
    solver: Fixed = Field(default=Fixed(method="euler", num_steps=1), description="fixed steps; kernels fit them")

    @model_validator(mode="after")
    def _can_be_tied(self) -> Self:
        largest_norm(self.solver.tableau, 1 / self.solver.num_steps)
        return self


ModelConfig = Annotated[
    SONetConfig
    | StableSONetConfig
    | ConvexPotentialConfig
    | SOBlockResNet10Config
    | SOBlockWideResNetConfig
    | ODENetConfig
    | ResNet10Config
    | WideResNetConfig,
    Field(discriminator="kind"),
]
_ADAPTER: TypeAdapter[Any] = TypeAdapter(ModelConfig)


def parse_config(values: dict[str, Any]) -> Any:
    """A config of the kind that `values["kind"]` names; pydantic's ValidationError for unknown keys and bad values."""
    return _ADAPTER.validate_python(values)
