"""What every component keeps to, whatever its kind."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from qi_core.testing import check_component

RIGHT = '''
from attrs import field, frozen, validators

@frozen(kw_only=True)
class Thing:
    """A thing."""

    steps: int = field(default=3, validator=validators.gt(0))
    """How many."""

    def work(self) -> float:
        import torch

        return torch.zeros(self.steps).sum().item()
'''


def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> type[Any]:
    """A module's component, importable by name."""
    (tmp_path / f"{tmp_path.name}.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    component: type[Any] = importlib.import_module(tmp_path.name).Thing
    return component


def test_a_right_component_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_component(written(tmp_path, monkeypatch, RIGHT))


@pytest.mark.parametrize(
    ("right", "wrong", "broken"),
    [
        ("@frozen(kw_only=True)", "", "it is no attrs class"),
        ("@frozen(kw_only=True)", "from attrs import define\n@define(kw_only=True)", "it can be changed"),
        ("@frozen(kw_only=True)", "@frozen", "the field steps is positional"),
        ('    """A thing."""', "", "it has no docstring"),
        ('    """How many."""', "", "the field steps has no string literal under it"),
        ("steps: int", "name: int", "a field is called 'name'"),
        ("steps: int", "steps: Lost", "a field's type cannot be found"),
        ("\n@frozen", "import torch\n\n@frozen", "imports torch; import it inside methods"),
        ("validator=validators.gt(0)", "validator=validators.gt(3)", "cannot import .* and make one: ValueError"),
    ],
)
def test_a_wrong_component_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right: str, wrong: str, broken: str
) -> None:
    source = RIGHT.replace(right, wrong)
    assert source != RIGHT
    if "Lost" in wrong:
        source = "from __future__ import annotations\n" + source
    with pytest.raises(AssertionError, match=broken):
        check_component(written(tmp_path, monkeypatch, source))
