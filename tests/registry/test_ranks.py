from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qi_core import QiError
from qi_registry import ranks


class Team:
    """Rank 0 of several, of which the others say this."""

    rank = 0

    def __init__(self, *others: Any) -> None:
        self.others, self.ranks = others, 1 + len(others)

    def gather(self, item: Any) -> list[Any]:
        return [item, *self.others]


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Any:
    def agent(launch: str, attempt: int) -> None:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", launch)
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(attempt))

    return agent


def test_what_was_asked_for_is_taken_once_a_launch(agent: Any, tmp_path: Path) -> None:
    assert not ranks.restarted(tmp_path), "without an agent"
    agent("first", 0)
    ranks.mark(tmp_path)
    assert not ranks.restarted(tmp_path), "the first start"
    agent("first", 1)
    assert ranks.restarted(tmp_path)
    agent("second", 1)
    assert not ranks.restarted(tmp_path), "it died before it had taken what the second launch asks for"
    ranks.unmark(tmp_path)
    agent("first", 2)
    assert not ranks.restarted(tmp_path)


def test_a_folder_that_not_all_see_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    ranks.refuse_unshared(Team(True, True), tmp_path)  # type: ignore[arg-type]
    with pytest.raises(QiError, match="not there for rank 1, 3; a folder that all machines share was wanted"):
        ranks.refuse_unshared(Team(False, True, False), tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("theirs", "why"),
    [
        (("a = 1\nb = 3\n", {"folder": "r", "version of torch": "2"}), "rank 1 has b: 2 -> 3; start"),
        (("a = 1\nb = 2\n", {"folder": "r", "version of torch": "3"}), "rank 1 has version of torch: 2 -> 3; start"),
        (("a = 1\nb = 2\n", {"folder": "s", "version of torch": "2"}), "rank 1 has folder: r -> s; start"),
    ],
)
def test_the_first_key_that_differs_is_told(monkeypatch: pytest.MonkeyPatch, theirs: Any, why: str) -> None:
    class Asked:
        recipe = None
        folder = Path("r")

    monkeypatch.setattr("qi_registry.recipe.to_toml", lambda recipe: "a = 1\nb = 2\n")
    monkeypatch.setattr(ranks, "VERSIONS", ("torch",))
    monkeypatch.setattr(ranks, "_version", lambda name: "2")
    same = ("a = 1\nb = 2\n", {"folder": "r", "version of torch": "2"})
    ranks.refuse_different(Team(same), Asked())  # type: ignore[arg-type]
    with pytest.raises(QiError, match=why):
        ranks.refuse_different(Team(theirs), Asked())  # type: ignore[arg-type]
