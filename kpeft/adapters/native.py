"""kpeft's own adapter format: every trained variable under its structural path, the method's fields in the config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras import ops

from kpeft._version import __version__
from kpeft.adaptation import Adaptation
from kpeft.adapter_files import NATIVE
from kpeft.adapters.folder import Tensors
from kpeft.methods import Method
from kpeft.methods.fields import method_from_json, method_to_json


def native_config(adaptation: Adaptation) -> dict[str, Any]:
    """Returns adapter_config.json of an adaptation."""
    method = adaptation.method
    return {"peft_type": NATIVE + method.name.upper(), "kpeft_version": __version__, "method": method_to_json(method)}


def native_tensors(adaptation: Adaptation) -> Tensors:
    """Returns every trained variable by structural path."""
    return {path: ops.convert_to_numpy(v.value) for path, v in adaptation.trained_variables().items()}


def native_method(config: Mapping[str, Any]) -> Method:
    """Returns the method that a config describes.

    Raises:
        ValueError: If the config does not describe one.
    """
    if not isinstance(config.get("method"), dict):
        raise ValueError(f"{config['peft_type']} adapter without a description of its method.")
    try:
        return method_from_json(config["method"])
    except (TypeError, RecursionError) as error:
        raise ValueError(f"{config['peft_type']} adapter with a field of the wrong type: {error}") from error
