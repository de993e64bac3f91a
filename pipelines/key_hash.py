"""A hash of keys that is the same on every machine and run, unlike Python's."""

from __future__ import annotations

import hashlib


def key_hash(key: str) -> int:
    """64 bits of blake2b of the key's UTF-8."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
