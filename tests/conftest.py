"""What the whole suite shares: tests that need a card are left out, and counted, where there is none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

LEFT_OUT = pytest.StashKey[int]()


@pytest.fixture
def no_tf32() -> Iterator[None]:
    """TF32 keeps ten bits of float32's 23."""
    import torch

    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what is marked ``gpu`` where torch sees no CUDA card. If that was all, say so and fail."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if torch.cuda.is_available():
        return
    if config.option.markexpr == "gpu":
        pytest.exit(f"{len(marked)} tests need a CUDA card; torch {torch.__version__} sees none here", returncode=2)
    config.stash[LEFT_OUT] = len(marked)
    config.hook.pytest_deselected(items=marked)
    items[:] = [item for item in items if item not in marked]


def pytest_report_collectionfinish(config: pytest.Config, items: Sequence[pytest.Item]) -> str | list[str]:
    """Why they were deselected."""
    count = config.stash.get(LEFT_OUT, 0)
    return f"{count} tests marked gpu are left out: no CUDA card here" if count else []
