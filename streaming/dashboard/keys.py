"""Which keys are followed: the first that come, up to a number, and those that somebody asks for."""

from __future__ import annotations

from collections.abc import Callable

MOST_CHARACTERS = 512
"""A longer key is not followed."""


class Keys:
    """The keys that are followed.

    Args:
      most: so many at a time.
      forget: is told a key that has to make room for another one.
    """

    def __init__(self, most: int, forget: Callable[[str], None]) -> None:
        self._most, self._forget = most, forget
        self._wanted: dict[str, bool] = {}
        """Each key, and whether somebody has asked for it; in the order in which they came."""
        self.left_out = False
        """Whether there are more keys than are followed."""

    def follows(self, key: str) -> bool:
        """Whether a key is followed; from now on if there is room."""
        if key in self._wanted:
            return True
        if len(self._wanted) >= self._most or len(key) > MOST_CHARACTERS:
            self.left_out = True
            return False
        self._wanted[key] = False
        return True

    def want(self, key: str) -> None:
        """Follows a key from now on, in the place of one that nobody has asked for, or has not for longest."""
        if not key or len(key) > MOST_CHARACTERS:
            return
        if self._wanted.pop(key, None) is None and len(self._wanted) >= self._most:
            leaving = next((one for one, wanted in self._wanted.items() if not wanted), next(iter(self._wanted)))
            del self._wanted[leaving]
            self._forget(leaving)
            self.left_out = True
        self._wanted[key] = True

    def __contains__(self, key: str) -> bool:
        return key in self._wanted

    def sorted(self) -> list[str]:
        """All of them by name."""
        return sorted(self._wanted)
