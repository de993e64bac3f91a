"""The model families by the name that a spec gives them, one module each."""

from __future__ import annotations

from models.families import hierarchical, lstm, mlp
from models.families.family import Family

FAMILIES: dict[str, Family] = {
    "hierarchical": Family(hierarchical.build, hierarchical.signatures),
    "lstm": Family(lstm.build),
    "mlp": Family(mlp.build),
}
