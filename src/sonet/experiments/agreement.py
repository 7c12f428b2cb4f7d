"""Do attacks of different kinds agree on an adversarially trained network? Where they do, little speaks for masking."""

from __future__ import annotations

from collections.abc import Sequence

from sonet.attacks.ensemble import ENSEMBLES
from sonet.experiments.pooling import pool
from sonet.report import Row
from sonet.types import Proportion

POINTS = 0.03
"""Accuracies that differ by at most this agree."""


def agreement(attacked: Sequence[Row]) -> str:
    """A sentence on PGD, the margin loss, SPSA and, where the table has one, the ensemble, at the largest radius; ""
    while one of the first three is missing.

    attacked: of one network. Accuracies are compared on the same images only: an attack that saw fewer is left out.
    """
    eps = max(row.eps for row in attacked if row.norm == attacked[0].norm)
    here = [row for row in attacked if (row.norm, row.eps) == (attacked[0].norm, eps)]
    whole = max((row.attack_batch or 1 for row in here), default=1)
    pgd = [row for row in here if row.attack == "pgd" and row.attack_batch == whole]
    if not pgd:
        return ""
    steps, own = min(row.steps for row in pgd), pgd[0].step_gradient
    plain = [row for row in pgd if (row.steps, row.step_gradient) == (steps, own)]
    groups = {
        f"PGD-{steps}": [row for row in plain if row.loss == "ce"],
        "the margin loss": [row for row in plain if row.loss == "margin"],
        "SPSA": [row for row in here if row.attack == "spsa"],
    }
    if not all(groups.values()):
        return ""
    groups |= {
        f"the ensemble {name}": rows for name in ENSEMBLES if (rows := [row for row in here if row.attack == name])
    }
    left: dict[str, Proportion] = {name: pool(rows) for name, rows in groups.items()}
    images = left[f"PGD-{steps}"].n
    fewer = {name: share.n for name, share in left.items() if share.n != images}
    same = {name: share.value for name, share in left.items() if name not in fewer}
    apart = max(same.values()) - min(same.values())
    told = " and ".join(same) if len(same) < 3 else f"{', '.join(list(same)[:-1])} and {list(same)[-1]}"
    # Counts are whole: the last bit of a difference of quotients must not decide.
    within = round(apart * images) <= POINTS * images + 1e-9
    said = "agree within 3 points" if within else f"differ by {100 * apart:.0f} points, more than 3"
    rest = "".join(f"; {name} saw {n} of {images} images and is not compared" for name, n in fewer.items())
    return f"{told[0].upper()}{told[1:]} {said} (n = {images}){rest}."
