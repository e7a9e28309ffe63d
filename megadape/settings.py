"""The base of every settings class.

A settings class stands beside the thing that it configures and is frozen; a docstring under a field is its
documentation and goes into the JSON schema. ``megadape.config`` assembles them into one tree and words the errors.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Frozen settings that refuse unknown keys, NaN and infinities."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, validate_default=True
    )
