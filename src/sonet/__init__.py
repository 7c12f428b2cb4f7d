"""sonet: stabilized neural-ODE networks, attacks on them, and the check whether their robustness is a masked gradient.

    import sonet
    from sonet.attacks import PGD, Linf

    data = sonet.load("digits")
    model = sonet.build("sonet", channels=16, like=data)
    sonet.fit(model, data.train)
    result = PGD(steps=20).run(model, data.test.images, data.test.labels, Linf(0.2))
    print(result.accuracy)
    print(sonet.audit(model, data, Linf(0.2)))

`import sonet` is quick: torch is imported when the first of these names is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sonet.audit.run import audit
    from sonet.data import load
    from sonet.models import build, swap_solver
    from sonet.solvers import Adaptive, Fixed, integrate, paper
    from sonet.training import fit, load_model

__all__ = [
    "Adaptive",
    "Fixed",
    "__version__",
    "audit",
    "build",
    "fit",
    "integrate",
    "load",
    "load_model",
    "paper",
    "swap_solver",
]

_HOMES = {
    "load": "sonet.data",
    "build": "sonet.models",
    "swap_solver": "sonet.models",
    "Adaptive": "sonet.solvers",
    "Fixed": "sonet.solvers",
    "integrate": "sonet.solvers",
    "paper": "sonet.solvers",
    "fit": "sonet.training",
    "load_model": "sonet.training",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "audit":
        return import_module("sonet.audit")  # a package that can be called
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'sonet' has no attribute {name!r}")
