"""The worked example of CONTRIBUTING.md works: installed with pip, its own test passes, and the command shows it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def blocks(document: str) -> dict[str, str]:
    """File name -> content: the code blocks that begin with the name of a file in a comment."""
    return dict(re.findall(r"^```\w+\n# (\S+\.\w+)\n(.*?)^```$", document, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with the example's files, and an environment in which its package is installed."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    files = blocks((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert sorted(files) == ["pyproject.toml", "qi_ralston.py", "test_ralston.py"]
    for name, content in files.items():
        (source / name).write_text(content, encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(site), str(source)], check=True)
    path = os.pathsep.join([str(site), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]).strip(os.pathsep)
    return source, {**os.environ, "PYTHONPATH": path}


def test_its_own_test_passes(environment: tuple[Path, dict[str, str]]) -> None:
    source, variables = environment
    (source / "qi_ralston.py").unlink()  # the installed one is meant
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_ralston.py"]
    done = subprocess.run(command, cwd=source, env=variables, capture_output=True, text=True, check=False)
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_the_command_knows_it(environment: tuple[Path, dict[str, str]]) -> None:
    _, variables = environment
    command = [sys.executable, "-m", "qi_registry.cli", "describe", "sampler", "ralston"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    assert "Steps from noise to data; each calls the denoiser twice." in done.stdout


def test_the_table_of_kinds_is_the_cores() -> None:
    """docs/plugins.md names every hook and every check, and none that isn't there."""
    from qi_core import hooks, testing

    text = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\bqi_\w+s\b", text)) - {"qi_plugins"} == {n for n in vars(hooks) if n.startswith("qi_")}
    assert set(re.findall(r"`(check_\w+)", text)) == set(testing.__all__)
