"""The model card: Markdown that states what the checkpoint and the records given say, and nothing else."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from sonet.publishing.belongs import own_part
from sonet.publishing.config import PublicConfig
from sonet.publishing.figures import Figure, called, of_audit, of_record, of_training
from sonet.publishing.markdown import Raw, template
from sonet.publishing.metadata import BOUND, front_matter
from sonet.report import AnyRecord, AuditRecord, CertificateRecord, Record, audit_words
from sonet.report.planned import Audited


@dataclass(frozen=True)
class Section:
    """A record with its figures in the order of the card's table, its sentences, and the command that made it."""

    record: AnyRecord
    figures: list[Figure]
    said: list[str]
    command: str
    version: str
    seed: str


def render_card(
    config: PublicConfig, records: tuple[AnyRecord, ...], *, name: str, parameters: int, license: str | None = None
) -> str:
    """README.md. `records` belong to the network already; a kind of which there is none is "Not measured".

    Errors: PublicationError as `front_matter`.
    """
    own = [own_part(record, config, record.title) if isinstance(record, Record) else record for record in records]
    sections = [_section(record, config) for record in own]
    figures = [*of_training(config), *(figure for section in sections for figure in section.figures)]
    attacks = [section for section in sections if any(figure.kind == "attack" for figure in section.figures)]
    audits = [part for section in sections for part in _audits(section, config)]
    certificates = [section for section in sections if isinstance(section.record, CertificateRecord)]
    natural = [figure for figure in figures if figure.kind == "natural"]
    parts = {
        "natural accuracy": natural,
        "accuracy under attack": attacks,
        "the audit": audits,
        "certified accuracy": certificates,
    }
    return template("card.md.j2").render(
        front=Raw(front_matter(config, figures, name, license)),
        name=name,
        config=config,
        parameters=parameters,
        shape=", ".join("any" if size is None else str(size) for size in config.input_shape),
        data=_data(config.data),
        options=_flat(config.model),
        training=_flat(config.training.model_dump(mode="json", exclude_none=True)),
        natural=natural,
        attacks=attacks,
        audits=audits,
        certificates=[(section, _curve(section)) for section in certificates],
        shared=_shared(config),
        absent=[part for part, found in parts.items() if not found],
        bound=BOUND,
    )


def _section(record: AnyRecord, config: PublicConfig) -> Section:
    if isinstance(record, AuditRecord):
        said = _verdict(record)
        said += [f"{finding.title}: {finding.measured}" for finding in audit_words.decisive(record)]
        said += _cause(record)
    elif isinstance(record, CertificateRecord):
        said = [record.summary]
    else:  # the verdict of an experiment with several networks is of all of them
        said = [] if record.models else [record.verdict]
        said += [] if record.complete else ["The record is marked incomplete: its work was cut short."]
    version = record.environment.versions.get("sonet", "of unknown version")
    seed = f", seed {record.settings['seed']} of the attacks" if isinstance(record.settings.get("seed"), int) else ""
    return Section(record, of_record(record, config), said, without_places(record.command), version, seed)


def _audits(section: Section, config: PublicConfig) -> Iterator[Section]:
    """An audit's record itself, and the audits of this network that a table ran."""
    record = section.record
    if isinstance(record, AuditRecord):
        yield section
    elif isinstance(record, Record):
        for found in record.audits:
            said = _verdict(found) + _cause(found)
            yield replace(section, figures=of_audit(found, record, config), said=said)


def _verdict(found: AuditRecord | Audited) -> list[str]:
    said = [f"{audit_words.VERDICTS[found.verdict]}.", found.summary]
    return said + [audit_words.NO_PROOF] * (found.verdict == "no masking found" and "Popovic" not in found.summary)


def _cause(found: AuditRecord | Audited) -> list[str]:
    """Unless the summary has told it."""
    return [found.cause] if found.cause not in found.summary else []


def _curve(section: Section) -> list[tuple[Figure, Figure | None]]:
    """Certified accuracy at each radius, and what attacks left there, None where none was run."""
    beside = {figure.threat: figure for figure in section.figures if figure.kind == "beside"}
    return [(figure, beside.get(figure.threat)) for figure in section.figures if figure.kind == "certified"]


def _shared(config: PublicConfig) -> str:
    """Who shares a step size, in words; empty where each sample has its own, or steps are fixed."""
    scope = config.model.get("solver", {}).get("scope", "sample")
    return "" if scope == "sample" else "a batch" if scope == "batch" else f"groups of {scope} images"


def _data(said: dict[str, Any]) -> str:
    images = f"{said['n_train']} training images" if "n_train" in said else ""
    parts = (called(said), images, said.get("source", ""), said.get("split_rule", ""))
    return "; ".join(part for part in parts if part) or "the run does not say"


def _flat(options: dict[str, Any], before: str = "") -> dict[str, str]:
    """solver.method: dopri5 and so on, as `sonet train --set` writes them."""
    found: dict[str, str] = {}
    for key, value in options.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{before}{key}.")
        else:
            found[before + key] = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return found


def without_places(command: str) -> str:
    """The command with absolute paths, and those that begin with ~ or .., shortened to their last part."""
    try:
        words = shlex.split(command)
    except ValueError:  # typed by somebody else than our own commands
        return ""
    return shlex.join(_short(word) for word in words)


def _short(word: str) -> str:
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    place = value.startswith(("/", "~", "../")) and "://" not in value
    return option + equals + (PurePath(value).name or "/") if place else word
