"""Put a method on a model."""

from __future__ import annotations

import logging
import zlib
from typing import Any

import keras

from kpeft.adaptation import Adaptation
from kpeft.layers.adapter_layer import AdapterLayer
from kpeft.live import check_free, flags_before, hold, hold_lengthened
from kpeft.methods.method import Lengthening, Method
from kpeft.quantized_model import QuantizedLayers
from kpeft.sites import (
    Layout,
    TrainableFlags,
    build_in_place,
    clear_compilation,
    replace_layer,
    set_trainable,
    variable_paths,
)

logger = logging.getLogger("kpeft")


def adapt(model: Any, method: Method, *, seed: int = 0) -> Adaptation:
    """Puts a method on a model, in place: wraps the layers it names and freezes all that it does not train.

    A method with virtual tokens in the sequence makes a new model instead. That shares the encoder's weights, which
    stay frozen until `detach`, with `model`, whose outputs stay what they are, also while the new model is trained.
    Several such models of one model may be in use at the same time.

    Args:
        model: A KerasHub text classifier or any built `keras.Model`. If it is compiled, its compilation is cleared.
        method: What to do, such as `kpeft.LoRA(rank=8)`.
        seed: Decides where new weights start and what the adapters' dropout drops.

    Returns:
        The adaptation; `adaptation.model` is `model`, or the new model.

    Raises:
        ValueError: If the model is not built, the method does not fit it, or layers of it are under a method already
            (detach that first; a union puts several methods on at once). The model is then as it was.
    """
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(f"adapt needs a built keras.Model: call it once on data, or build it. Received: {model!r}")
    check_free(model, lengthening=isinstance(method, Lengthening))
    layout = Layout.of(model)
    if isinstance(method, Lengthening):
        return _adapt_anew(layout, method, seed)
    plan = method.plan(layout)
    flags = TrainableFlags.of(model)
    adapters: dict[str, AdapterLayer] = {}
    try:
        quantized = QuantizedLayers.make(layout, plan.quantizes)
        for path, wrap in plan.wraps.items():
            base = quantized.at(path, layout.layers[path])
            adapter = wrap(base, zlib.crc32(f"{seed}/{path}".encode()))
            build_in_place(adapter, base)
            adapters[path] = adapter
    except BaseException:  # KeyboardInterrupt, too
        for adapter in adapters.values():
            adapter.disable()  # which undoes what it did to its base
        flags.restore()
        raise
    if model.compiled:
        logger.warning("model %r was compiled; adapt cleared its optimizer and loss: compile it again.", model.name)
    clear_compilation(model)
    quantized.place(model)
    variables = variable_paths(model)
    trained = {id(variables[path]) for path in plan.trained}
    for adapter in adapters.values():
        replace_layer(model, adapter.base, adapter)
        trained |= {id(variable) for variable in adapter.own_trainable_variables}
    set_trainable(model, trained)
    hold(model, method.name)
    return Adaptation(model, method, adapters, flags, plan.trained, quantized)


def _adapt_anew(layout: Layout, method: Lengthening, seed: int) -> Adaptation:
    original = layout.model
    flags = TrainableFlags.of(original)
    try:
        model, adapters = method.lengthen(layout, seed)
    except BaseException:
        flags.restore()
        raise
    flags = flags_before(original) or flags
    new = Layout.of(model)
    paths = method.trained_with_head(new)
    trained = {id(new.variables[path]) for path in paths}
    for adapter in adapters.values():
        trained |= {id(variable) for variable in adapter.own_trainable_variables}
    set_trainable(model, trained)
    hold_lengthened(model, method.name, original, flags)
    return Adaptation(model, method, adapters, flags, paths, QuantizedLayers({}), original=original)
