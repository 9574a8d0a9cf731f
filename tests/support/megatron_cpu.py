"""megatron-core on the CPU, for tests: importing this module imports megatron-core 0.16.1 with its sources changed.

megatron-core names CUDA in plain letters where it makes tensors, and by type where it sorts parameters. Here these
words are replaced as its modules are read, so that its own layers, buffers and optimizer run between processes on the
CPU. Nothing of torch is replaced. A word that is not found as often as it is known to be there is an error.
"""

from __future__ import annotations

import importlib.abc
import importlib.metadata
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

VERSION = "0.16.1"
CURRENT = ("torch.cuda.current_device()", '"cpu"')
MADE = ("device='cuda'", "device='cpu'")
TYPES = (
    ("'torch.cuda.FloatTensor'", "'torch.FloatTensor'"),
    ("['torch.cuda.HalfTensor', 'torch.cuda.BFloat16Tensor']", "['torch.HalfTensor', 'torch.BFloat16Tensor']"),
)
WORDS = {
    "megatron.core.tensor_parallel.mappings": (CURRENT,),
    "megatron.core.tensor_parallel.layers": (CURRENT, ('device_type="cuda"', 'device_type="cpu"')),
    "megatron.core.distributed.param_and_grad_buffer": (CURRENT,),
    "megatron.core.optimizer.distrib_optimizer": (CURRENT, *TYPES),
    "megatron.core.optimizer.optimizer": (MADE,),
}


class _Loader(SourceFileLoader):
    """Reads a source and replaces its words."""

    def get_data(self, path: str) -> bytes:
        data = super().get_data(path)
        if not path.endswith(".py"):
            return data
        text = data.decode()
        for word, other in WORDS[self.name]:
            if word not in text:
                raise ImportError(f"{self.name}: {word} is not in it any more; see to tests/support/megatron_cpu.py")
            text = text.replace(word, other)
        return text.encode()

    def path_stats(self, path: str) -> dict[str, int]:
        """None: so that compiled code of the unchanged sources is not taken, nor this kept for others."""
        raise OSError


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in WORDS:
            return None
        spec = PathFinder.find_spec(name, path)
        assert spec is not None
        assert spec.origin is not None
        return importlib.util.spec_from_file_location(name, spec.origin, loader=_Loader(name, spec.origin))


def _install() -> None:
    found = importlib.metadata.version("megatron-core")
    assert found == VERSION, f"megatron-core {found}: this is known to work for {VERSION} alone"
    assert not any(name in sys.modules for name in WORDS), "megatron-core was imported before"
    sys.meta_path.insert(0, _Finder())
    from qi_plugins.parallel_megatron import library

    library.DEVICES = ("cuda", "cpu")
    library.load()
    import qi_plugins.parallel_megatron.held
    import qi_plugins.parallel_megatron.strategy  # noqa: F401


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    _install()
