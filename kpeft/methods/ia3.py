"""(IA)³: trained scales of keys, values and feed-forward (Liu et al., 2022, https://arxiv.org/abs/2205.05638)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from kpeft.methods.method import Method, Wrap

if TYPE_CHECKING:
    from kpeft.layers.adapter_layer import AdapterLayer
    from kpeft.sites import Layout


@dataclass(frozen=True, kw_only=True)
class IA3(Method):
    """Scales the outputs of some linear layers and the inputs of others, each feature by a factor that starts at one.

    The defaults are Hugging Face PEFT's for BERT: 64,512 factors in BERT-base. The paper's own leave attention_output
    out: `targets=("key", "value", "output"), feedforward=("output",)`.

    Attributes:
        targets: Which linear layers, see `LoRA`.
        feedforward: Whose inputs are scaled in place of their outputs, where they are targets; empty for none.
    """

    name: ClassVar[str] = "ia3"
    summary: ClassVar[str] = "scales of keys, values and feed-forward"

    targets: str | tuple[str, ...] = field(
        default=("key", "value", "attention_output", "output"),
        metadata={"help": "layers: names, all-linear, or a regular expression"},
    )
    feedforward: str | tuple[str, ...] = field(
        default=("attention_output", "output"), metadata={"help": "which of the targets have their inputs scaled"}
    )

    def wraps(self, layout: Layout) -> Mapping[str, Wrap]:
        from kpeft.targets import resolve, resolve_linear

        sites = resolve_linear(layout, self.targets)
        feedforward = resolve(layout, self.feedforward, option="feedforward") if self.feedforward else []
        return {path: _wrap(path in feedforward) for path in sites}

    def trained(self, layout: Layout) -> set[str]:
        return set()


def _wrap(scale_inputs: bool) -> Wrap:
    def wrap(layer: Any, seed: int) -> AdapterLayer:
        from kpeft.layers.ia3 import IA3Linear

        return IA3Linear(layer, scale_inputs=scale_inputs, name=layer.name)

    return wrap
