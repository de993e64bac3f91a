"""A group of which one member has all partitions; the others wait to take its place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from kafka.coordinator.assignors.abstract import (
    AbstractPartitionAssignor,
    ConsumerProtocolAssignment,
    ConsumerProtocolSubscription,
)


class OneMemberAssignor(AbstractPartitionAssignor):  # type: ignore[misc]
    """Gives everything to the member with the first name."""

    name = "tidegauge-one-member"
    version = 0

    @classmethod
    def assign(cls, cluster: Any, members: Iterable[Any]) -> dict[str, Any]:
        """The partitions of each member, by its id."""
        everyone = sorted(members, key=lambda member: (member.group_instance_id or "", member.member_id))
        topics = sorted({topic for member in everyone for topic in member.metadata.topics})
        all_of_them = [(topic, sorted(cluster.partitions_for_topic(topic) or ())) for topic in topics]
        return {
            member.member_id: ConsumerProtocolAssignment(cls.version, [] if number else all_of_them, b"")
            for number, member in enumerate(everyone)
        }

    @classmethod
    def metadata(cls, topics: Sequence[str]) -> Any:
        """What a member tells the leader."""
        return ConsumerProtocolSubscription(cls.version, list(topics), b"")

    @classmethod
    def on_assignment(cls, assignment: Any, generation: int) -> None:
        """Nothing is to be remembered."""
