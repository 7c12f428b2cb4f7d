"""Explicit Runge-Kutta solvers in which what is shared, and what is differentiated, is an argument."""

from sonet.solvers.control import Adaptive, Fixed, Solver, paper
from sonet.solvers.integrate import integrate
from sonet.solvers.methods import METHODS
from sonet.solvers.solution import Solution, SolveError, Status
from sonet.solvers.tableau import Tableau

__all__ = [
    "METHODS",
    "Adaptive",
    "Fixed",
    "Solution",
    "SolveError",
    "Solver",
    "Status",
    "Tableau",
    "integrate",
    "paper",
]
