"""R(2+1)D action recognition: `build` a network, `load` a trained one.

    import r2plus1d
    network = r2plus1d.load("custom")  # a trained row, a name of published weights, a file or an address

Importing the package loads nothing and changes nothing in the process; torch comes with the first call.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

_HOMES = {"build": "r2plus1d.model.network", "load": "r2plus1d.zoo.weights"}

__all__ = ["__version__", "build", "load"]

try:
    __version__ = version("r2plus1d")
except PackageNotFoundError:  # used from a folder, not installed
    __version__ = "unknown"


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
