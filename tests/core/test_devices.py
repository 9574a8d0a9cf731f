from __future__ import annotations

import pytest
import torch

from qi_core import QiError, devices


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """One CUDA device, and no launcher."""
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    return monkeypatch


def test_slurm_may_show_each_process_one_gpu_of_its_own(gpus: pytest.MonkeyPatch) -> None:
    gpus.setenv("SLURM_LOCALID", "3")
    assert devices.device("cuda", 3) == torch.device("cuda", 0)


def test_two_processes_that_another_launcher_started_do_not_share_one(gpus: pytest.MonkeyPatch) -> None:
    gpus.setenv("SLURM_LOCALID", "0")  # of the task that started the launcher
    gpus.setenv("LOCAL_RANK", "3")
    with pytest.raises(QiError, match=r"by process 3 of this machine, but torch sees 1 CUDA device"):
        devices.device("cuda", 3)
