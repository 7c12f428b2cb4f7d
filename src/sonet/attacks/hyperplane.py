"""The shortest way from points of the unit box to a hyperplane, without leaving the box."""

from __future__ import annotations

import torch
from torch import Tensor

from sonet.attacks.threat import Norm

ROUNDS = 200
"""Newton's rounds at most. Each divides (|value| - g) g' by 4, which the range of floats bounds; mostly 3 to 10 do."""


def to_plane(points: Tensor, normal: Tensor, value: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    r"""The move of least `norm` that carries each point onto the plane {<w, x> + b = 0} within [0, 1]^d, and its share.

    points: (..., N, d) in [0, 1]; normal: w, (..., N, d), finite; value: <w, point> + b, (..., N). All broadcast.
    Gives the move, (..., N, d), and the share of the way to the plane that the box allows, (..., N) in [0, 1]. Where it
    is below 1 the plane misses the box, and the move leads to a point of the box that comes nearest to it. A normal of
    0 leads nowhere: move 0 and share 0. For the half-space {<w, x> + b >= 0} pass `value.clamp(max=0)`.

    With s = -sign(value), r_i the room of pixel i in the direction s sign(w_i), and a_i = 1 (linf) or |w_i| (l2), the
    optimality conditions give

        move_i = s sign(w_i) min(t a_i, r_i),   with t from   g(t) = sum_i |w_i| min(t a_i, r_i) = |value|.

    g is concave and piecewise linear, so Newton's method from t = 0 climbs to the root from below and stops there, each
    round passing a breakpoint r_i / a_i at least. Croce and Hein (2020), where these projections are from, sort the
    breakpoints; the result is the same.
    """
    # Products and minima instead of masks throughout: on a processor they cost a thirtieth.
    size = normal.abs()
    top = size.amax(-1, keepdim=True)
    # Scaled to a largest weight of 1: squares of a gradient of 1e-25 would underflow.
    scale = torch.where(top > 0, top, 1.0)
    weight = size / scale
    toward = -value.sign().unsqueeze(-1) * normal.sign()
    room = ((toward + 1) / 2 - points).abs() * toward.abs()
    reach = weight * room
    speed = weight if norm == "linf" else weight * weight
    stop = room if norm == "linf" else room / weight  # the t at which a pixel arrives at the box
    most = reach.sum(-1, keepdim=True)
    asked = value.abs().unsqueeze(-1) / scale
    need = torch.minimum(asked, most)
    rounding = 4 * torch.finfo(need.dtype).eps * need
    t = torch.zeros_like(need)
    for _ in range(ROUNDS):
        left = need - torch.minimum(t * speed, reach).sum(-1, keepdim=True)
        free = torch.linalg.vecdot((stop > t).to(speed.dtype), speed).unsqueeze(-1)
        going = (left > rounding) & (free > 0)
        if not bool(going.any()):
            break
        t = t + torch.where(going, left / free, 0.0)
    way = torch.minimum(t if norm == "linf" else t * weight, room)
    share = torch.where(asked > 0, need / asked, 1.0)
    return toward * way, torch.where(top > 0, share, 0.0).squeeze(-1)


def length(moves: Tensor, norm: Norm) -> Tensor:
    """The norm of moves (..., d), (...)."""
    return moves.abs().amax(-1) if norm == "linf" else moves.norm(dim=-1)
