"""The contract of every component, whatever its kind."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import attrs

from qi_core.fielddocs import field_docs
from qi_core.place import is_frozen
from qi_core.testing.contract import Contract

_IMPORT = """
import importlib, sys
sys.path[:] = sys.argv[3:]
component = getattr(importlib.import_module(sys.argv[1]), sys.argv[2])
import attrs
if all(field.default is not attrs.NOTHING for field in attrs.fields(component) if field.init):
    component()
sys.exit(77 if "torch" in sys.modules else 0)
"""
_TORCH = 77
"""Its exit code where torch was imported."""


def check_component(component: type[Any]) -> None:
    """``qi_core.place.Component``: a frozen attrs class with documented fields, read without torch.

    A process of its own imports the module and, where every field has a default, makes one.
    """
    told = Contract(component.__name__, "qi_core.place.Component")
    told.holds(attrs.has(component), "it is no attrs class; decorate it with attrs.frozen(kw_only=True)")
    told.holds(is_frozen(component), "it can be changed; decorate it with attrs.frozen(kw_only=True)")
    told.holds(bool((component.__doc__ or "").strip()), "it has no docstring; its first line stands in 'qi list'")
    try:
        fields = [field for field in attrs.fields(attrs.resolve_types(component)) if field.init]
    except NameError as error:
        raise AssertionError(
            f"{component.__name__} breaks qi_core.place.Component: a field's type cannot be found ({error}); import it "
            "for real, not under TYPE_CHECKING"
        ) from error
    docs = field_docs(component)
    for field in fields:
        told.holds(field.name != "name", "a field is called 'name', the recipe's key that picks the component")
        told.holds(field.kw_only, f"the field {field.name} is positional; use attrs.frozen(kw_only=True)")
        told.holds(
            bool(docs.get(field.name)), f"the field {field.name} has no string literal under it that documents it"
        )
    _imports_no_torch(told, component)


def _imports_no_torch(told: Contract, component: type[Any]) -> None:
    command = [sys.executable, "-c", _IMPORT, component.__module__, component.__qualname__, *sys.path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    last = (done.stderr.strip().splitlines() or [""])[-1]
    told.holds(
        done.returncode in (0, _TORCH), f"a new process cannot import {component.__module__} and make one: {last}"
    )
    told.holds(
        done.returncode != _TORCH,
        f"importing {component.__module__} imports torch; import it inside methods, so that 'qi list' and 'qi check' "
        "answer at once",
    )
