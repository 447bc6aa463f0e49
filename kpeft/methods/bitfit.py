"""BitFit: only the biases are trained (Ben Zaken et al., 2022, https://arxiv.org/abs/2106.10199)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from kpeft.methods.method import Method, is_bias

if TYPE_CHECKING:
    from kpeft.sites import Layout


@dataclass(frozen=True, kw_only=True)
class BitFit(Method):
    """Trains every bias, LayerNorm offsets included, or those of some terms.

    In BERT-base the biases are 102,914 of 109,483,778 parameters with two labels, 104,450 with the head's kernel.

    Attributes:
        terms: Whose biases to train: names of the model's family (query key value attention_output intermediate output
            attention_layernorm output_layernorm embeddings_layernorm pooler head) or regular expressions over layer
            paths. `None` is all of them. `("value",)` trains the biases of the values alone, 9,216 in BERT-base.
    """

    name: ClassVar[str] = "bitfit"
    summary: ClassVar[str] = "every bias, or those of some terms"

    terms: tuple[str, ...] | None = field(
        default=None, metadata={"help": "whose biases, e.g. query,intermediate; all by default"}
    )

    def trained(self, layout: Layout) -> set[str]:
        from kpeft.targets import resolve

        biases = {path for path in layout.variables if is_bias(path)}
        if self.terms is None:
            return biases
        layers = set(resolve(layout, self.terms, option="terms"))
        return {path for path in biases if path.rpartition("/")[0] in layers}
