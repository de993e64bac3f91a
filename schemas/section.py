"""What every part of a spec is made of."""

from __future__ import annotations

from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
"""A name that is safe as a file, topic and model name."""

Count = Annotated[int, Field(ge=1)]


def _known_zone(zone: str) -> str:
    try:
        ZoneInfo(zone)
    except (KeyError, OSError, ValueError) as exc:
        raise ValueError("expected an IANA time zone such as 'UTC' or 'Europe/Berlin'") from exc
    return zone


class Section(BaseModel):
    """Base of every part of the spec: frozen, unknown fields refused, no silent conversion of types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


Share = Annotated[float, Field(ge=0, le=1)]
Zone = Annotated[str, AfterValidator(_known_zone)]
"""An IANA time zone."""
