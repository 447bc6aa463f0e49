"""AdaLoRA: low-rank changes whose ranks follow what matters (Zhang et al., 2023, https://arxiv.org/abs/2303.10512)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, final

from kpeft.methods.method import Method, RankBudget, Wrap

if TYPE_CHECKING:
    from kpeft.layers.adapter_layer import AdapterLayer
    from kpeft.sites import Layout


@final
@dataclass(frozen=True, kw_only=True)
class AdaLoRA(Method):
    """Starts each target with a change s·A·diag(e)·B of one rank, and drops what matters least of all of them together.

    A run has three phases: all ranks as they start; fewer and fewer e that are not zero, until they are `target_rank`
    on average; the rest of the run with what is left. An evaluation before the third phase is of a larger adapter. The
    options are Hugging Face PEFT's, under its names but for `rank` (`init_r`) and `target_rank` (`target_r`).

    Attributes:
        rank: Rank r at the start.
        target_rank: Rank on average at the end.
        alpha: Scale of the change: s = alpha / r, also when ranks have become smaller.
        dropout: Share of each adapter's input that is dropped in training.
        targets: Which linear layers, see `LoRA`.
        tinit: Length of the first phase: below 1 a share of all steps (rounded down), else a number of steps. The
            defaults of both phases are near those of the authors' scripts for GLUE.
        tfinal: Length of the third phase, likewise.
        delta_t: In the second phase, ranks change every so many steps.
        beta1: How long the importance of a weight, |w·gradient|, is remembered.
        beta2: How long its uncertainty is, which is how far it strays from what is remembered.
        orth_reg_weight: What is added to the loss that training follows is so many times the mean of ||PᵀP - I|| over
            all A and B, which keeps their directions apart. The loss that is reported is the task's.
    """

    name: ClassVar[str] = "adalora"
    summary: ClassVar[str] = "low-rank changes whose ranks follow what matters"

    rank: int = field(default=12, metadata={"help": "rank of the change at the start"})
    target_rank: int = field(default=8, metadata={"help": "rank at the end, on average"})
    alpha: float = field(default=16.0, metadata={"help": "scale: the change is multiplied by alpha / rank"})
    dropout: float = field(default=0.0, metadata={"help": "dropout on the adapters' input"})
    targets: str | tuple[str, ...] = field(
        default=("query", "value"), metadata={"help": "layers: names, all-linear, or a regular expression"}
    )
    tinit: float = field(default=0.1, metadata={"help": "steps before ranks shrink (below 1 a share of the run)"})
    tfinal: float = field(default=0.5, metadata={"help": "steps after ranks have shrunk (below 1 a share of the run)"})
    delta_t: int = field(default=1, metadata={"help": "steps from one change of ranks to the next"})
    beta1: float = field(default=0.85, metadata={"help": "decay of the weights' importance"})
    beta2: float = field(default=0.85, metadata={"help": "decay of its uncertainty"})
    orth_reg_weight: float = field(default=0.5, metadata={"help": "weight of what keeps A and B orthogonal"})

    def __post_init__(self) -> None:
        if not 1 <= self.target_rank <= self.rank:
            raise ValueError(
                f"target_rank must be at least 1 and at most rank={self.rank}. Received: target_rank={self.target_rank}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1. Received: dropout={self.dropout}")
        shares = self.tinit < 1 and self.tfinal < 1
        if min(self.tinit, self.tfinal) < 0 or (shares and self.tinit + self.tfinal >= 1):
            raise ValueError(
                "tinit and tfinal must be at least 0 and, as shares, less than the whole run together. "
                f"Received: tinit={self.tinit}, tfinal={self.tfinal}"
            )
        if self.delta_t < 1:
            raise ValueError(f"delta_t must be at least 1. Received: delta_t={self.delta_t}")
        for name, beta in (("beta1", self.beta1), ("beta2", self.beta2)):
            if not 0 < beta < 1:
                raise ValueError(f"{name} must be above 0 and below 1. Received: {name}={beta}")
        if self.orth_reg_weight < 0:
            raise ValueError(f"orth_reg_weight must be at least 0. Received: orth_reg_weight={self.orth_reg_weight}")

    def wraps(self, layout: Layout) -> Mapping[str, Wrap]:
        import keras

        from kpeft.layers.adalora import AdaLoRADense, AdaLoRAEinsumDense
        from kpeft.targets import resolve_linear

        def wrap(layer: Any, seed: int) -> AdapterLayer:
            kind = AdaLoRADense if isinstance(layer, keras.layers.Dense) else AdaLoRAEinsumDense
            return kind(layer, rank=self.rank, alpha=self.alpha, dropout=self.dropout, seed=seed, name=layer.name)

        return dict.fromkeys(resolve_linear(layout, self.targets), wrap)

    def trained(self, layout: Layout) -> set[str]:
        return set()

    def budget(self, layout: Layout) -> RankBudget:
        sites = [path.rpartition("/")[0] for path in layout.variables if path.endswith("/lora_e")]
        return RankBudget(
            triplets=tuple((f"{site}/lora_a", f"{site}/lora_e", f"{site}/lora_b") for site in sites),
            target_rank=self.target_rank,
            tinit=self.tinit,
            tfinal=self.tfinal,
            delta_t=self.delta_t,
            beta1=self.beta1,
            beta2=self.beta2,
            orth_reg_weight=self.orth_reg_weight,
        )
