"""Small specs for tests."""

from __future__ import annotations

from typing import Any

from schemas.spec import Spec, parse_spec


def tiny_spec(**sections: Any) -> Spec:
    """A valid spec with few steps; keyword arguments replace or extend its sections."""
    document: dict[str, Any] = {
        "stream": {
            "name": "tiny",
            "key": "key",
            "time": {"field": "time", "format": "epoch_ms"},
            "features": [
                {"name": "load", "role": "target", "unit": "MW"},
                {"name": "heat", "role": "past", "fill": "zero"},
                {"name": "time_of_day", "role": "future", "calendar": "time_of_day"},
            ],
        },
        "grid": {"step": "10ms", "max_gap": 1},
        "window": {"past": 3, "horizon": 2},
    }
    for name, section in sections.items():
        document[name] = document.get(name, {}) | section if isinstance(section, dict) else section
    return parse_spec(document)
