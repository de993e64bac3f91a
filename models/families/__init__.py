"""The model families by the name that a spec gives them, one module each."""

from __future__ import annotations

from models.families import attention, cnn, hierarchical, lstm, mlp, rnn
from models.families.family import Family

FAMILIES: dict[str, Family] = {
    "mlp": Family(mlp.build),
    "rnn": Family(rnn.build),
    "lstm": Family(lstm.build),
    "attention": Family(attention.build, attention.signatures),
    "cnn": Family(cnn.build),
    "hierarchical": Family(hierarchical.build, hierarchical.signatures),
}
