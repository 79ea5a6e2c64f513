"""A module that others import and nobody uses is imported when somebody does."""

import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

SIGNAL = "scipy.signal"


class _Signal(ModuleType):
    """Stands in for scipy.signal until anything but its old name `hamming` is asked for."""

    def __init__(self) -> None:
        super().__init__(SIGNAL)
        self.__spec__ = ModuleSpec(SIGNAL, None)  # who asks whether it can be imported is told so

    def hamming(self, *arguments: Any, **options: Any) -> Any:
        return self.windows.hamming(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in ("__path__", "__all__"):  # `inspect` looks at all modules' __file__
            raise AttributeError(name)
        if sys.modules.get(SIGNAL) is self:
            del sys.modules[SIGNAL]
        signal = importlib.import_module(SIGNAL)
        vars(signal).setdefault("hamming", signal.windows.hamming)  # as torchmetrics would have done
        return getattr(signal, name)


def spare_scipy() -> None:
    """Let torchmetrics, which Lightning imports, find scipy.signal without half a second of imports: all that it does
    is to give it back a name that scipy has removed (test_upstream.py)."""
    if SIGNAL not in sys.modules and importlib.util.find_spec("scipy"):
        sys.modules[SIGNAL] = _Signal()
