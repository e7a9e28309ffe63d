"""Words as Markdown."""

from __future__ import annotations

import re

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$^])")


def escape(text: str) -> str:
    """Text that Markdown shows as it stands; ``...`` and `...` become code."""
    parts = re.split(r"(``.+?``|`.+?`)", text)
    return "".join(
        code(part.strip("`")) if index % 2 else _SPECIAL.sub(r"\\\1", part) for index, part in enumerate(parts)
    )


def code(text: str) -> str:
    """Text in the typeface of code."""
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}"


def definition(term: str, paragraphs: list[str]) -> str:
    """An entry of a definition list."""
    first, *others = [paragraph for paragraph in paragraphs if paragraph]
    return "\n".join([term, f": {first}", *(f"\n  {other}" for other in others), ""])
