"""Shares: which of many things belong to one, the same ones in every process and at every restart."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def in_share(names: Sequence[str], share: float, purpose: bytes) -> NDArray[np.bool_]:
    """Which names are in a share, by their hash.

    Args:
      names: of what is chosen from.
      share: of all names there are, between 0 and 1.
      purpose: at most 16 bytes; the shares of two purposes do not depend on each other.
    Returns:
      bool, one for each name. A greater share holds all of a smaller one.
    """
    if share >= 1:
        return np.ones(len(names), np.bool_)
    limit = int(share * 2**64)
    hashes = (hashlib.blake2b(name.encode(), digest_size=8, person=purpose).digest() for name in names)
    return np.fromiter((int.from_bytes(hashed) < limit for hashed in hashes), np.bool_, len(names))
