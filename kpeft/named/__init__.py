"""Several named adapters on one frozen model: switched without compiling anew, or another one for each row."""

from kpeft.named.named_adapters import NamedAdapters

__all__ = ["NamedAdapters"]
