"""What runs are started by."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.crew import Crew


@pytest.fixture(scope="session")
def crew(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    """Commands in processes of their own, without the seconds that imports take."""
    with Crew(tmp_path_factory.mktemp("crew")) as crew:
        yield crew
