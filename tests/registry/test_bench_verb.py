"""qi bench: what there is, and the trade-off of checkpointing as a table."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from qi_registry.cli import main

TINY = ("--size", "tiny", "--layers", "2", "--pixels", "128", "--images", "2", "--device", "cpu", "--rounds", "1")


def test_without_a_name_it_lists_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench"]) == 0
    told = capsys.readouterr().out
    assert "checkpointing" in told
    assert "Memory and time of a training step" in told


def test_listing_does_not_import_torch() -> None:
    code = "import sys; from qi_registry.cli import main; main(['bench']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_the_trade_off_of_checkpointing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "checkpointing", *TINY]) == 0
    told = capsys.readouterr().out
    rows = {}
    for line in told.splitlines():
        if found := re.match(
            r"\s*(none|selective|every 2nd block|all)\s+(\d+) MiB\s+(\d+)%\s+(\d+) MiB\s+(\d+)%", line
        ):
            rows[found[1]] = [int(figure) for figure in found.groups()[1:]]
    assert list(rows) == ["none", "selective", "every 2nd block", "all"]
    kept = [parts[1] for parts in rows.values()]
    assert kept[0] == 100 > kept[1] > kept[3]
    assert kept[2] > kept[3]
    assert all(peak > left for left, _, peak, _ in rows.values()), "weights and optimizer count in the peak"
    assert "11.3 % less memory" in told
    assert "float32" in told


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--size", "huge"), "denoiser.size: found 'huge'"),
        (("--pixels", "40"), "--pixels 40: wanted a multiple of 16"),
        (("--images", "0"), "--images 0: wanted 1 at least"),
        (("--device", "tpu"), "parallel.device"),
    ],
)
def test_mistakes_are_told_in_one_line(words: tuple[str, ...], what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "checkpointing", *words]) == 2
    assert what in capsys.readouterr().err
