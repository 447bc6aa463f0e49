"""The version of kpeft, in one place."""

__version__ = "0.1.0"
