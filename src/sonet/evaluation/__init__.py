"""Evaluations: ensembles of attacks, worst case per sample, with evidence that can be resumed and judged again."""

from sonet.evaluation.evaluate import evaluate
from sonet.evaluation.forecast import duration
from sonet.evaluation.gradients import GRADIENTS, gradient_sources
from sonet.evaluation.outcome import EARLIER, STANDS, WRONG, Attempt, Evaluation
from sonet.evaluation.processes import ALONE, Processes, ProcessLost, joined
from sonet.evaluation.record import make_record, sentences, write_evaluation
from sonet.evaluation.run import Watch
from sonet.evaluation.verify import Evidence, Judgement, Verification, read_evidence, verify

__all__ = [
    "ALONE",
    "EARLIER",
    "GRADIENTS",
    "STANDS",
    "WRONG",
    "Attempt",
    "Evaluation",
    "Evidence",
    "Judgement",
    "ProcessLost",
    "Processes",
    "Verification",
    "Watch",
    "duration",
    "evaluate",
    "gradient_sources",
    "joined",
    "make_record",
    "read_evidence",
    "sentences",
    "verify",
    "write_evaluation",
]
