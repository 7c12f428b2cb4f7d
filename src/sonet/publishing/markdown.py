"""Text from records inside Markdown: as it is, never as markup."""

from __future__ import annotations

import re
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from sonet.publishing.figures import Figure

_MARKUP = re.compile(r"([\\`*\[\]<>#|~&$]|(?<![^\W_])_|_(?![^\W_]))")
"""An underscore between letters is none."""


class Raw(str):
    """Text that is Markdown already."""


def plain(value: object) -> str:
    """The value on one line, with a backslash before everything that Markdown or HTML would take for its own."""
    return value if isinstance(value, Raw) else _MARKUP.sub(r"\\\1", " ".join(str(value).split()))


def code(value: object) -> Raw:
    """The value as code on one line, between more backticks than it has itself; not for tables, where | ends a cell."""
    text = " ".join(str(value).split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") or not text else ""
    return Raw(f"{fence}{pad}{text}{pad}{fence}")


def share(value: float) -> str:
    """An accuracy in [0, 1] to three places."""
    return f"{value:.3f}"


def interval(figure: Figure) -> Raw:
    """[0.542, 0.728]."""
    return Raw(f"[{share(figure.low)}, {share(figure.high)}]")


@cache
def template(name: str) -> Template:
    """A template of this folder; every value it prints goes through `plain`."""
    environment = Environment(
        loader=PackageLoader("sonet", "publishing"),
        autoescape=False,  # for HTML; `finalize` escapes for Markdown
        finalize=plain,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(code=code, share=share, interval=interval)
    return environment.get_template(name)
