"""Filters by lists of keys and by category."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from attrs import evolve

from qi_core import Place, QiError, Sample
from qi_core.testing import check_component, check_filter
from qi_core.testing.filter import some_samples
from qi_plugins.filter_listed.component import InCategory, Listed

PLACE = Place(device=torch.device("cpu"), dtype=torch.float32, seed=5, folder=Path())
SAMPLE = some_samples(1)[0]


def kept(component: Listed | InCategory, *samples: Sample) -> list[bool]:
    live = component.build(PLACE)
    return [not live.refuses(live.measure(sample)) for sample in samples]


def test_keys_on_a_list_are_dropped_or_kept(tmp_path: Path) -> None:
    path = tmp_path / "dropped.txt"
    path.write_text('sample-1\n\n{"key": "a \\"b\\"\\n", "of": "sample-0"}\nwith space \r\n')
    samples = [evolve(SAMPLE, key=key) for key in ("sample-0", "sample-1", 'a "b"\n', "with space ", "sample-")]
    assert kept(Listed(path=path), *samples) == [True, False, False, False, True]
    assert kept(Listed(path=path, what="keep"), *samples) == [False, True, True, True, False]
    check_component(Listed)
    check_filter(Listed(path=path))


def test_the_mark_that_some_editors_put_first_is_no_part_of_a_key(tmp_path: Path) -> None:
    path = tmp_path / "dropped.txt"
    for line in ("sample-1", '{"key": "sample-1"}'):
        path.write_text(line + "\n", encoding="utf-8-sig")
        assert kept(Listed(path=path), evolve(SAMPLE, key="sample-1")) == [False]


def test_a_list_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(QiError, match="the list of keys cannot be read"):
        Listed(path=tmp_path / "nowhere").build(PLACE)
    path = tmp_path / "list.jsonl"
    for line in ('{"name": 1}', '{"key": 1}', '{"key": ', "x" * (2**20 + 2)):
        path.write_text(f"fine\n{line}\n")
        with pytest.raises(QiError, match=r"list.jsonl:2: .*wanted a key"):
            Listed(path=path).build(PLACE)


def test_categories() -> None:
    samples = [evolve(SAMPLE, category=name) for name in ("people", "people/portrait", "peopleless", "design", "")]
    assert kept(InCategory(keep=("people",)), *samples) == [True, True, False, False, True]
    assert kept(InCategory(drop=("people/portrait", "design")), *samples) == [True, False, True, False, True]
    assert kept(InCategory(keep=("people",), drop=("people/portrait",)), *samples)[:2] == [True, False]
    check_component(InCategory)
    check_filter(InCategory(keep=("people",)))
