"""The support vector machine that makes a score of BRISQUE's features. No torch here."""

from __future__ import annotations

import pickletools
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from qi_core import QiError

Floats: TypeAlias = NDArray[np.float64]
FEATURES = 36


@frozen(kw_only=True, eq=False)
class Machine:
    """An epsilon-SVR with a Gaussian kernel."""

    vectors: Floats
    """(V, 36): support vectors."""
    weights: Floats
    """(V,)."""
    rho: float
    gamma: float
    low: Floats
    high: Floats
    """(36,): the range of each feature that becomes [-1, 1]."""

    def score(self, features: Floats) -> float:
        """sum_v w_v exp(-gamma |x - v|^2) - rho (Chang and Lin, LIBSVM, 2011), 0 good to 100 bad or thereabouts."""
        x = -1.0 + 2.0 * (features - self.low) / (self.high - self.low)
        return float(self.weights @ np.exp(-self.gamma * ((self.vectors - x) ** 2).sum(axis=1))) - self.rho


def load(folder: Path | None) -> Machine:
    """Raises QiError unless the folder, or the installed package, holds the machine."""
    where = folder.expanduser() if folder is not None else installed()
    try:
        head, weights, vectors = parsed((where / "svm.txt").read_text(encoding="ascii"))
        ranges = literals((where / "normalize.pickle").read_bytes())
        if head["svm_type"] != "epsilon_svr" or head["kernel_type"] != "rbf":
            raise ValueError(f"{head['svm_type']} with kernel {head['kernel_type']}")
        return Machine(
            vectors=vectors,
            weights=weights,
            rho=float(head["rho"]),
            gamma=float(head["gamma"]),
            low=np.array(ranges["min_"]).reshape(FEATURES),
            high=np.array(ranges["max_"]).reshape(FEATURES),
        )
    except (OSError, ValueError, LookupError) as error:
        raise QiError(
            f"reward brisque: {where}: {type(error).__name__}: {error}; wanted svm.txt with an epsilon_svr of kernel "
            "rbf, and normalize.pickle with 36 numbers each of min_ and max_; pip install --no-deps brisque"
        ) from error


def installed() -> Path:
    """Where the package brisque keeps its model. It is not imported: it would want OpenCV and more for nothing."""
    spec = find_spec("brisque")
    if spec is None or spec.origin is None:
        raise QiError(
            "reward brisque: the package brisque is not installed; wanted for the numbers in it; "
            "pip install --no-deps brisque, or set model to a folder with them"
        )
    return Path(spec.origin).parent / "models"


def parsed(text: str) -> tuple[dict[str, str], Floats, Floats]:
    """LIBSVM's model file: its head, the weights (V,) and the support vectors (V, 36). Raises ValueError."""
    above, found, below = text.partition("\nSV\n")
    if not found:
        raise ValueError("no line SV")
    head = dict(line.split(maxsplit=1) for line in above.splitlines() if line.strip())
    rows = [line.split() for line in below.splitlines() if line.strip()]
    weights, vectors = np.array([float(row[0]) for row in rows]), np.zeros((len(rows), FEATURES))
    for number, row in enumerate(rows):
        for entry in row[1:]:  # what is zero is left out
            at, value = entry.split(":")
            if not 1 <= int(at) <= FEATURES:
                raise ValueError(f"feature {at}")
            vectors[number, int(at) - 1] = float(value)
    return head, weights, vectors


def literals(data: bytes) -> dict[str, list[float]]:
    """The numbers after each name in a pickle that is a dictionary of lists of numbers.

    Nothing is unpickled: its instructions are told apart and read as text, and one that would do more than put names
    and numbers down is refused. Raises ValueError.
    """
    found: dict[str, list[float]] = {}
    last: list[float] | None = None
    for code, value, _ in pickletools.genops(data):
        if code.name in ("SHORT_BINUNICODE", "BINUNICODE"):
            last = found.setdefault(str(value), [])
        elif code.name in ("BINFLOAT", "BININT", "BININT1", "BININT2") and last is not None:
            last.append(float(str(value)))
        elif code.name not in HARMLESS:
            raise ValueError(f"a pickle with {code.name}")
    return found


HARMLESS = frozenset(
    {
        *("PROTO", "FRAME", "STOP", "MEMOIZE", "BINPUT", "MARK"),
        *("EMPTY_DICT", "EMPTY_LIST", "APPEND", "APPENDS", "SETITEM", "SETITEMS"),
    }
)
"""Instructions that make dictionaries and lists."""
