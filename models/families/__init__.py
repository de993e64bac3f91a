"""The model families by the name that a spec gives them, one module each."""

from __future__ import annotations

from models.families import (
    attention,
    cnn,
    forest,
    hierarchical,
    linear,
    lstm,
    mlp,
    persistence,
    rnn,
    seasonal,
)
from models.families.family import Family, FittedFamily

FAMILIES: dict[str, Family | FittedFamily] = {
    "mlp": Family(mlp.build),
    "rnn": Family(rnn.build),
    "lstm": Family(lstm.build),
    "attention": Family(attention.build, attention.signatures),
    "cnn": Family(cnn.build),
    "hierarchical": Family(hierarchical.build, hierarchical.signatures),
    "persistence": FittedFamily(persistence.build, persistence.fit),
    "seasonal": FittedFamily(seasonal.build, seasonal.fit),
    "linear": FittedFamily(linear.build, linear.fit),
    "forest": FittedFamily(forest.build, forest.fit),
}
