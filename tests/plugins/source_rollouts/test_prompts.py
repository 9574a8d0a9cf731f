"""Prompts out of files: each once a round, and no line passed over in silence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qi_core import QiError
from qi_plugins.source_rollouts.prompts import FromFile, Reader, Task


def drawn(path: Path, count: int, seed: int = 0) -> list[Task]:
    return FromFile(Reader(path, (32, 48), 16).read(), seed, 16).draw(count)


def test_each_line_once_a_round_in_an_order_of_the_rounds_own(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a\n\n b \nc\nd\ne\nf\n", encoding="utf-8")
    tasks = drawn(path, 18)
    rounds = [[task.prompt for task in tasks[i : i + 6]] for i in (0, 6, 12)]
    assert all(sorted(own) == list("abcdef") for own in rounds)
    assert len({tuple(own) for own in rounds}) > 1
    assert {task.id for task in tasks} == {"1", "3", "4", "5", "6", "7"}, "lines are named by their number"
    assert {task.size for task in tasks} == {(32, 48)}
    assert [task.prompt for task in drawn(path, 18)] == [task.prompt for task in tasks]
    assert [task.prompt for task in drawn(path, 18, seed=1)] != [task.prompt for task in tasks]


def test_a_position_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a\nb\nc\nd\ne\n", encoding="utf-8")
    source = FromFile(Reader(path, (32, 48), 16).read(), 0, 16)
    source.draw(3)
    state = json.loads(json.dumps(source.state_dict()))
    wanted = [task.prompt for task in source.draw(7)]
    other = FromFile(Reader(path, (32, 48), 16).read(), 0, 16)
    other.load_state_dict(state)
    assert [task.prompt for task in other.draw(7)] == wanted


def test_a_resume_notices_an_edited_file(tmp_path: Path) -> None:
    """Going on with what is there begins the next time round."""
    path = tmp_path / "prompts.txt"
    path.write_text("a\nb\nc\n", encoding="utf-8")
    source = FromFile(Reader(path, (32, 48), 16).read(), 0, 16)
    source.draw(4)
    path.write_text("a\nb\nd\ne\n", encoding="utf-8")
    lines = Reader(path, (32, 48), 16).read()
    with pytest.raises(QiError, match=r"^source: file changed since the checkpoint; put back what was there"):
        FromFile(lines, 0, 16).load_state_dict(source.state_dict())
    after = FromFile(lines, 0, 16, changed="next-epoch")
    after.load_state_dict(source.state_dict())
    assert {task.prompt for task in after.draw(4)} == set("abde")


def test_jsonl_tells_text_size_and_pictures_to_edit(tmp_path: Path) -> None:
    Image.fromarray(np.full((40, 80, 3), 7, dtype=np.uint8)).save(tmp_path / "old.png")
    record = {"id": "x", "prompt": 'the word "HI"', "text": "HI", "references": ["old.png"], "height": 16, "width": 64}
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps(record) + "\n", encoding="utf-8")
    (task,) = drawn(path, 1)
    assert (task.id, task.prompt, task.text, task.size) == ("x", 'the word "HI"', "HI", (16, 64))
    (picture,) = task.references
    assert picture.shape[1] * picture.shape[2] <= 16 * 64 * 1.5
    assert picture.shape[2] > picture.shape[1], "of its own shape"
    assert picture.float().mean() == 7


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"prompts.jsonl:2: not JSON"),
        ('{"text": "a"}', r"prompts.jsonl:2: found .*; wanted an object with a \"prompt\""),
        ('{"prompt": "a", "widht": 3}', r"prompts.jsonl:2: unknown key 'widht'; known are"),
        ('{"prompt": 3}', r"prompts.jsonl:2: prompt is 3; wanted text"),
        ('{"prompt": "a", "width": true}', r"prompts.jsonl:2: width is True; wanted a whole number"),
        ('{"prompt": "a", "width": 20}', r"prompts.jsonl:2: 20x32 pixels; wanted sides that are multiples of 16"),
        ('{"prompt": "a", "references": ["no.png"]}', r"prompts.jsonl:2: .*no.png is no file"),
        ('{"prompt": "a", "id": "1"}', r"prompts.jsonl:2: id '1' is that of line 1 too"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "first"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(QiError, match=message):
        drawn(path, 1)


def test_an_empty_file_no_file_and_one_of_another_kind_are_told(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n\n", encoding="utf-8")
    with pytest.raises(QiError, match="holds no prompt"):
        drawn(tmp_path / "empty.txt", 1)
    (tmp_path / "prompts.json").write_text('[\n{"prompt": "a cat"}\n]', encoding="utf-8")
    with pytest.raises(QiError, match=r"a \.json file; wanted text with a prompt a line, or a \.jsonl"):
        drawn(tmp_path / "prompts.json", 1)
    with pytest.raises(QiError, match="No such file"):
        drawn(tmp_path / "nowhere.txt", 1)
