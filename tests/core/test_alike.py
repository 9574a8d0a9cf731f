"""What is alike is made once, while somebody holds it."""

from __future__ import annotations

from pathlib import Path

from qi_core.alike import Alike, lying_in


class Dear:
    pass


def test_it_is_made_once_for_those_who_hold_it() -> None:
    alike = Alike[Dear]()
    first = alike.get(("a", 1), Dear)
    assert alike.get(("a", 1), Dear) is first
    assert alike.get(("a", 2), Dear) is not first


def test_it_is_let_go_of_with_the_last_who_held_it() -> None:
    alike = Alike[Dear]()
    made = list[int]()

    def make() -> Dear:
        made.append(1)
        return Dear()

    for _ in range(2):
        alike.get("a", make)
    assert len(made) == 2


def test_files_that_were_replaced_are_others(tmp_path: Path) -> None:
    weights, dangling = tmp_path / "model.safetensors", tmp_path / "link"
    weights.write_bytes(b"one")
    dangling.symlink_to(tmp_path / "nowhere")
    before = lying_in(tmp_path, None)
    assert lying_in(tmp_path, None) == before
    weights.unlink()
    weights.write_bytes(b"others")
    assert lying_in(tmp_path, None) != before
    assert lying_in(tmp_path / "nowhere") == ()
