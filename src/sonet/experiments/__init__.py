"""Experiments: plans as TOML, cells of work, and the record they end in."""

from sonet.experiments.cells import Cell
from sonet.experiments.layout import cost, lay_out
from sonet.experiments.plan import Plan, PlanError, TableRow, load_plan, plans
from sonet.experiments.pool import default_workers
from sonet.experiments.reproduce import reproduce
from sonet.experiments.verdict import verdict

__all__ = [
    "Cell",
    "Plan",
    "PlanError",
    "TableRow",
    "cost",
    "default_workers",
    "lay_out",
    "load_plan",
    "plans",
    "reproduce",
    "verdict",
]
