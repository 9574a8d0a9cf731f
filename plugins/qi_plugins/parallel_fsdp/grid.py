"""Which ranks belong together: rank = (copy * shards + shard) * tensor + tensor rank."""

from __future__ import annotations

from attrs import field, frozen, validators

from qi_core import QiError
from qi_core.planning import divisors, replicas_of


@frozen(kw_only=True)
class Grid:
    """All ranks in three directions."""

    copies: int = field(default=1, validator=validators.gt(0))
    """Groups that hold all weights each (HSDP)."""
    shards: int = field(default=1, validator=validators.gt(0))
    """Ranks of such a group, over which every weight is divided."""
    tensor: int = field(default=1, validator=validators.gt(0))
    """Ranks that compute one replica together."""

    @staticmethod
    def of(ranks: int, tensor: int, shard: int) -> Grid:
        """As the settings say. Raises QiError where degrees don't divide the ranks."""
        replicas = replicas_of(ranks, tensor)
        if shard and replicas % shard:
            sizes = divisors(replicas)
            raise QiError(
                f"parallel.shard: {shard} does not divide {replicas} replicas; set it to one of {sizes}, or 0"
            )
        shards = shard or replicas
        return Grid(copies=replicas // shards, shards=shards, tensor=tensor)

    @property
    def ranks(self) -> int:
        """All of them."""
        return self.copies * self.shards * self.tensor

    @property
    def replicas(self) -> int:
        """Data-parallel ranks."""
        return self.copies * self.shards

    @property
    def divides(self) -> bool:
        """Whether FSDP has something to do: there is more than one replica."""
        return self.replicas > 1

    def at(self, rank: int) -> tuple[int, int, int]:
        """(copy, shard, tensor rank) of a rank."""
        replica, tensor = divmod(rank, self.tensor)
        return *divmod(replica, self.shards), tensor

    def rank(self, copy: int, shard: int, tensor: int) -> int:
        """The other way round."""
        return (copy * self.shards + shard) * self.tensor + tensor

    def copying(self) -> list[list[int]]:
        """Ranks that hold the very same weights."""
        return [
            [self.rank(c, s, t) for c in range(self.copies)] for s in range(self.shards) for t in range(self.tensor)
        ]

    def sharding(self) -> list[list[int]]:
        """Ranks that hold one copy together."""
        return [
            [self.rank(c, s, t) for s in range(self.shards)] for c in range(self.copies) for t in range(self.tensor)
        ]

    def computing(self) -> list[list[int]]:
        """Ranks of one replica."""
        return [
            [self.rank(c, s, t) for t in range(self.tensor)] for c in range(self.copies) for s in range(self.shards)
        ]
