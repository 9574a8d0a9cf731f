"""Sorted rows on the disk."""

from __future__ import annotations

import subprocess
import sys
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest

from qi_core.cache import merging
from qi_core.cache.index import PAGE, Damaged, Entry, Run, halves, rows_of, write_run

MANY = """
import sys, time
from pathlib import Path
import numpy as np
from qi_core.cache.index import ROW, Run, check_of, write_run

path, count, step, part = Path(sys.argv[1]), int(sys.argv[2]), 1000, 1 << 16

def parts():
    for start in range(0, count, part):
        numbers = np.arange(start, min(start + part, count), dtype=np.uint64)
        rows = np.zeros(len(numbers), dtype=ROW)
        rows["high"] = rows["low"] = numbers * np.uint64((1 << 64) // count)
        for i in np.flatnonzero(numbers % step == 0):
            rows["check"][i] = check_of(rows[i].tobytes())
        yield rows

with path.open("wb") as file:
    write_run(file, ["a" * 40], parts())
run = Run(path)
random, found, spent = np.random.default_rng(0), 0, 0.0
for _ in range(20):
    ids = random.integers(0, count // step, 512).astype(np.uint64) * np.uint64(step) * np.uint64((1 << 64) // count)
    start = time.process_time()
    found += sum(map(len, run.find(ids, ids)))
    spent += time.process_time() - start
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(found, peak / 1024, spent / 20 / 512 * 1e6)
"""


def entries(numbers: range, shard: str, reason: int = 0) -> list[Entry]:
    ids = [blake2b(b"%d" % number, digest_size=16).digest() for number in numbers]
    return [Entry(id, shard, 4096 + 100 * n, 100, n, (1, n, 7), reason) for n, id in zip(numbers, ids, strict=True)]


def run_of(path: Path, own: list[Entry]) -> Run:
    with path.open("wb") as file:
        write_run(file, [own[0].shard], [rows_of(own, 0)])
    return Run(path)


def test_every_row_is_found_and_no_other(tmp_path: Path) -> None:
    own = entries(range(3 * PAGE + 5), "a" * 40)
    run = run_of(tmp_path / "a.index", own)
    found = run.find(*halves([entry.id for entry in own]))
    assert [one[0] for one in found] == own
    others = entries(range(10_000, 10_500), "a" * 40)
    assert run.find(*halves([entry.id for entry in others])) == [[]] * 500
    run.close()


def test_rows_of_one_id_are_all_found_across_the_edges_of_pages(tmp_path: Path) -> None:
    id = b"\x80" + bytes(15)
    own = entries(range(PAGE), "a" * 40) + [Entry(id, "a" * 40, n, 1, 1, (1, 1, 1), 0) for n in range(2 * PAGE)]
    run = run_of(tmp_path / "a.index", own)
    assert len(run.find(*halves([id]))[0]) == 2 * PAGE
    run.close()


def test_a_merged_run_finds_what_its_parts_found_without_shards_that_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "AT_ONCE", 700)  # in several pieces
    runs = [
        run_of(tmp_path / f"{letter}.index", entries(range(400 * i, 400 * i + 500), letter * 40))
        for i, letter in enumerate("abcdef")
    ]
    path = merging.merge(tmp_path / "merged", runs, lambda shard: shard != "c" * 40)
    assert path is not None
    both = Run(path)
    assert both.count == 5 * 500
    assert both.shards == tuple(c * 40 for c in "abdef")
    ids = halves([entry.id for entry in entries(range(2600), "a" * 40)])
    for own, *apart in zip(both.find(*ids), *(run.find(*ids) for run in runs), strict=True):
        wanted = [entry.shard for each in apart for entry in each if entry.shard != "c" * 40]
        assert sorted(entry.shard for entry in own) == sorted(wanted)
    for run in (*runs, both):
        run.close()


def test_a_run_that_is_cut_off_or_is_something_else_is_refused(tmp_path: Path) -> None:
    run_of(tmp_path / "a.index", entries(range(600), "a" * 40)).close()
    whole = (tmp_path / "a.index").read_bytes()
    for broken in (whole[:-8], whole[:100], whole + b"\0", b"", b"x" + whole[1:], whole[:16] + b"\xff" + whole[17:]):
        (tmp_path / "b.index").write_bytes(broken)
        with pytest.raises(Damaged):
            Run(tmp_path / "b.index")


@pytest.mark.skipif(sys.platform != "linux", reason="memory by /proc")
def test_many_millions_of_rows_are_searched_in_little_memory(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", MANY, str(tmp_path / "many.index"), str(2_000_000)]
    out = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=300).stdout.split()
    found, megabytes, microseconds = int(out[0]), float(out[1]), float(out[2])
    assert found == 20 * 512
    assert megabytes < 100  # numpy included; the file has 128
    assert microseconds < 500  # about 15 on an idle machine


def test_rows_are_sixty_four_bytes() -> None:
    from qi_core.cache.index import ROW

    assert ROW.itemsize == 64
    assert np.zeros(1, dtype=ROW).tobytes() == bytes(64)
