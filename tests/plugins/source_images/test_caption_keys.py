"""Several captions of one picture: each epoch takes one, by their shares."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from qi_core import Place, QiError
from qi_core.source import Planned
from qi_plugins.source_images.images import CaptionKey, Images

KEYS = (CaptionKey(key="raw", share=1), CaptionKey(key="caption", share=3))


def written(folder: Path, lines: list[dict[str, Any]]) -> str:
    Image.new("RGB", (32, 32)).save(folder / "a.png")
    (folder / "a.jsonl").write_text("".join(json.dumps({"image": "a.png", **line}) + "\n" for line in lines))
    return str(folder / "a.jsonl")


def built(folder: Path, path: str, **settings: Any) -> Any:
    place = Place(device=torch.device("cpu"), dtype=torch.float32, seed=0, folder=folder)
    return Images(path=path, side=32, **settings).build(place, 16)


def test_a_category_of_a_line_is_known_to_whoever_asks_and_costs_no_sample_where_it_is_none(tmp_path: Path) -> None:
    said = ["people/portrait ", 3, None]
    path = written(tmp_path, [{"caption": str(n), "category": category} for n, category in enumerate(said)])
    samples = built(tmp_path, path).draw(3)
    assert {sample.prompt: sample.category for sample in samples} == {"0": "people/portrait", "1": "", "2": ""}


def test_captions_come_by_their_shares_another_in_each_epoch_and_the_same_for_one_ticket(tmp_path: Path) -> None:
    path = written(tmp_path, [{"raw": "r", "caption": "c"}] * 100)
    source = built(tmp_path, path, caption_keys=KEYS)
    assert isinstance(source, Planned)
    first, second = source.plan(100), source.plan(100)
    told = {ticket: source.make(ticket).prompt for ticket in (*first, *second)}
    assert 35 <= Counter(told.values())["r"] <= 65, "a quarter of 200"
    assert sum(told[0, n] != told[1, n] for n in range(100)) > 20
    again = built(tmp_path, path, caption_keys=KEYS)
    assert all(again.make(ticket).prompt == prompt for ticket, prompt in told.items())


def test_a_line_that_lacks_one_has_the_others_and_one_without_any_its_caption(tmp_path: Path) -> None:
    path = written(tmp_path, [{"raw": "r"}, {"raw": " ", "caption": "c"}, {"text": "t"}])
    keys = (CaptionKey(key="raw", share=1), CaptionKey(key="caption", share=1))
    source = built(tmp_path, path, caption_keys=keys)
    prompts = {(sample.key, sample.prompt) for sample in source.draw(30)}
    assert prompts == {("a.png:1", "r"), ("a.png:2", "c"), ("a.png:3", "t")}


def test_any_of_them_counts_when_it_is_asked_whether_the_data_changed(tmp_path: Path) -> None:
    path = written(tmp_path, [{"raw": "r", "caption": "c"}])
    state = built(tmp_path, path, caption_keys=KEYS).state_dict()
    written(tmp_path, [{"raw": "other", "caption": "c"}])
    with pytest.raises(QiError, match="captions or pictures are others"):
        built(tmp_path, path, caption_keys=KEYS).load_state_dict(state)


def test_captions_that_cannot_be_are_told(tmp_path: Path) -> None:
    path = written(tmp_path, [{"raw": 3, "caption": "c"}, {"raw": "r" * 20_000, "caption": "c"}, {"raw": "r"}])
    source = built(tmp_path, path, caption_keys=KEYS)
    assert source.report() == {"caption is no text": 1, "caption too long": 1}
    with pytest.raises(QiError, match=r"wanted a \.jsonl or shards, or no source\.caption_keys"):
        built(tmp_path, str(tmp_path), caption_keys=KEYS)
