"""How much memory the frozen model takes under QLoRA, against float32: exact numbers, whatever the machine.

    python -m experiments.benchmarks.quantized_memory

BERT-base and MiniLM with random weights are quantised; the bytes of all their variables are counted, scales, biases and
LayerNorms included, adapters and head left out. Writes quantized_memory.json and quantized_memory.md.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kpeft import runtime
from kpeft.files import replacing, write_json

runtime.prepare()

import keras_hub  # noqa: E402
import numpy as np  # noqa: E402

import kpeft  # noqa: E402
from kpeft.backbones.classifier import classifier_from_backbone  # noqa: E402
from kpeft.sites import Layout, variable_paths  # noqa: E402
from kpeft.targets import is_linear  # noqa: E402

SIZES: dict[str, dict[str, int]] = {
    "BERT-base": {"num_layers": 12, "num_heads": 12, "hidden_dim": 768, "intermediate_dim": 3072},
    "MiniLM": {"num_layers": 6, "num_heads": 12, "hidden_dim": 384, "intermediate_dim": 1536},
}
METHODS = {
    "int8": kpeft.QLoRA(quantization="int8"),
    "int4": kpeft.QLoRA(quantization="int4"),
    "nf4": kpeft.QLoRA(quantization="nf4"),
    "nf4, float32 scales": kpeft.QLoRA(quantization="nf4", double_quantization=False),
}
TARGETS = {
    "BERT-base": {"int8": 0.30, "int4": 0.18, "nf4": 0.18},
    "MiniLM": {"int8": 0.30, "int4": 0.21, "nf4": 0.21},
}
"""Shares of float32 that were to be reached, set before they were measured."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks.quantized_memory", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("experiments/results/quantized_memory"))
    output = parser.parse_args().output
    result = {name: measure(name) for name in SIZES}
    write_json(output / "quantized_memory.json", result)
    with replacing(output / "quantized_memory.md") as temporary:
        temporary.write_text(table(result), encoding="utf-8")
    sys.stdout.write(table(result))


def measure(name: str) -> dict[str, Any]:
    """Returns the bytes of one encoder's variables, in float32 and under each method."""
    backbone = keras_hub.models.BertBackbone(vocabulary_size=30_522, **SIZES[name])
    model = classifier_from_backbone(backbone, 2)
    layout = Layout.of(model)
    linear = {path for path, layer in layout.layers.items() if is_linear(layer)}
    found = {"float32": count(model, layout.backbone, linear)}
    for method_name, method in METHODS.items():
        adaptation = kpeft.adapt(model, method)
        found[method_name] = count(model, layout.backbone, linear)
        adaptation.detach()
    return found


def count(model: Any, backbone: str, linear: set[str]) -> dict[str, int]:
    """Returns the bytes of the frozen backbone, and of its linear layers and its embeddings alone."""
    sizes = {
        path: math.prod(variable.shape) * np.dtype(variable.dtype).itemsize
        for path, variable in variable_paths(model).items()
        if path.startswith(f"{backbone}/") and not path.endswith(("/lora_a", "/lora_b"))
    }
    return {
        "all": sum(sizes.values()),
        "linear": _sum(sizes, linear),
        "embeddings": sum(size for path, size in sizes.items() if "/embeddings" in path),
    }


def _sum(sizes: dict[str, int], layers: Iterable[str]) -> int:
    return sum(size for path, size in sizes.items() if path.rpartition("/")[0] in layers)


def table(result: dict[str, Any]) -> str:
    """Markdown: megabytes, and shares of float32."""
    lines = [
        "| encoder | weights | MB | of float32 | target | linear layers alone | embeddings alone |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for name, found in result.items():
        whole = found["float32"]
        for method, sizes in found.items():
            share = {part: sizes[part] / whole[part] for part in whole}
            target = TARGETS[name].get(method)
            lines.append(
                f"| {name} | {method} | {sizes['all'] / 1e6:.1f} | {share['all']:.3f} | "
                f"{'' if target is None else f'{target:.2f}'} | {share['linear']:.3f} | {share['embeddings']:.3f} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
