"""The random squares of Square: proposed in place, kept where they raise the loss and put back where not."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from sonet.attacks.noise import ImageNoise
from sonet.types import Images

BLOCK = 64
"""Steps whose random numbers are drawn at once: a draw costs as much as the rest of a step."""


def bump(side: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    r"""(side, side), l2 norm 1: two halves, a pyramid and the negative of one, side by side.

    At Chebyshev distance m from the middle of its half a pyramid is sum_{j=m}^{n} 1 / (j + 1)^2, n = side // 2.
    """
    n = side // 2
    heights = torch.tensor([sum(1 / (j + 1) ** 2 for j in range(m, n + 1)) for m in range(n + 1)], dtype=torch.float64)
    halves = []
    for breadth, sign in ((side // 2, 1), (side - side // 2, -1)):
        down, across = (torch.arange(length).sub(length // 2).abs() for length in (side, breadth))
        halves.append(sign * heights[torch.maximum(down[:, None], across[None])])
    shape = torch.cat(halves, 1).to(device, dtype)
    return shape / shape.square().sum().sqrt()


class Move(ABC):
    """Images under attack and the random squares tried on them, written in place and, where rejected, put back.

    The squares of a step have one size: places are index arithmetic, and a step costs what the squares cost.
    """

    squares: ClassVar[int]  # of a move
    tossed: ClassVar[int]  # coins of a move, beside one for each channel

    def __init__(self, images: Images, eps: float, noise: ImageNoise, sizes: Sequence[int]) -> None:
        self.eps, self.noise, self.sizes = eps, noise, sizes
        self.channels, self.height, self.width = images.shape[1:]
        self.clean, self._block = images.flatten(2), -1
        self._insides, self._bumps = dict[int, Tensor](), dict[int, Tensor]()
        self.current = self.start(images).contiguous()
        self.flat = self.current.flatten(2)  # the same memory, as in `keep`
        self._corners: Tensor  # (N, BLOCK, squares), places in an image of H W pixels
        self._coins: Tensor  # (N, BLOCK, tossed + C) bool

    @abstractmethod
    def start(self, images: Images) -> Images:
        """Where the search begins."""

    @abstractmethod
    def propose(self, step: int) -> None:
        """Make a move of every image in `current`."""

    @abstractmethod
    def settle(self, better: Tensor) -> None:
        """Keep the moves of `better`, (N,) bool, undo the others."""

    def keep(self, index: Tensor) -> None:
        """Go on with some of the images only."""
        self.clean, self.current, self.noise = self.clean[index], self.current[index], self.noise.keep(index)
        self.flat = self.current.flatten(2)
        if self._block >= 0:
            self._corners, self._coins = self._corners[index], self._coins[index]

    def draw(self, step: int) -> tuple[list[Tensor], Tensor]:
        """The pixels of each square, (N, C, h^2), and the coins, (N, tossed + C)."""
        block, place = divmod(step, BLOCK)
        if block != self._block:
            self._block = block
            drawn = self.noise.uniform(BLOCK, 2 * self.squares + self.tossed + self.channels)
            sides = [*self.sizes[block * BLOCK : (block + 1) * BLOCK], *[1] * BLOCK][:BLOCK]
            span = torch.tensor([[self.height + 1 - h, self.width + 1 - h] for h in sides], device=drawn.device)
            corners = drawn[..., : 2 * self.squares].reshape(len(drawn), BLOCK, self.squares, 2)
            corners = (corners.double() * span[:, None]).long()
            self._corners = corners[..., 0] * self.width + corners[..., 1]
            self._coins = drawn[..., 2 * self.squares :] < 0.5
        h = self.sizes[step]
        if h not in self._insides:
            down = torch.arange(h, device=self.clean.device)
            self._insides[h] = (down[:, None] * self.width + down).view(1, -1)
        corners = self._corners[:, place, :, None] + self._insides[h]
        return list(corners[:, :, None].expand(-1, -1, self.channels, -1).unbind(1)), self._coins[:, place]


class Flip(Move):
    """linf: a square takes one end of the budget in each channel."""

    squares, tossed = 1, 0

    def start(self, images: Images) -> Images:
        lowest, highest = (images - self.eps).clamp_min(0.0), (images + self.eps).clamp_max(1.0)
        self._ends = torch.cat((lowest.flatten(2), highest.flatten(2)), 2)  # (N, C, 2 H W)
        stripes = self.noise.uniform(images.shape[1], 1, images.shape[3]) < 0.5
        return torch.where(stripes, highest, lowest)

    def propose(self, step: int) -> None:
        (self._where,), coins = self.draw(step)
        pixels = self.clean.shape[2]
        upper = coins[..., None] * pixels
        self._old, new = self.flat.gather(2, self._where), self._ends.gather(2, self._where + upper)
        idle = (self._old == new).flatten(1).all(1)
        opposite = self._ends.gather(2, self._where + (pixels - upper))
        self._new = torch.where(idle[:, None, None], opposite, new)
        self.flat.scatter_(2, self._where, self._new)

    def settle(self, better: Tensor) -> None:
        self.flat.scatter_(2, self._where, torch.where(better[:, None, None], self._new, self._old))

    def keep(self, index: Tensor) -> None:
        super().keep(index)
        self._ends = self._ends[index]


class Shift(Move):
    """l2: the budget of one square, and what is unused, goes to another."""

    squares, tossed = 2, 1

    def start(self, images: Images) -> Images:
        tile = max(1, min(self.height, self.width) // 5)
        rows, columns = self.height // tile, self.width // tile
        coins = self.noise.uniform(rows, columns, 1 + self.channels) < 0.5
        bumps = self._bump(tile, coins).view(-1, rows, columns, self.channels, tile, tile)
        tiles = bumps.permute(0, 3, 1, 4, 2, 5).reshape(-1, self.channels, rows * tile, columns * tile)
        top, left = (self.height - rows * tile) // 2, (self.width - columns * tile) // 2
        offset = torch.zeros_like(images)
        offset[:, :, top : top + rows * tile, left : left + columns * tile] = tiles
        offset *= self.eps / math.sqrt(rows * columns * self.channels)  # every bump has length 1
        started = (images + offset).clamp(0.0, 1.0)
        self._spent = energy(started - images).sum(1)
        return started

    def propose(self, step: int) -> None:
        (self._to, self._from), coins = self.draw(step)
        flat = self.flat
        # The first square is emptied before the second is read, so that what they share counts once.
        clean, self._old = self.clean.gather(2, self._to), flat.gather(2, self._to)
        flat.scatter_(2, self._to, clean)
        self._emptied, self._full = self.clean.gather(2, self._from), flat.gather(2, self._from)
        flat.scatter_(2, self._from, self._emptied)
        moved = self._old - clean
        own = energy(moved)
        union = own + energy(self._full - self._emptied)
        room = (union + (self.eps**2 - self._spent)[:, None] / self.channels).clamp_min(0.0).sqrt()
        added = self._bump(self.sizes[step], coins)
        turned = added + moved / own.sqrt().clamp_min(1e-12)[..., None].to(flat.dtype)
        length = turned.norm(dim=2, keepdim=True)
        turned = torch.where(length > 1e-3, turned / length, added)  # where the two cancel only rounding is left
        self._new = (clean + turned * room[..., None].to(flat.dtype)).clamp(0.0, 1.0)
        flat.scatter_(2, self._to, self._new)
        self._would_spend = self._spent + (energy(self._new - clean) - union).sum(1)

    def settle(self, better: Tensor) -> None:
        kept = better[:, None, None]
        self.flat.scatter_(2, self._from, torch.where(kept, self._emptied, self._full))
        self.flat.scatter_(2, self._to, torch.where(kept, self._new, self._old))
        self._spent = torch.where(better, self._would_spend, self._spent)

    def keep(self, index: Tensor) -> None:
        super().keep(index)
        self._spent = self._spent[index]

    def _bump(self, h: int, coins: Tensor) -> Tensor:
        """(..., C, h^2), turned by the first of the coins, (..., 1 + C), and in each channel with a sign of its own."""
        if h not in self._bumps:
            shape = bump(h, self.clean.dtype, self.clean.device)
            self._bumps[h] = torch.stack((shape, -shape, shape.T, -shape.T)).flatten(1)
        return self._bumps[h][2 * coins[..., :1].long() + coins[..., 1:]]


def energy(offset: Tensor) -> Tensor:
    """Sum of squares in each channel, (N, C), float64, for it is added and subtracted thousands of times."""
    return offset.flatten(2).square().sum(2, dtype=torch.float64)
