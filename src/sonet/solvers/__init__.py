"""Explicit Runge-Kutta solvers in which what is shared, and what is differentiated, is an argument."""

from sonet.solvers.adjoint import integrate_adjoint
from sonet.solvers.control import Adaptive, Fixed, Solver, named, paper
from sonet.solvers.integrate import integrate
from sonet.solvers.interop import steer_odeint, watch_odeint
from sonet.solvers.methods import METHODS
from sonet.solvers.odeint_call import InteropError, OdeintCall
from sonet.solvers.solution import Solution, SolveError, Status
from sonet.solvers.tableau import Tableau

__all__ = [
    "METHODS",
    "Adaptive",
    "Fixed",
    "InteropError",
    "OdeintCall",
    "Solution",
    "SolveError",
    "Solver",
    "Status",
    "Tableau",
    "integrate",
    "integrate_adjoint",
    "named",
    "paper",
    "steer_odeint",
    "watch_odeint",
]
