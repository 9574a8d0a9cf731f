from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qi_core.errors import QiError
from qi_registry import cli, commands
from qi_registry.cli import main
from qi_registry.plugins import Plugins
from qi_registry.registry import Registry

RECIPE = """\
autoencoder = "patches"
conditioner = "letters"
denoiser = "net"
objective = "flow"
source = "words"
sampler = "heun"
"""


@pytest.fixture
def install(publish: Any, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts the small components, and verbs, in the place of what is installed."""

    def install(**verbs: Any) -> None:
        points = [publish("verbs", qi_commands=verbs)]
        mine = Registry(Plugins(points)) if verbs else registry
        monkeypatch.setattr("qi_registry.registry.installed", lambda: mine)
        monkeypatch.setattr("qi_registry.reader.installed", lambda: mine)
        monkeypatch.setattr("qi_registry.recipe.installed", lambda: mine)

    install()
    return install


class Hello:
    """Says hello.

    More of it.
    """

    def configure(self, parser: Any) -> None:
        parser.add_argument("who")

    def run(self, args: Any) -> int:
        if args.who == "nobody":
            raise QiError("nobody: is not there; wanted somebody")
        if args.who == "stop":
            raise KeyboardInterrupt
        print(f"hello {args.who}")
        return 7


def test_without_a_verb_the_help_is_shown(install: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {verb} " in text for verb in commands.BUILT_IN)
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == text


@pytest.mark.parametrize("verb", commands.BUILT_IN)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    assert stopped.value.code == 0
    assert f"usage: qi {verb}" in capsys.readouterr().out
    assert commands.built_in(verb).__doc__


def test_a_plugins_verb_is_listed_and_called(install: Any, capsys: pytest.CaptureFixture[str]) -> None:
    install(hello=Hello)
    main(["--help"])
    assert "from plugins:\n  hello     Says hello.\n" in capsys.readouterr().out
    assert main(["hello", "you"]) == 7
    assert capsys.readouterr().out == "hello you\n"


def test_a_mistake_is_one_line_and_exit_code_2(install: Any, capsys: pytest.CaptureFixture[str]) -> None:
    install(hello=Hello)
    assert main(["hello", "nobody"]) == 2
    assert capsys.readouterr() == ("", "nobody: is not there; wanted somebody\n")
    assert main(["helo"]) == 2
    assert "no verb is called 'helo'; did you mean 'hello'?" in capsys.readouterr().err


def test_an_interrupt_is_exit_code_130(install: Any, capsys: pytest.CaptureFixture[str]) -> None:
    install(hello=Hello)
    assert main(["hello", "stop"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_verbs_that_clash_or_are_none_are_told(publish: Any) -> None:
    plugins = Plugins(
        [
            publish("one", qi_commands={"run": Hello, "hello": Hello, "bye": Hello, "odd": 3}),
            publish("two", qi_commands={"hello": Hello}),
        ]
    )
    assert list(commands.of_plugins(plugins)) == ["bye"]
    with pytest.raises(QiError, match=r"two verbs are called 'hello': one of .*one.* and one of .*two"):
        commands.find("hello", plugins)
    with pytest.raises(QiError, match=r"verb 'odd' of .* is no command"):
        commands.find("odd", plugins)
    assert any("verb 'run' of" in problem for problem in commands.problems(plugins))


def test_check_prints_what_a_recipe_comes_to(install: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(RECIPE)
    assert main(["check", str(path), "--set", "sampler.steps=9", "--set", "evaluation=['score']"]) == 0
    told = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines()[1:])
    assert told["sampler"] == "heun [steps = 9]"
    assert told["folder"] == "runs/mine"
    assert told["tracker"] == "console, jsonl, tensorboard"
    assert told["evaluation"] == "score"
    assert told["train"] == "defaults"
    assert main(["check", str(path), "--resolved"]) == 0
    assert '[sampler]\nname = "heun"\nsteps = 50\n' in capsys.readouterr().out


def test_check_tells_every_mistake(install: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(RECIPE + "[train]\nstps = 3\n")
    assert main(["check", str(path), "--set", "source=wrds"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    first, second = err.splitlines()
    assert first.endswith("mine.toml:8: train.stps: unknown key; did you mean 'steps'?")
    assert second.startswith("--set source=wrds: source: no source is called 'wrds'; did you mean 'words'?")


def test_list_and_describe_and_plugins(install: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "sampler"]) == 0
    text = capsys.readouterr().out
    assert "heun" in text
    assert "Two velocities a step." in text
    assert "adamw" not in text
    assert main(["describe", "sampler", "heun"]) == 0
    assert "each calls the denoiser once." in capsys.readouterr().out
    assert main(["describe", "train"]) == 0
    assert "Updates of the weights, in all." in capsys.readouterr().out
    assert main(["describe", "smpler"]) == 2
    assert "did you mean 'sampler'?" in capsys.readouterr().err
    assert main(["describe", "train", "foo"]) == 2
    assert capsys.readouterr().err == "train foo: train is a section without names; leave out foo\n"
    assert main(["plugins"]) == 0
    assert "sampler euler, sampler heun" in capsys.readouterr().out


def test_a_schema_of_a_distribution_without_plugins_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "--only", "nosuch"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.partition(" (known: ")[0]) == ("", "nosuch: no installed distribution of that name has plugins")


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["describe", "denoiser"], ["plugins"], ["schema"]])
def test_questions_do_not_import_torch(arguments: list[str]) -> None:
    code = f"import sys; from qi_registry.cli import main; main({arguments}); sys.exit('torch' in sys.modules)"
    done = run(code)
    assert (done.returncode, done.stderr) == (0, "")


def test_check_does_not_import_torch() -> None:
    """Neither for a recipe of qi's that holds, nor to find any other component."""
    code = (
        "import sys; from qi_registry.cli import main; from qi_registry.registry import installed\n"
        "from qi_registry.kinds import KINDS\n"
        "held = main(['check', 'recipes/pretrain.toml']) == 0\n"
        "for kind in KINDS.values():\n"
        "    for name in installed().names(kind): installed().find(kind, name)\n"
        "sys.exit(0 if held and 'torch' not in sys.modules else 1)"
    )
    done = run(code)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_does_not_import_what_it_does_not_need() -> None:
    code = (
        "import sys; from qi_registry.cli import main; main(['--help']);"
        "sys.exit(', '.join({'torch', 'attrs', 'cattrs', 'rich', 'numpy', 'PIL'} & set(sys.modules)) or 0)"
    )
    done = run(code)
    assert done.stderr == ""
    assert done.returncode == 0


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m qi_registry.cli schema | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("{", "")


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("qi ")
