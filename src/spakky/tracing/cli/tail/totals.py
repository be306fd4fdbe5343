"""How many messages had which verdict, by who sent them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from spakky.tracing.cli.tail.verdict import Verdict

__all__ = ["OTHERS", "Group", "Totals"]

OTHERS: Final = "others"
"""Who stands for all groups that came after there were enough of them."""

_MOST_GROUPS: Final = 1_000


@dataclass(slots=True)
class Group:
    """The messages of one sender.

    Attributes:
        name: Who sent them: a producer, a routing key, or what a header says.
        counts: How many messages had which verdict.
    """

    name: str
    counts: Counter[Verdict] = field(default_factory=Counter)

    @property
    def messages(self) -> int:
        """How many there were."""
        return self.counts.total()

    @property
    def lost(self) -> int:
        """How many of them were not valid."""
        return self.messages - self.counts["valid"]

    @property
    def lost_percent(self) -> float:
        """Their share, from 0 to 100; 0 if there is no message."""
        return 100 * self.lost / self.messages if self.messages else 0.0


class Totals:
    """Counts messages by groups, a thousand of them; the rest is counted as `others`.

    Attributes:
        messages: How many were counted.
    """

    def __init__(self, most_groups: int = _MOST_GROUPS) -> None:
        self._most_groups = most_groups
        self._groups: dict[str, Group] = {}
        self.messages = 0

    def count(self, name: str, verdict: Verdict) -> None:
        """Count a message of the group *name*."""
        group = self._groups.get(name)
        if group is None:
            name = name if len(self._groups) < self._most_groups else OTHERS
            group = self._groups.setdefault(name, Group(name))
        group.counts[verdict] += 1
        self.messages += 1

    @property
    def all(self) -> Group:
        """All messages as one group."""
        together = Group("all")
        for group in self._groups.values():
            together.counts.update(group.counts)
        return together

    def worst_first(self) -> list[Group]:
        """Return the groups, those with the largest share of lost contexts first."""
        return sorted(self._groups.values(), key=lambda group: (-group.lost_percent, -group.lost, group.name))
