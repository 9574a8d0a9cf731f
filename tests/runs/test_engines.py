"""The same run by whoever makes its samples: the trainer's threads, processes beside it, producers elsewhere, Ray."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from qi_plugins.autoencoder_patchify.patches import Patches
from qi_plugins.conditioner_characters.component import Characters
from qi_plugins.source_mixture.mixture import Mixture
from qi_registry import reader, specs
from qi_registry.registry import installed
from support.small_run import RECIPE, here, losses, qi, start, steps, write_recipe

STEPS = 12
LOCAL = 'data.engine={name="local", processes=1}'


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = RECIPE.replace("steps = 60", f"steps = {STEPS}").replace("save_every = 7", "save_every = 0")
    return write_recipe(tmp_path_factory.mktemp("recipe"), text.replace("warmup = 5", "warmup = 2"))


@pytest.fixture(scope="module")
def inline(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    folder = tmp_path_factory.mktemp("inline") / "run"
    here("run", recipe, "--folder", folder, "--set", "data.portion=3")
    return losses(folder)


@pytest.fixture(scope="module")
def producer() -> Iterator[tuple[str, Path]]:
    """``qi produce`` as users start it on another machine: its address, and the file with its token."""
    process = start("produce", "--port", "0", "--processes", "1")
    assert process.stdout is not None
    line = process.stdout.readline()
    token = Path(line.partition("(token in ")[2].rstrip(")\n"))
    assert token.is_file(), line
    assert token.parent.stat().st_mode & 0o077 == 0, "nobody else may read it"
    yield line.split()[0], token
    process.terminate()
    assert process.wait(60) == 0
    process.communicate()


def test_with_processes_beside_it(
    recipe: Path, inline: dict[int, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QI_PRODUCER_TOKEN", "of-producers-elsewhere")
    said = qi("run", recipe, "--folder", tmp_path / "run", "--set", LOCAL, "--set", "data.portion=3")
    assert losses(tmp_path / "run") == inline, said
    assert not _left(tmp_path / "run"), "its producer has ended with it"


@pytest.mark.parametrize(("prompts", "loaded"), [([], 0), (["ab", "c"], 1)])
def test_a_trainer_that_gets_encoded_samples_loads_the_conditioner_for_pictures_alone(
    recipe: Path,
    producer: tuple[str, Path],
    prompts: list[str],
    loaded: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, build = list[object](), Characters.build
    monkeypatch.setattr(Characters, "build", lambda *given: (made.append(given), build(*given))[1])
    drawing = ["--set", f"preview.prompts={json.dumps(prompts)}", "--set", "preview.every=6"]
    here("run", recipe, "--folder", tmp_path / "inline", "--set", "data.portion=3", *drawing)
    assert len(made) == 1
    made.clear()
    here("run", recipe, "--folder", tmp_path / "run", "--set", _remote(*producer), "--set", "data.portion=3", *drawing)
    assert len(made) == loaded
    assert losses(tmp_path / "run") == losses(tmp_path / "inline")
    pictures, others = (sorted((tmp_path / each).glob("pictures/*")) for each in ("run", "inline"))
    assert len(pictures) == 2 * loaded
    assert [each.read_bytes() for each in pictures] == [each.read_bytes() for each in others]


def test_with_a_producer_elsewhere(
    recipe: Path, inline: dict[int, float], producer: tuple[str, Path], tmp_path: Path
) -> None:
    """It was started without a recipe, and gets the run's."""
    address, token = producer
    engine = f'data.engine={{name="remote", producers=["{address}"], token_file="{token}"}}'
    here("run", recipe, "--folder", tmp_path / "run", "--set", engine, "--set", "data.portion=3")
    assert losses(tmp_path / "run") == inline


def test_preference_pairs_are_encoded_by_producers_too(
    producer: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of mixed sizes and in micro-batches; the trainer encodes what it validates on, and nothing else."""
    recipe = _with_pairs(tmp_path)
    encoded, encode = list[int](), Patches.encode
    monkeypatch.setattr(Patches, "encode", lambda self, some: (encoded.append(len(some)), encode(self, some))[1])
    here("run", recipe, "--folder", tmp_path / "inline", "--set", "data.portion=3")
    assert sum(encoded) == 6 * 2 * 7 + 2 * 2 * 4
    encoded.clear()
    here("run", recipe, "--folder", tmp_path / "run", "--set", _remote(*producer), "--set", "data.portion=3")
    assert sum(encoded) == 2 * 2 * 4
    assert losses(tmp_path / "run") == losses(tmp_path / "inline")
    norms, others = ([record["grad_norm"] for record in steps(tmp_path / name)] for name in ("run", "inline"))
    assert norms == others
    assert _validated(tmp_path / "run") == _validated(tmp_path / "inline") != []


def test_what_goes_wrong_with_a_producer_is_one_line(
    recipe: Path,
    producer: tuple[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    address, token = producer

    def said(*words: str | Path) -> str:
        here("run", *words, code=2)
        return capsys.readouterr().err.strip()

    wrong = tmp_path / "wrong"
    wrong.write_text("another-secret")
    told = said(recipe, "--folder", tmp_path / "a", "--set", _remote(address, wrong))
    assert "does not let us in" in told
    assert "data.engine.token_file" in told
    nobody = 'data.engine={name="remote", producers=["http://127.0.0.1:9"], timeout=0.5}'
    assert "http://127.0.0.1:9" in said(recipe, "--folder", tmp_path / "b", "--set", nobody)
    drawn = said("grpo", "--folder", tmp_path / "c", "--set", "init=", "--set", "data.engine=local")
    assert "draws with the model" in drawn, "and no other process has the model"
    monkeypatch.setattr(specs, "version", lambda name: "0.0.0")
    assert "version" in said(recipe, "--folder", tmp_path / "d", "--set", _remote(address, token))


@pytest.mark.slow
def test_with_ray(recipe: Path, inline: dict[int, float], tmp_path: Path) -> None:
    engine = 'data.engine={name="ray", actors=1, cpus=0.1}'
    said = qi("run", recipe, "--folder", tmp_path / "run", "--set", engine, "--set", "data.portion=3")
    assert losses(tmp_path / "run") == inline, said
    assert (tmp_path / "run" / "producers.token").stat().st_mode & 0o077 == 0


def _with_pairs(folder: Path) -> Path:
    """A recipe of DPO on 24 pairs of four sizes."""
    rows: list[str] = []
    for number in range(24):
        names = [f"{number}-{which}.png" for which in ("winner", "loser")]
        for shade, name in enumerate(names):
            size = [(16, 32), (32, 16), (24, 24), (40, 24)][number % 4]
            Image.new("RGB", size, (10 * number, 100 * shade, 7 * number)).save(folder / name)
        rows.append(json.dumps({"prompt": f"picture {number}", "winner": names[0], "loser": names[1]}))
    (folder / "votes.jsonl").write_text("\n".join(rows) + "\n")
    pairs = f'name = "pairs"\npath = "{folder}/votes.jsonl"\nside = 24\nupscale = "allow"\nmax_cropped = 1.0\n'
    head, _, rest = RECIPE.partition("[source]")
    text = f"""
{head.replace('"flow-matching"', '{ name = "dpo", beta = 100.0, caption_dropout = 0.3 }')}
[source]
{pairs}
[sampler]{rest.partition("[sampler]")[2]}
[[evaluation]]
name = "held-out"
every = 3
count = 4
[evaluation.source]
{pairs}
split = "held-out"
held_out = 0.3
"""
    for was, now in (
        ("steps = 60", "steps = 6"),
        ("batch = 4", "batch = 7\naccumulate = 2"),
        ("warmup = 5", "warmup = 1"),
    ):
        text = text.replace(was, now)
    return write_recipe(folder, text.replace("save_every = 7", "save_every = 0"))


def _validated(folder: Path) -> list[dict[str, object]]:
    """What the evaluations found."""
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [record["scalars"] for record in records if record["event"] == "evaluated"]


def _remote(address: str, token: Path) -> str:
    return f'data.engine={{name="remote", producers=["{address}"], token_file="{token}"}}'


def _left(folder: Path) -> list[str]:
    """Processes that still know the run's folder."""
    found: list[str] = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = each.read_bytes().split(b"\0")
        except OSError:
            continue
        if str(folder).encode() in words and each.parent.name != str(os.getpid()):
            found.append(each.parent.name)
    return found


def test_files_that_a_recipe_names_are_part_of_the_spec(tmp_path: Path) -> None:
    """A producer with another list at the same path would make other samples."""
    listed = tmp_path / "duplicates.txt"
    filters = f'data.filters=[{{name="listed", path="{listed}"}}]'
    told: list[str] = []
    for text in ("a.png\n", "b.png\n", "a.png\n"):
        listed.write_text(text)
        specs._contents.cache_clear()
        told.append(specs.digest(reader.loads(RECIPE, where="r", sets=[filters])))
    assert told[0] == told[2] != told[1]


def test_versions_of_plugins_whose_parts_decide_samples_are_part_of_the_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of any other, of trackers say, may differ between a trainer and its producers."""
    mixed = 'source={name="mixture", parts=[{source={name="rendered-text", width=32}}]}'
    recipe, plugins = reader.loads(RECIPE, where="r", sets=[mixed]), installed().plugins
    before = specs.digest(recipe)
    (own,) = (plugin for plugin in plugins.found if plugin.module == "qi_plugins.source_text")
    foreign = own._replace(module="somebody_else", distribution="qi-somebody-else", version="1.0")
    monkeypatch.setattr(plugins, "found", [*plugins.found, foreign])
    assert specs.digest(recipe) == before
    monkeypatch.setattr(Mixture, "__module__", "somebody_else.mixing")
    first = specs.digest(recipe)
    monkeypatch.setattr(plugins, "found", [*plugins.found[:-1], foreign._replace(version="1.1")])
    assert len({before, first, specs.digest(recipe)}) == 3
