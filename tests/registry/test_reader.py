from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qi_core.errors import QiError, RecipeError
from qi_registry import reader
from qi_registry.changes import apply_setting
from qi_registry.reader import loads, read
from qi_registry.recipe import Recipe
from qi_registry.registry import Registry

WHOLE = """\
autoencoder = "patches"
conditioner = "letters"
denoiser = "net"
objective = "flow"
source = "words"
"""


def mistakes(registry: Registry, text: str, *sets: str) -> list[str]:
    with pytest.raises(RecipeError) as error:
        loads(text, where="r.toml", sets=sets, registry=registry)
    return list(error.value.mistakes)


def whole(registry: Registry, text: str = "", *sets: str) -> Recipe:
    """The recipe above with more below it."""
    return loads(WHOLE + text, where="r.toml", sets=sets, registry=registry)


def settings(component: Any) -> tuple[str, int]:
    return type(component).__name__, component.steps


def test_names_alone_mean_all_defaults(registry: Registry) -> None:
    recipe = whole(registry)
    assert recipe.name == "r"
    assert recipe.path == Path("runs/r")
    assert settings(recipe.sampler) == ("Euler", 50)
    assert len(recipe.tracker) == 3
    assert recipe.evaluation == ()
    assert recipe.train.steps == 1000


def test_all_mistakes_are_told_at_once_each_with_its_line(registry: Registry) -> None:
    text = """\
# A recipe with six different mistakes.
autoencoder = "patches"
conditioner = "letters"
objective = "adamw"

[denoiser]
name = "net"
size = "tinny"

[source]
name = "words"
lengths = [
    2,
    "four",
]

[train]
stps = 10
batch = 3.9
clip = -1
"""
    assert mistakes(registry, text, "sampler=hein") == [
        "r.toml:4: objective: 'adamw' is an optimizer, not an objective (known: flow)",
        "r.toml:8: denoiser.size: found 'tinny'; wanted one of 'tiny', '20b'; did you mean 'tiny'?",
        "r.toml:12: source.lengths[1]: found 'four'; wanted a whole number",
        "r.toml:18: train.stps: unknown key; did you mean 'steps'?",
        "r.toml:19: train.batch: found 3.9; wanted a whole number",
        "r.toml:20: train.clip: 'clip' must be >= 0: -1.0",
        "--set sampler=hein: sampler: no sampler is called 'hein'; did you mean 'heun'? (known: euler, heun)",
    ]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[train]\nsteps = true", "r.toml:7: train.steps: found true; wanted a whole number"),
        ("[train]\nsteps = 3.0", "r.toml:7: train.steps: found 3.0; wanted a whole number"),
        ("[train]\nclip = '1'", "r.toml:7: train.clip: found '1'; wanted a number"),
        ("[train]\nclip = nan", "r.toml:7: train.clip: found nan; wanted a number"),
        ("[train]\nclip = inf", "r.toml:7: train.clip: found inf; wanted a number that is finite"),
        ("[guidance]\nscale = -inf", "r.toml:7: guidance.scale: found -inf; wanted a number that is finite"),
        ("[preview]\nheight = 0", "r.toml:7: preview.height: 'height' must be > 0: 0"),
        ("[preview]\nwidth = -16", "r.toml:7: preview.width: 'width' must be > 0: -16"),
        ("[train]\nclip = true", "r.toml:7: train.clip: found true; wanted a number"),
        ("[guidance]\nrescale = 1", "r.toml:7: guidance.rescale: found 1; wanted true or false"),
        ("[guidance]\nnegative = 3", "r.toml:7: guidance.negative: found 3; wanted text; put it in quotes"),
        ("[preview]\nprompts = 'x'", "r.toml:7: preview.prompts: found 'x'; wanted a list, each text; write ['x']"),
        ("[preview]\nprompts = ['x', 3]", "r.toml:7: preview.prompts[1]: found 3; wanted text; put it in quotes"),
        (
            "[sampler]\nshift = 'no'",
            "r.toml:7: sampler.shift: found 'no'; wanted one of 'none', 'qwen-image' or a number",
        ),
        ("train = 3", "r.toml:6: train: found 3; wanted a table of settings"),
        ("optimizer = 3", "r.toml:6: optimizer: found 3; wanted the name of an optimizer, or a table with its name"),
        ("tracker = 'console'", "r.toml:6: tracker: found 'console'; wanted a list; write tracker = [\"...\"]"),
        ("tracker = ['console', 'jsnl']", "r.toml:6: tracker[1]: no tracker is called 'jsnl'; did you mean 'jsonl'?"),
        (
            "[[evaluation]]\nname = 'score'\nevry = 3",
            "r.toml:8: evaluation[0].evry: unknown key; did you mean 'every'?",
        ),
        ("folder = 2024", "r.toml:6: folder: found 2024; wanted text"),
        (
            "[network]",
            "r.toml:6: network: unknown key (known: extends, name, folder, init, autoencoder, conditioner, denoiser, ",
        ),
        ("[trian]", "r.toml:6: trian: unknown key; did you mean 'train'?"),
        ("[sampler]\nname = 'hein'", "r.toml:7: sampler.name: no sampler is called 'hein'"),
        ("x = ", "r.toml:6: not readable as TOML: Invalid value"),
        ("x = '''", "r.toml:6: not readable as TOML: "),
    ],
)
def test_what_does_not_fit_is_told(registry: Registry, text: str, what: str) -> None:
    (told,) = mistakes(registry, WHOLE + text)
    assert told.startswith(what)


def test_several_ranges_of_one_section_are_told_beside_its_other_mistakes(registry: Registry) -> None:
    told = mistakes(registry, WHOLE + "[train]\nsteps = 0\nbatch = -1\nema = 1\nsed = 1")
    assert [line.split(":")[1] for line in told] == ["7", "8", "9", "10"]


def test_missing_sections_are_told_with_what_is_known(registry: Registry) -> None:
    told = mistakes(registry, "autoencoder = 'patches'\nsource = 'words'\nobjective = 'flow'")
    assert told == [
        "r.toml: conditioner: missing; wanted a conditioner (known: letters)",
        "r.toml: denoiser: missing; wanted a denoiser (known: net)",
    ]


def test_numbers_may_be_whole_where_a_float_is_wanted(registry: Registry) -> None:
    clip = whole(registry, "[train]\nclip = 1").train.clip
    assert (clip, type(clip)) == (1.0, float)
    assert whole(registry, "[sampler]\nshift = 3").sampler.shift == 3.0  # type: ignore[attr-defined]


def test_paths_and_optional_keys(registry: Registry) -> None:
    recipe = whole(registry, "", "source.text='a/b'", "denoiser.depth=3")
    assert recipe.source.text == Path("a/b")  # type: ignore[attr-defined]
    assert recipe.denoiser.depth == 3  # type: ignore[attr-defined]


def test_a_tilde_is_the_home_folder(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    recipe = whole(registry, "", "folder=~/runs/a", "init=~/runs/b", "source.text=~/c")
    assert (recipe.path, recipe.init) == (Path("/home/me/runs/a"), "/home/me/runs/b")
    assert recipe.source.text == Path("/home/me/c")  # type: ignore[attr-defined]


def test_components_stand_inside_components(registry: Registry) -> None:
    text = WHOLE.replace('source = "words"', "") + (
        "[source]\nname = 'mixture'\n"
        "[[source.parts]]\nsource = 'words'\nweight = 3\n"
        "[[source.parts]]\nsource = {name = 'words', letters = 'XY'}\n"
    )
    parts = loads(text, where="r.toml", registry=registry).source.parts  # type: ignore[attr-defined]
    assert [(part.source.letters, part.weight) for part in parts] == [("ABC", 3.0), ("XY", 1.0)]

    wrong = text.replace("letters =", "leters =").replace("weight = 3", "weight = 0").replace("'words'\n", "'wrds'\n")
    told = mistakes(registry, wrong)
    assert [line.split(";")[0] for line in told] == [
        "r.toml:9: source.parts[0].source: no source is called 'wrds'",
        "r.toml:10: source.parts[0].weight: 'weight' must be > 0: 0.0",
        "r.toml:12: source.parts[1].source.leters: unknown key",
    ]


def test_a_required_key_that_is_missing_is_told(registry: Registry) -> None:
    (told,) = mistakes(registry, WHOLE.replace("words", "mixture"))
    assert told == "r.toml:5: source.parts: missing; wanted a list, each a table (Part)"


def test_a_source_that_gives_what_the_objective_does_not_take_is_refused(registry: Registry) -> None:
    (told,) = mistakes(registry, WHOLE.replace("words", "ranked"))
    assert told.startswith("r.toml:5: source: gives int, but the objective takes Samples")


@pytest.mark.parametrize(
    ("sets", "sampler"),
    [
        (["sampler=heun"], ("Heun", 50)),
        (["sampler='euler'"], ("Euler", 50)),
        (["sampler.steps=7"], ("Euler", 7)),
        (["sampler.name=heun"], ("Heun", 50)),
        (["sampler.name=euler"], ("Euler", 3)),
        (["sampler=heun", "sampler.steps=7"], ("Heun", 7)),
        (['sampler={name="heun", steps=9}'], ("Heun", 9)),
    ],
)
def test_a_component_is_replaced_wholly_when_its_name_changes(
    registry: Registry, sets: list[str], sampler: tuple[str, int]
) -> None:
    recipe = whole(registry, "[sampler]\nname = 'euler'\nsteps = 3", *sets)
    assert settings(recipe.sampler) == sampler


def test_a_set_is_a_line_of_toml_whose_quotes_may_be_left_out(registry: Registry) -> None:
    recipe = whole(registry, "", "folder=runs/a b", "init=", 'preview.prompts=["x"]', r"guidance.negative=a\b")
    assert (recipe.folder, recipe.init) == ("runs/a b", "")
    assert recipe.preview.prompts == ("x",)
    assert recipe.guidance.negative == r"a\b"
    *told, unknown = mistakes(
        registry, WHOLE, "train.steps", "[train]", "=3", "a b=3", "train.steps=x", "extends=a.toml", "stps=1"
    )
    assert told == [
        "--set train.steps: wanted one key=value, such as train.steps=10",
        "--set [train]: wanted one key=value, such as train.steps=10",
        "--set =3: wanted one key=value, such as train.steps=10",
        "--set a b=3: not readable as a line of TOML (Expected '=' after a key in a key/value pair "
        "(at line 1, column 3)); wanted key=value",
        "--set extends=a.toml: extends: only a file can extend another",
        "--set train.steps=x: train.steps: found 'x'; wanted a whole number",
    ]
    assert unknown.startswith("--set stps=1: stps: unknown key (known: extends, name, ")


def test_a_file_extends_another_one_level(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(WHOLE + 'folder = "runs/base"\n[train]\nsteps = 7\nbatch = 3')
    (tmp_path / "mine.toml").write_text('extends = "base.toml"\nsampler = "heun"\n[train]\nsteps = 9')
    recipe = read(tmp_path / "mine.toml", ["train.batch=4"], registry)
    assert (recipe.train.steps, recipe.train.batch) == (9, 4)
    assert settings(recipe.sampler) == ("Heun", 50)
    assert (recipe.name, recipe.folder) == ("mine", ""), "another run than the one it extends"

    (tmp_path / "third.toml").write_text("[train]\nstp = 3\n[preview]\n")
    (tmp_path / "base.toml").write_text(WHOLE + "[train]\nbach = 3")
    (tmp_path / "mine.toml").write_text('extends = "base.toml"\n[train]\nstp = 9')
    with pytest.raises(RecipeError) as error:
        read(tmp_path / "mine.toml", registry=registry)
    base, mine = error.value.mistakes
    assert f"{tmp_path}/base.toml:7: train.bach" in base
    assert f"{tmp_path}/mine.toml:3: train.stp" in mine

    (tmp_path / "child.toml").write_text('extends = "mine.toml"')
    with pytest.raises(RecipeError, match=r"child.toml:1: extends: .*mine.toml extends 'base.toml' itself"):
        read(tmp_path / "child.toml", registry=registry)
    (tmp_path / "lost.toml").write_text('\nextends = "gone.toml"')
    with pytest.raises(RecipeError, match=r"lost.toml:2: extends: gone.toml: no such recipe"):
        read(tmp_path / "lost.toml", registry=registry)


def test_a_recipe_of_qi_is_found_from_anywhere(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = tmp_path / "package"
    shipped.mkdir()
    (shipped / "pretrain.toml").write_text(WHOLE)
    monkeypatch.setattr(reader, "_PACKAGED", shipped)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for name in ("recipes/pretrain.toml", "pretrain.toml", "pretrain"):
        assert read(name, registry=registry).name == "pretrain"
    with pytest.raises(QiError, match=r"pretrian: no such recipe; .*\(pretrain\); did you mean 'pretrain'\?"):
        read("pretrian", registry=registry)
    with pytest.raises(QiError, match="no such recipe"):
        read("elsewhere/pretrain.toml", registry=registry)
    with pytest.raises(QiError, match="is a folder"):
        read(str(shipped), registry=registry)
    (tmp_path / "empty" / "bad.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(QiError, match=r"bad.toml: cannot be read .*wanted a TOML file in UTF-8"):
        read("bad.toml", registry=registry)


def test_a_live_change_is_checked_as_a_set_is(registry: Registry) -> None:
    recipe = whole(registry, "[sampler]\nsteps = 3")
    changed = apply_setting(recipe, "sampler=heun", registry)
    assert settings(changed.sampler) == ("Heun", 50)
    assert changed.train == recipe.train
    with pytest.raises(RecipeError) as error:
        apply_setting(recipe, "sampler=adamw", registry)
    assert error.value.mistakes[0].startswith("sampler=adamw: sampler: 'adamw' is an optimizer, not a sampler")
