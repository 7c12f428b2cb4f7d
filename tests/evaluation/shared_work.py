"""Run by torchrun: evaluations shared among processes, each one's outcome left in a folder."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from small_models import Coupled, Net, labels_of, members, some_images

import sonet.evaluation.store as store
from sonet.attacks import AttackError, Linf
from sonet.attacks.ensemble import Member
from sonet.attacks.square import Square
from sonet.evaluation import Evaluation, Processes, evaluate, joined
from sonet.report import RecordError

SIZE = 5
"""Images of a unit."""


def work(model: Any, processes: Processes, **more: Any) -> Evaluation:
    x = more.pop("images", some_images())
    return evaluate(model, x, labels_of(model, x), Linf(0.03), members(batch_size=SIZE), processes=processes, **more)


def flat(found: Evaluation) -> dict[str, torch.Tensor]:
    """All that an evaluation says but its times."""
    tensors = {
        "labels": found.labels,
        "clean": found.clean,
        "adversarial": found.adversarial,
        "fell_to": found.fell_to,
        "together": found.together,
        "elsewhere": found.elsewhere,
        "coupled": torch.tensor(found.coupled),
    }
    for attempt in found.attempts:
        for name in ("tried", "fooled", "distance", "queries", "zero_gradients", "minimum", "final_loss"):
            tensors[f"{attempt.member.name}.{name}"] = getattr(attempt, name)
    return {name: tensor.contiguous().clone() for name, tensor in tensors.items()}


class Dying(Net):
    """Kills the second process after so many answers."""

    def __init__(self, rank: int, answers: int) -> None:
        super().__init__()
        self.rank, self.answers = rank, answers

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.answers -= 1
        if self.rank == 1 and self.answers < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


def refused(kind: type[Exception], **more: Any) -> str:
    try:
        work(Net(), **more)
    except kind as error:
        return str(error)
    return ""


def main(what: str, folder: Path) -> None:
    with joined() as processes:
        rank = processes.rank
        if what == "die":
            work(Dying(rank, int(sys.argv[3])), processes, out=folder)
        if what == "finish":
            save_file(flat(work(Net(), processes, out=folder)), folder.with_name(f"finished-{rank}.safetensors"))
        if what != "all":
            return
        heard: list[str] = []
        told = work(Net(), processes, watch=lambda name, done, word: heard.append(name), say=heard.append)
        save_file(flat(told), folder / f"memory-{rank}.safetensors")
        save_file(flat(work(Net(), processes, out=folder / "net")), folder / f"net-{rank}.safetensors")
        save_file(flat(work(Coupled(), processes, out=folder / "coupled")), folder / f"coupled-{rank}.safetensors")
        store._PATIENCE = 0.3
        x = some_images()
        square = [Member(name="square", attack=Square(queries=3000, batch_size=SIZE, stop_when_fooled=False))]
        cut = evaluate(Net(), x, labels_of(Net(), x), Linf(0.03), square, processes=processes, budget=0.01)
        answers = {
            "heard": len(heard),
            "unshared": refused(RecordError, processes=processes, out=folder / f"disk-of-machine-{rank}"),
            "other": refused(AttackError, processes=processes, images=some_images(seed=rank)),
            "cut": [list(cut.unfinished), [a.tried.tolist() for a in cut.attempts], cut.fell_to.tolist()],
        }
        (folder / f"answers-{rank}.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
