"""The audit: is the accuracy that attacks leave a network real, or only a masked gradient?

    found = sonet.audit(model, data, Linf(0.2))
    print(found)                                 # verdict, evidence, cause, what to run next

`sonet.audit` is this package and may be called like the function `audit` in it.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from sonet.audit.check import CHECKS, Check, Measured
from sonet.audit.effort import EFFORTS, Effort
from sonet.audit.leak import own_gradient_share
from sonet.audit.preflight import CannotAudit, Preflight, preflight
from sonet.audit.run import EXIT_CODES, Audit, audit

__all__ = [
    "CHECKS",
    "EFFORTS",
    "EXIT_CODES",
    "Audit",
    "CannotAudit",
    "Check",
    "Effort",
    "Measured",
    "Preflight",
    "audit",
    "own_gradient_share",
    "preflight",
]


class _Callable(ModuleType):
    """The package's own type, so that `sonet.audit(model, data, threat)` works beside `sonet.audit.planted`."""

    def __call__(self, *args: Any, **settings: Any) -> Audit:
        return audit(*args, **settings)


sys.modules[__name__].__class__ = _Callable
