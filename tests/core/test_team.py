"""What ranks tell each other, over gloo."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist

from qi_core import team
from support import ranks


def told() -> list[Any]:
    """What is gathered, and how much room each collective took of every rank."""
    room: list[int] = []

    def noted(gather: Any) -> Any:
        def all_gather(found: Any, own: Any, group: Any = None) -> Any:
            room.append(own.nbytes)
            return gather(found, own, group=group)

        return all_gather

    every = team.join(torch.device("cpu"), 60)
    dist.all_gather = noted(dist.all_gather)
    dist.distributed_c10d.all_gather = noted(dist.distributed_c10d.all_gather)
    small = every.gather("word" * every.rank)
    large = every.gather(torch.full((1 << 20,), 7.0) if every.rank == 1 else None)
    found = [small, [None if each is None else float(each.sum()) for each in large], max(room)]
    team.leave()
    return found


@pytest.mark.slow
def test_the_one_large_thing_of_one_rank_takes_its_own_room_and_no_more() -> None:
    for small, large, room in ranks.together(2, told):
        assert small == ["", "word"]
        assert large == [None, 7.0 * (1 << 20)]
        assert room < 1 << 17
