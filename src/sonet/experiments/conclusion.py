"""What is concluded of one network: by the table's attacks, and by its audits, which may see more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sonet.report.planned import Audited


@dataclass(frozen=True)
class Conclusion:
    """text: what was found, after the network's name. masked: None while its attacks are not finished. open: the
    attacks found no masking, but an audit cannot tell.

    shared: whether the shared, differentiated step size was seen to carry the masking. loss: whether cross-entropy was
    needed for it too. own: median share of an image's gradient that was its own, if it was measured.
    """

    model: str
    masked: bool | None
    text: str
    open: bool = False
    shared: bool = False
    loss: bool = False
    own: float | None = None

    def __str__(self) -> str:
        return f"{self.model}: {self.text}"

    def heard(self, audits: Sequence[Audited]) -> Conclusion:
        """With the verdicts of the network's audits, one a seed. It is masked where its attacks or an audit say so: an
        audit attacks in more ways than the table. Where the two differ the text says both."""
        said = sorted({audit.verdict for audit in audits})
        if "masked" in said and not self.masked:
            first, *more = [audit for audit in audits if audit.verdict == "masked"]
            seeds = "" if len(audits) == 1 else f" in {1 + len(more)} of {len(audits)} seeds"
            text = (
                f"masked, its audit says{seeds}: all its attacks together leave {first.worst} of {first.n} images "
                f"at {first.threat}. By the table's own attacks {self.text}"
            )
            return replace(self, masked=True, text=text)
        if self.masked and said:
            who = "Its audit says" if len(said) == 1 else "Its audits say"
            return replace(self, text=f"{self.text} {who} {' and '.join(said)}.")
        if "inconclusive" in said:
            return replace(self, open=True, text=f"{self.text} Its audit is inconclusive.")
        return self
