"""``qi reward serve``: the rewards that a recipe names, of any plugin's, for runs elsewhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from qi_core import Place
from qi_core.scoring import Scorer
from qi_core.testing.rewards import some_candidates
from qi_plugins.reward_http.component import Http

PLUGIN = '''
from typing import Any, ClassVar
from attrs import field, frozen
from qi_core import Samples, Scores, hookimpl
from qi_core.reward import RewardComponent

class Live:
    def __init__(self, factor): self.factor = factor
    async def score(self, candidates):
        return Scores(values=tuple(self.factor * float(each.image.float().mean()) for each in candidates))
    async def close(self):
        print("closed", flush=True)

@frozen(kw_only=True)
class Brightness:
    """Mean."""
    groupwise: ClassVar[bool] = False
    factor: float = 1.0
    """Of it."""
    def build(self, place): return Live(self.factor)

@frozen(kw_only=True)
class Weighted:
    """One."""
    name: str = ""
    """A name."""
    weight: float = 1.0
    """A weight."""
    reward: RewardComponent
    """A reward."""

@frozen(kw_only=True)
class Drawn:
    """Pictures that are judged."""
    gives: ClassVar[type] = Samples
    rewards: tuple[Weighted, ...] = ()
    """Who judges."""
    def build(self, place, multiple): raise NotImplementedError

@hookimpl
def qi_rewards(): return {"brightness": Brightness}
@hookimpl
def qi_sources(): return {"drawn": Drawn}
'''
RECIPE = """
extends = "pretrain.toml"
[source]
name = "drawn"
[[source.rewards]]
reward = "brightness"
[[source.rewards]]
name = "double"
reward = {name = "brightness", factor = 2.0}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a plugin that is installed for who has it on its path, and a recipe."""
    (tmp_path / "qi_judged.py").write_text(PLUGIN)
    info = tmp_path / "qi_judged-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: qi-judged\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[qi]\njudged = qi_judged\n")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path


def command(folder: Path, *words: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "qi_registry.cli", "reward", "serve", "recipe.toml", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def serving(folder: Path, *words: str, **env: str) -> Iterator[tuple[str, str]]:
    """Its address, and what it says beside; afterwards it must end well when it is asked to."""
    with command(folder, "--port", "0", *words, **env) as process:
        assert process.stdout
        try:
            first = process.stdout.readline()
            assert first, process.communicate()
            url, _, rest = first.strip().partition(": ")
            yield url, rest
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=20)
            assert (process.returncode, set(out.split()), err) == (0, {"closed"}, "")
        finally:
            process.kill()


def get(url: str, token: str = "") -> Any:
    headers = {"Accept": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:
        return json.load(answer)


def test_a_runs_reward_http_gets_what_the_recipes_reward_gives(folder: Path) -> None:
    place = Place(device=torch.device("cpu"), dtype=torch.float32, seed=0, folder=folder)
    candidates = some_candidates(3)
    bright = [float(candidate.image.float().mean()) for candidate in candidates]
    with serving(folder) as (url, said):
        assert said == "brightness, double (this machine only)"
        assert [each["name"] for each in get(f"{url}/v1/rewards")["rewards"]] == ["brightness", "double"]
        remote = {name: Http(url=url, reward=name).build(place) for name in ("brightness", "double")}
        with Scorer(remote) as scorer:
            found = scorer.submit(candidates).result(timeout=60)
    assert found["brightness"].values == tuple(bright)
    assert found["double"].values == tuple(2 * each for each in bright)


def test_only_some_and_only_for_who_has_the_token(folder: Path) -> None:
    (folder / "token").write_text("secret\n")
    with serving(folder, "--only", "double", "--token-file", "token", "--host", "0.0.0.0") as (url, said):
        assert said == "double (token)"
        here = url.replace("0.0.0.0", "127.0.0.1")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            get(f"{here}/v1/rewards")
        assert [each["name"] for each in get(f"{here}/v1/rewards", "secret")["rewards"]] == ["double"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0: others could call without a token; give --token-file"),
        (["--token-file", "nowhere"], "nowhere: no token can be read"),
        (["--only", "duoble"], "--only duoble: no reward of recipe.toml; did you mean 'double'? (it has"),
        (["--set", 'source="rendered-text"'], "recipe.toml: has no rewards; wanted a recipe whose source"),
        (["--set", 'source.rewards=[{reward="brightness"},{name="brightness",reward={name="brightness",factor=3.0}}]'],
         "two rewards of the recipe are called 'brightness' and differ"),
        (["--max-body", "0"], "--max-body 0: wanted 1 to 4096 MiB"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_line(folder: Path, words: list[str], told: str) -> None:
    process = command(folder, *words)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert told in err
    assert err.count("\n") == 1
