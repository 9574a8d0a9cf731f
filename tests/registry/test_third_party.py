"""A package of somebody else's, installed with pip: found, shown, used; where it is broken or clashes, told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PACKAGE = Path(__file__).with_name("plugin_heun_extra")
Qi = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def qi(tmp_path_factory: pytest.TempPathFactory) -> Qi:
    """The command in an environment with the package beside qi."""
    site, source = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("source") / PACKAGE.name
    shutil.copytree(PACKAGE, source)  # building leaves files behind
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(site), str(source)], check=True)
    path = os.pathsep.join([str(site), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]).strip(os.pathsep)

    def qi(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "qi_registry.cli", *arguments]
        environment = {**os.environ, "PYTHONPATH": path}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return qi


def test_it_is_found_and_shown_with_what_it_gives(qi: Qi) -> None:
    shown = qi("plugins").stdout
    assert "heun-extra" in shown
    assert "qi-plugin-heun-extra 1.2.3" in shown
    assert "sampler midpoint, sampler heun, verb greet" in shown
    described = qi("describe", "sampler", "midpoint")
    assert "Calls of the denoiser, divided by two." in described.stdout


def test_a_plugin_that_is_broken_is_shown_with_its_reason(qi: Qi) -> None:
    (line,) = (line for line in qi("plugins").stdout.splitlines() if "heun-unfinished" in line)
    assert "broken: ModuleNotFoundError: No module named 'a_module_that_is_not_there'" in line
    assert "Broken plugins: heun-unfinished; 'qi plugins' tells why." in qi("--help").stdout


def test_its_verb_is_one_of_qi(qi: Qi) -> None:
    assert "\n  greet " in qi("--help").stdout
    done = qi("greet", "you")
    assert (done.returncode, done.stdout) == (0, "hello you\n")
    assert "usage: qi greet" in qi("greet", "--help").stdout


def test_twins_are_refused_where_they_are_asked_for_and_stop_nobody_else(qi: Qi) -> None:
    assert qi("describe", "sampler", "euler").returncode == 0
    twins = qi("describe", "sampler", "heun")
    assert twins.returncode == 2
    assert "two samplers are called 'heun': one of qi " in twins.stderr
    assert " and one of qi-plugin-heun-extra 1.2.3 (plugin heun-extra)" in twins.stderr
    assert "two samplers are called 'heun'" in qi("plugins").stdout
    assert "cannot be used: two samplers" in qi("list", "sampler").stdout


def test_recipes_name_its_components(qi: Qi, tmp_path: Path) -> None:
    """The mistakes are those of what the recipe leaves out; its sampler is none of them, its settings are checked."""
    recipe = tmp_path / "mine.toml"
    recipe.write_text('sampler = "midpoint"\n')
    assert "sampler" not in qi("check", str(recipe)).stderr
    recipe.write_text('[sampler]\nname = "midpoint"\nstps = 3\n')
    assert f"{recipe}:3: sampler.stps: unknown key; did you mean 'steps'?" in qi("check", str(recipe)).stderr
    recipe.write_text('sampler = "heun"\n')
    assert f"{recipe}:1: sampler: two samplers are called 'heun'" in qi("check", str(recipe)).stderr
    recipe.write_text('sampler = "unfinished"\n')
    assert (
        "may be in a plugin that is broken (heun-unfinished of qi-plugin-heun-extra" in qi("check", str(recipe)).stderr
    )


def test_the_committed_schema_leaves_it_out(qi: Qi) -> None:
    assert "midpoint" in qi("schema").stdout
    assert "midpoint" not in qi("schema", "--only", "qi").stdout
