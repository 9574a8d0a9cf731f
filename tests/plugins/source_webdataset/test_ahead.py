"""Shards read ahead: fewer requests, the same samples, within the memory that is given."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from attrs import define, field

from qi_core import Place
from qi_core.pixels import Unusable
from qi_plugins.source_webdataset import ahead
from qi_plugins.source_webdataset.ahead import Ahead, Shelved
from support.shards import Server, built, drawn, settings, write


@define(eq=False)
class Bytes:
    """A shard: its n-th sample is bytes 10 n to 10 n + 9."""

    data: bytes
    asked: list[tuple[int, int]] = field(factory=list)
    broken: bool = False
    version: str = ""

    @property
    def size(self) -> int:
        return len(self.data)

    def part(self, start: int, length: int) -> bytes:
        self.asked.append((start, length))
        if self.broken and length > 10:
            raise Unusable("cannot be reached", "")
        return self.data[start : start + length]

    def beside(self, most: int) -> bytes | None:
        return None


def shard(seed: int, samples: int = 100) -> Bytes:
    return Bytes(np.random.default_rng(seed).bytes(10 * samples))


def take(held: Ahead, number: int, access: Bytes, samples: int, which: int) -> bool:
    """Whether it was no request of its own."""
    before = access.asked.count((10 * which, 10))
    held.takes(number, access, samples)
    assert held.part(number, access, 10 * which, 10) == access.data[10 * which : 10 * which + 10]
    return access.asked.count((10 * which, 10)) == before


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "PIECE", 256)


def test_what_is_at_hand_is_joined_and_what_is_not_is_no_guess() -> None:
    held = Shelved(shard(0))
    for start in (30, 0, 10):
        held.put(start, bytes(range(start, start + 10)))
    assert held.get(5, 12) == bytes(range(5, 17))
    assert held.get(0, 20) == bytes(range(20))
    assert held.get(15, 10) is None
    assert held.get(35, 10) is None
    assert held.gap(60) == (20, 10)


def test_a_window_is_read_in_few_pieces_and_its_samples_are_no_requests() -> None:
    held, shards = Ahead(10_000, window=2), [shard(0), shard(1)]
    for number, access in enumerate(shards):
        take(held, number, access, 100, 0)
    until(lambda: all(each.whole for each in held._held.values()))
    assert all(len(access.asked) <= 5 for access in shards), "four pieces, and one sample that came before them"
    assert all(take(held, n % 2, shards[n % 2], 100, n // 2) for n in range(2, 200))
    held.close()


def test_no_more_is_held_than_there_is_room_and_spent_shards_make_some() -> None:
    held, shards = Ahead(1100, window=10), [shard(0), shard(1)]
    take(held, 0, shards[0], 100, 0)
    until(lambda: held._held[0].whole)
    found = [take(held, 1, shards[1], 100, 0)]
    until(lambda: held._full)
    found += [take(held, 1, shards[1], 100, n) for n in range(1, 100)]
    assert not any(found), "the first one is not spent: there is room for one alone"
    assert held._used == 1000
    for n in range(1, 100):
        take(held, 0, shards[0], 100, n)
    take(held, 1, shards[1], 100, 0)
    until(lambda: held._held[1].whole)
    assert (0 in held._held, held._used) == (False, 1000)
    assert take(held, 1, shards[1], 100, 1)
    held.close()


def test_a_shard_of_which_most_came_already_is_not_read_any_more() -> None:
    """At the end of a window, when others make room. In the next epoch it is."""
    held, access = Ahead(10_000, window=1), shard(0)
    held._full = True
    assert not any(take(held, 0, access, 100, n) for n in range(60))
    held._full = False
    assert not any(take(held, 0, access, 100, n) for n in range(60, 100))
    assert max(length for _, length in access.asked) == 10
    take(held, 0, access, 100, 0)
    until(lambda: held._held[0].whole)
    held.close()


def test_one_that_is_let_go_of_before_it_is_read_holds_up_no_other() -> None:
    held, shards, go = Ahead(10_000, window=4), [shard(n) for n in range(4)], threading.Event()

    class Slow(Bytes):
        def part(self, start: int, length: int) -> bytes:
            assert length == 10 or go.wait(20)
            return super().part(start, length)

    shards[:2] = [Slow(each.data) for each in shards[:2]]
    for number, access in enumerate(shards):
        take(held, number, access, 100, 0)
    until(lambda: held._wanted == [2, 3])
    held.lost(2)
    go.set()
    until(lambda: held._held[3].whole)
    assert 2 not in held._held
    held.close()


def test_who_makes_few_of_the_samples_reads_no_more_than_those() -> None:
    """One of several producers; the first window shows it."""
    held, shards = Ahead(10**6, window=1), [shard(n) for n in range(6)]
    for number in range(3):
        for n in range(20):
            take(held, number, shards[number], 100, n)
        for _ in range(3 * ahead.QUIET):  # the window is over
            take(held, 9, shards[5], 10**6, 0)
    for n in range(20):
        assert not take(held, 4, shards[4], 100, n)
    assert max(length for _, length in shards[4].asked) == 10
    held.close()


def test_what_cannot_be_read_ahead_is_asked_for_alone() -> None:
    held, access = Ahead(10_000, window=1), shard(0)
    access.broken = True
    assert not any(take(held, 0, access, 100, n) for n in range(100))
    held.close()


def test_another_look_at_a_shard_forgets_the_bytes_of_the_first() -> None:
    held, old, new = Ahead(10_000, window=1), shard(0), shard(1)
    take(held, 0, old, 100, 0)
    until(lambda: held._held[0].whole)
    held.scanned(0, new, 0, new.data[:500])
    held.takes(0, old, 100)
    assert held.part(0, old, 0, 10) == old.data[:10], "of who still has the first, in the middle of the second"
    held.scanned(0, new, 0, new.data[:500])
    held.scanned(0, new, 500, new.data[500:])
    held.opened(0, new, 100)
    assert all(take(held, 0, new, 100, n) for n in range(100))
    assert held.part(0, old, 0, 10) == old.data[:10], "of who still has the first"
    held.close()


def test_an_epoch_over_http_is_the_same_with_few_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "data", 4, samples=50)
    server = Server(folder)
    monkeypatch.setattr(ahead, "PIECE", 2**15)
    found, asked = [], []
    with server.running() as url:
        for name, room in (("alone", 0.0), ("ahead", 64.0)):
            component = settings(tmp_path, f"{url}/s-{{000..003}}.tar", window=4, ahead_mib=room)
            place = Place(device=torch.device("cpu"), dtype=torch.float32, seed=7, folder=tmp_path / name)
            place.folder.mkdir()
            drawn(component, place, 1)  # indexes are known
            server.asked.clear()
            with built(component, place) as source:
                samples = list(source.draw(8))
                if room:
                    held = source.shelf._ahead._held
                    until(lambda held=held: len(held) == 4 and all(each.whole for each in held.values()))  # type: ignore[misc]
                samples += source.draw(192)
                found.append([(s.key, s.prompt, s.image.numpy().tobytes()) for s in samples])
            asked.append(len(server.asked))
    assert found[0] == found[1]
    assert asked[0] >= 200
    pieces = sum(-(-path.stat().st_size // 2**15) for path in folder.glob("*.tar"))
    assert asked[1] <= 4 + pieces + 8, "a look at each, its pieces, and the first samples"
    assert pieces < 50


def test_a_shard_that_holds_mostly_other_things_is_not_read_as_a_whole(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", 1, samples=20, npy=lambda n: bytes(5000))
    server = Server(folder)
    with server.running() as url:
        component = settings(tmp_path, f"{url}/s-000.tar")
        place = Place(device=torch.device("cpu"), dtype=torch.float32, seed=7, folder=tmp_path)
        with built(component, place) as source:
            source.shelf._ahead._all = 1  # as after a shard of another kind
            source.draw(20)
            assert not source.shelf._ahead._held, "nor what was read of it to find its headers"
