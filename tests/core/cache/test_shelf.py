"""The cache's folder: what is stored is read back or is known to be lost, whatever happens to processes and disks."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from safetensors import safe_open

from qi_core.cache import shards
from qi_core.cache.manifest import Form
from qi_core.checksum import checksum
from qi_core.errors import QiError
from support.caching import FORM, SIZE, SMALL, entry, fill, held, shards_of, shelf_at

WRITER = """
import sys, time
from pathlib import Path
from support.caching import fill, shelf_at
first, last, path, pause = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])
shelf = shelf_at(path, [], shard_bytes=1 << 16)
for number in range(first, last):
    fill(shelf, range(number, number + 1))
    print(number, flush=True)
    time.sleep(pause)
shelf.close()
"""


def writer(path: Path, first: int, last: int, pause: float = 0.0) -> subprocess.Popen[str]:
    """A process of its own that stores entries."""
    argv = [sys.executable, "-c", WRITER, str(first), str(last), str(path), str(pause)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment)


def stop_in_mid_shard(process: subprocess.Popen[str], path: Path) -> None:
    """Between two shards there is a moment in which nothing is begun."""
    while True:
        process.send_signal(signal.SIGSTOP)
        assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
        if list((path / "writing").glob("*.part")):
            return
        process.send_signal(signal.SIGCONT)


TEXT = Form(kind="text", encoder="f", bucket=(0, 0, 0), dtype="BF16", width=8)


def test_what_was_stored_is_found_before_it_is_published_and_after(tmp_path: Path) -> None:
    shelf = shelf_at(tmp_path)
    fill(shelf, range(10))
    assert held(shelf, range(20)) == set(range(10))  # out of the shard that is being written
    shelf.close()
    again = shelf_at(tmp_path)
    assert held(again, range(20)) == set(range(10))
    assert again.stats()["hits"] == 10
    assert again.stats()["misses"] == 10
    again.close()


def test_a_shard_is_a_safetensors_file_of_one_kind_and_bucket_whose_data_begin_at_a_page(tmp_path: Path) -> None:
    shelf = shelf_at(tmp_path)
    fill(shelf, range(5))
    shelf.put(TEXT, b"t" * 16, (1, 1, 3), b"x" * 48)
    shelf.close()
    found = {}
    for path in shards_of(tmp_path):
        assert re.fullmatch("[0-9a-f]{40}", path.stem)
        assert int.from_bytes(path.read_bytes()[:8], "little") == 4096 - 8
        with safe_open(path, framework="np") as file:
            found |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert found == {"latents": (5, 8, 64), "text": (3, 8)}


def test_a_full_shard_is_published_while_others_are_written(tmp_path: Path) -> None:
    shelf = shelf_at(tmp_path, shard_bytes=SMALL)
    fill(shelf, range(200))
    deadline = time.monotonic() + 10
    while len(shards_of(tmp_path)) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(shards_of(tmp_path)) == 3
    assert held(shelf, range(200)) == set(range(200))
    shelf.close()


def test_a_shard_that_fills_slowly_is_published_after_a_while(tmp_path: Path) -> None:
    shelf = shelf_at(tmp_path, publish_seconds=0.01)
    fill(shelf, range(1))
    time.sleep(0.02)
    fill(shelf, range(1, 2))
    deadline = time.monotonic() + 10
    while not shards_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert shards_of(tmp_path)
    shelf.close()


def test_a_writer_that_is_killed_in_mid_shard_leaves_what_it_had_published_and_no_litter(tmp_path: Path) -> None:
    process = writer(tmp_path, 0, 100_000, pause=0.001)
    assert process.stdout is not None
    for line in process.stdout:
        if line == "100\n":
            break
    stop_in_mid_shard(process, tmp_path)
    process.send_signal(signal.SIGCONT)  # it may hold the lock
    shelf_at(tmp_path, []).close()  # a start sweeps, but never what a living process writes
    published = len(shards_of(tmp_path))
    until = time.monotonic() + 20
    while (more := len(shards_of(tmp_path)) - published) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    stop_in_mid_shard(process, tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert more >= 2, "the sweep has taken what it wrote"
    assert list((tmp_path / "writing").glob("*.part"))
    shelf = shelf_at(tmp_path)
    assert not list((tmp_path / "writing").glob("*.part"))
    have = held(shelf, range(10_000))
    assert have == set(range(len(have)))  # whole shards of it, of which none is missing
    assert len(have) >= 60 * (published + 1), "the last may have been killed between its file and its line"
    assert len(have) < 10_000
    shelf.close()


def test_a_shard_without_its_line_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the rename and the line."""
    shelf = shelf_at(tmp_path, [])
    fill(shelf, range(3))
    monkeypatch.setattr("qi_core.cache.manifest.Manifest.publish", _killed)
    shelf.close()
    assert len(shards_of(tmp_path)) == 1
    monkeypatch.undo()
    again = shelf_at(tmp_path)
    assert held(again, range(3)) == set()
    assert shards_of(tmp_path) == []
    assert list(tmp_path.glob("*.index")) == []
    again.close()


def test_two_processes_write_at_once_and_see_each_others(tmp_path: Path) -> None:
    shelf = shelf_at(tmp_path)
    both = [writer(tmp_path, 0, 150), writer(tmp_path, 100, 250)]
    for process in both:
        process.communicate(timeout=60)
    assert [process.returncode for process in both] == [0, 0]
    time.sleep(1.1)  # news are looked for once a second
    assert held(shelf, range(300)) == set(range(250))
    shelf.close()


def test_the_first_of_two_that_wrote_the_same_wins_and_the_other_is_counted(tmp_path: Path) -> None:
    first, second = shelf_at(tmp_path), shelf_at(tmp_path)
    fill(first, range(4))
    fill(second, range(2, 6))
    first.close()
    second.flush()
    assert second.stats()["duplicates"] == 2
    hit = second.find([entry(3)[0]])[0]
    assert hit is not None
    assert hit.entry.shard == json.loads((tmp_path / "manifest.jsonl").read_text().splitlines()[0])["shard"]
    second.close()


@pytest.mark.parametrize("harm", ["flipped", "cut", "missing", "index cut", "index gone"])
def test_a_shard_that_is_not_what_was_written_is_noticed_told_set_aside_and_written_again(
    tmp_path: Path, harm: str
) -> None:
    shelf = shelf_at(tmp_path)
    fill(shelf, range(10))
    shelf.close()
    path = shards_of(tmp_path)[0]
    index = path.with_suffix(".index")
    if harm == "flipped":
        data = bytearray(path.read_bytes())
        data[4096 + 3 * SIZE + 7] ^= 1
        path.write_bytes(data)
    elif harm == "cut":
        os.truncate(path, path.stat().st_size - 1)
    elif harm == "missing":
        path.unlink()
    elif harm == "index cut":
        os.truncate(index, index.stat().st_size - 1)
    else:
        index.unlink()
    told: list[str] = []
    again = shelf_at(tmp_path, told)
    have = held(again, range(10))
    assert have == (set(range(10)) - {3} if harm == "flipped" else set())
    assert len(told) == 1
    assert path.stem in told[0]
    assert not path.exists()
    assert (tmp_path / "spoiled" / path.name).exists() == (harm != "missing")
    assert held(again, range(10)) == set()  # nobody reads the rest of it any more
    fill(again, range(10))
    assert held(again, range(10)) == set(range(10))
    again.close()
    last = shelf_at(tmp_path)  # and all others know
    assert held(last, range(10)) == set(range(10))
    last.close()


def test_a_flipped_bit_in_the_index_costs_an_entry_and_never_gives_a_wrong_one(tmp_path: Path) -> None:
    shelf = shelf_at(tmp_path)
    fill(shelf, range(10))
    shelf.close()
    index = shards_of(tmp_path)[0].with_suffix(".index")
    whole = index.read_bytes()
    for at in range(4096, 4096 + 64, 3):  # the first row, byte by byte
        data = bytearray(whole)
        data[at] ^= 4
        index.write_bytes(data)
        again = shelf_at(tmp_path, [])
        assert len(held(again, range(10))) in (9, 10)
        again.close()


def test_a_damaged_line_of_the_manifest_is_told_and_costs_one_shard(tmp_path: Path) -> None:
    for number in range(3):
        shelf = shelf_at(tmp_path)
        fill(shelf, range(number, number + 1))
        shelf.close()
    path = tmp_path / "manifest.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1].replace(b'"width": 64', b'"width": 32') + lines[2][:-20])  # cut off: a crash
    told: list[str] = []
    again = shelf_at(tmp_path, told)
    assert held(again, range(3)) == {0}
    fill(again, range(5, 6))
    again.close()
    last = shelf_at(tmp_path, told)
    assert held(last, range(6)) == {0, 5}  # the torn line swallowed nothing
    assert any("damaged" in line for line in told)
    last.close()


@pytest.mark.parametrize("version", [1, 3])
def test_a_cache_of_another_version_of_the_format_is_refused_and_left_as_it_is(tmp_path: Path, version: int) -> None:
    """Else all of it would be swept: by what this version knows, none of its shards has a line."""
    shelf = shelf_at(tmp_path)
    fill(shelf, range(3))
    shelf.close()
    path = tmp_path / "manifest.jsonl"
    text = path.read_bytes().rpartition(b', "check"')[0].replace(b'"version": 2', b'"version": %d' % version)
    path.write_bytes(
        text + (b', "check": "0badcafe"}\n' if version == 1 else b', "check": "%016x"}\n' % checksum(text))
    )
    shards = shards_of(tmp_path)
    with pytest.raises(QiError, match=f"version {version} of the format; version 2 was wanted: give another folder"):
        shelf_at(tmp_path)
    assert shards_of(tmp_path) == shards != []


def test_a_disk_that_is_full_ends_the_storing_and_nothing_else(tmp_path: Path) -> None:
    """By the system's own limit on the size of a file: as on a full disk, a part of a write may still succeed."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    told: list[str] = []
    shelf = shelf_at(tmp_path, told)
    fill(shelf, range(3))
    shelf.flush()
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096 + 10 * SIZE + 100, before[1]))
        fill(shelf, range(3, 30))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert held(shelf, range(30)) == {0, 1, 2}
    assert len(told) == 1
    assert os.strerror(errno.EFBIG) in told[0]
    assert shelf.stats()["not stored"] == 27
    assert not list((tmp_path / "writing").glob("*"))  # its room is given back
    shelf.close()


def test_a_disk_that_is_full_when_a_shard_is_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    shelf = shelf_at(tmp_path, told)
    fill(shelf, range(3))
    monkeypatch.setattr(shards, "write_run", _no_space)
    shelf.close()
    assert len(told) == 1
    assert os.strerror(errno.ENOSPC) in told[0]
    assert not list((tmp_path / "writing").glob("*"))


def test_at_the_quota_storing_stops_or_the_shards_leave_that_were_not_read_for_longest(tmp_path: Path) -> None:
    told: list[str] = []
    quota = {"shard_bytes": SMALL, "quota": 4 * SMALL}
    shelf = shelf_at(tmp_path / "stop", told, **quota)
    fill(shelf, range(400))
    shelf.close()
    again = shelf_at(tmp_path / "stop")
    have = held(again, range(400))
    assert have == set(range(len(have)))
    assert 150 < len(have) < 240
    assert len(told) == 1
    assert "quota" in told[0]
    files = [*(tmp_path / "stop").glob("*.safetensors"), *(tmp_path / "stop").glob("*.index")]
    assert sum(path.stat().st_size for path in files) <= 4 * SMALL
    again.close()

    shelf = shelf_at(tmp_path / "evict", full="evict", **quota)
    fill(shelf, range(120))
    shelf.flush()
    for index in (tmp_path / "evict").glob("*.index"):
        os.utime(index, (1, 1))
    used = held(shelf, range(10))  # reading notes that it is in use
    fill(shelf, range(120, 240))
    shelf.flush()
    assert held(shelf, range(10)) == used == set(range(10))
    have = held(shelf, range(240))
    assert set(range(200, 240)) <= have
    assert not set(range(70, 110)) & have
    assert shelf.stats()["shards evicted"] >= 1
    fill(shelf, range(70, 80))  # what has left can come again
    assert held(shelf, range(70, 80)) == set(range(70, 80))
    shelf.close()


def test_many_threads_store_read_and_evict_at_once(tmp_path: Path) -> None:
    shelf = shelf_at(tmp_path, shard_bytes=SMALL, quota=4 * SMALL, full="evict", publish_seconds=0.02)
    until = time.monotonic() + 0.7

    def work(seed: int) -> int:
        dice, rounds = random.Random(seed), 0
        while time.monotonic() < until or rounds < 3:
            start, rounds = dice.randrange(1000), rounds + 1
            have = held(shelf, range(start, start + 16))  # what is read is what was stored, or nothing
            for number in set(range(start, start + 16)) - have:
                fill(shelf, range(number, number + 1))
        return rounds

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4), timeout=60))
    shelf.close()
    assert shelf.stats()["shards evicted"]
    assert not list((tmp_path / "writing").glob("*"))


def test_why_there_is_nothing_to_read_is_kept(tmp_path: Path) -> None:
    shelf = shelf_at(tmp_path)
    shelf.put(FORM, b"n" * 16, FORM.bucket, b"", reason="latent is not finite")
    shelf.close()
    again = shelf_at(tmp_path)
    hit = again.find([b"n" * 16])[0]
    assert hit is not None
    assert hit.refused == "latent is not finite"
    again.close()


def test_a_cache_of_many_small_shards_is_searched_in_few_files(tmp_path: Path) -> None:
    for number in range(40):
        shelf = shelf_at(tmp_path)
        fill(shelf, range(number, number + 1))
        shelf.close()
    again = shelf_at(tmp_path)
    assert held(again, range(50)) == set(range(40))
    assert len(again._ledger.catalogue._runs) < 16
    again.close()
    for path in (tmp_path / "merged").glob("*.index"):  # copies: they may be damaged, and are made again
        os.truncate(path, path.stat().st_size - 8)
    last = shelf_at(tmp_path)
    assert held(last, range(50)) == set(range(40))
    last.close()


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(QiError, match=r"data\.cache\.path: .*file/cache: .*; a folder that can be written was wanted"):
        shelf_at(tmp_path / "file" / "cache")


def _killed(*_: object) -> None:
    raise OSError(errno.EIO, "killed here")


def _no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
