"""What the whole suite shares: its order; tests that need a card are left out, and counted, where there is none."""

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
    """Slow files first, so that no worker is left alone with one at the end. What is marked ``gpu`` is deselected where
    torch sees no CUDA card; if that was all, say so and fail."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
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
