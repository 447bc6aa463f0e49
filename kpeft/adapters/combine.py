"""Several LoRA adapters of one backbone combined into a new one, as Hugging Face PEFT's add_weighted_adapter does it.

Works on arrays alone: no model is loaded.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kpeft.adapter_files import WEIGHTS, AdapterFiles, find_adapter
from kpeft.adapters.arithmetic import MAJORITIES, RULES, Array, Draw, factorized, weighted_sum
from kpeft.adapters.factors import Factors, Files, read_factors
from kpeft.adapters.folder import write_folder
from kpeft.adapters.peft_names import BASE

_SVD = {"svd": RULES["linear"], **{f"{name}_svd": rule for name, rule in RULES.items() if name != "linear"}}
COMBINATION_TYPES = (*RULES, "cat", *_SVD)


def combine_adapters(
    adapters: Sequence[str | Path | Files],
    weights: Sequence[float],
    folder: str | Path,
    *,
    combination_type: str = "svd",
    density: float | None = None,
    majority_sign_method: str = "total",
    svd_rank: int | None = None,
    svd_clamp: float | None = None,
    head: int | None = 0,
    seed: int = 0,
) -> None:
    """Combines LoRA adapters of one backbone and writes the new one, which `load_adapter` and PEFT load.

    With wᵢ the weights and sᵢ·Bᵢ·Aᵢ the change that adapter i makes, and p(t₁ … tₙ) the weighted, perhaps pruned, sum
    of `kpeft.adapters.arithmetic`:

    - `"cat"`: A = [wᵢ·sᵢ·Aᵢ], B = [Bᵢ], so that B·A = Σ wᵢ·sᵢ·Bᵢ·Aᵢ exactly; the rank is the sum of all ranks.
    - `"linear"`, `"ties"`, `"dare_linear"`, `"dare_ties"`, `"magnitude_prune"`: A = p(Aᵢ) with the weights
      ±sqrt(|wᵢ·sᵢ|), B = p(Bᵢ) with sqrt(|wᵢ·sᵢ|). Cheap, and no sum of the changes. Ranks must agree.
    - `"svd"` and the same names with `_svd`: B·A is the best approximation of p(sᵢ·Bᵢ·Aᵢ) of rank `svd_rank`.

    A module that some adapters do not adapt is summed over those that do. One adapter alone is combined as
    `"linear"`. The result has alpha = rank, and so a scale of 1, without rsLoRA. (PEFT keeps the first adapter's
    use_rslora, and then scales the result by sqrt(rank).) Where ranks differ from module to module, it is padded with
    zeros to one rank. PEFT refuses adapters with a head each; here one of the heads is taken.

    Args:
        adapters: Plain LoRA adapters in PEFT's format: where they are, as `load_adapter` takes it, or pairs of what
            their two files hold.
        weights: wᵢ, of any sign.
        folder: Where to write.
        combination_type: See above.
        density: Share of entries that TIES, DARE and magnitude pruning keep, above 0 and at most 1.
        majority_sign_method: How TIES elects a sign: `"total"`, of the sum, or `"frequency"`, of the number of signs.
        svd_rank: Rank of the result; the largest of the adapters' by default.
        svd_clamp: Cut the entries of A and B off at this quantile of all of them.
        head: Number of the adapter whose head, if it has one, the result gets; `None` for no head.
        seed: Decides what DARE drops, for each module and adapter by itself.

    Raises:
        ValueError: If the adapters do not fit together, or an option does not fit the combination type.
    """
    recipe = _Recipe(combination_type, density, majority_sign_method, svd_rank, svd_clamp, seed)
    recipe.check()
    _check_arguments(adapters, weights, head)
    found = [find_adapter(each) if isinstance(each, str | Path) else each for each in adapters]
    _check_places([each for each in found if isinstance(each, AdapterFiles)], Path(folder))
    read = [read_factors(adapter, number) for number, adapter in enumerate(found)]
    _check_shapes(read)
    if len(read) == 1:
        recipe = _Recipe("linear")
    rank = recipe.rank_of(read)
    tensors: dict[str, Array] = {}
    for module in dict.fromkeys(module for each in read for module in each.a):
        members = [(each, weight) for each, weight in zip(read, weights, strict=True) if module in each.a]
        a, b = recipe.combine(module, members, rank)
        tensors[f"{BASE}{module}.lora_A.weight"] = np.pad(a, ((0, rank - a.shape[0]), (0, 0)))
        tensors[f"{BASE}{module}.lora_B.weight"] = np.pad(b, ((0, 0), (0, rank - b.shape[1])))
    taken = None if head is None or not read[head].head else read[head]
    config = {
        **read[0].config,
        "alpha_pattern": {},
        "exclude_modules": None,
        "inference_mode": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": rank,
        "modules_to_save": taken.config.get("modules_to_save") if taken else None,
        "r": rank,
        "rank_pattern": {},
        "target_modules": _target_modules(read),
        "task_type": taken.config.get("task_type") if taken else None,
        "use_rslora": False,
    }
    write_folder(Path(folder), config, {**tensors, **(taken.head if taken else {})})


@dataclass(frozen=True)
class _Recipe:
    """The options of `combine_adapters` that say how tensors are combined."""

    kind: str
    density: float | None = None
    majority: str = "total"
    svd_rank: int | None = None
    svd_clamp: float | None = None
    seed: int = 0

    def check(self) -> None:
        if self.kind not in COMBINATION_TYPES:
            known = ", ".join(COMBINATION_TYPES)
            raise ValueError(f"combination_type must be one of {known}. Received: {self.kind!r}")
        prunes = self.kind != "cat" and bool((RULES | _SVD)[self.kind].prunes)
        if prunes and (self.density is None or not 0 < self.density <= 1):
            raise ValueError(f"{self.kind} needs a density above 0 and at most 1. Received: density={self.density}")
        if not prunes and self.density is not None:
            raise ValueError(f"{self.kind} prunes nothing: leave density out. Received: density={self.density}")
        if self.majority not in MAJORITIES:
            raise ValueError(
                f"majority_sign_method must be one of {', '.join(MAJORITIES)}. Received: {self.majority!r}"
            )
        if self.kind not in _SVD and (self.svd_rank, self.svd_clamp) != (None, None):
            raise ValueError(f"svd_rank and svd_clamp are for {', '.join(_SVD)}. Received: {self.kind!r}")
        if self.svd_rank is not None and self.svd_rank < 1:
            raise ValueError(f"svd_rank must be at least 1. Received: {self.svd_rank}")
        if self.svd_clamp is not None and not 0 < self.svd_clamp <= 1:
            raise ValueError(f"svd_clamp must be above 0 and at most 1. Received: {self.svd_clamp}")

    def rank_of(self, read: Sequence[Factors]) -> int:
        """Returns the rank of the result."""
        ranks = [each.rank for each in read]
        if self.kind in RULES and len(set(ranks)) > 1:
            received = ", ".join(f"{each.name}: {each.rank}" for each in read)
            raise ValueError(f"{self.kind} needs adapters of one rank; cat, svd and …_svd do not. Received: {received}")
        return sum(ranks) if self.kind == "cat" else self.svd_rank or max(ranks)

    def combine(self, module: str, members: Sequence[tuple[Factors, float]], rank: int) -> tuple[Array, Array]:
        """Returns A and B of one module, from the adapters that have it and their weights."""
        all_a, all_b = [each.a[module] for each, _ in members], [each.b[module] for each, _ in members]
        scales = [each.scaling[module] for each, _ in members]
        weights = [weight for _, weight in members]
        scaled = [weight * scale for weight, scale in zip(weights, scales, strict=True)]
        if self.kind == "cat":
            first = [a * np.float32(w) * np.float32(s) for a, w, s in zip(all_a, weights, scales, strict=True)]
            return np.concatenate(first), np.concatenate(all_b, axis=1)
        if self.kind in RULES:
            if len({a.shape for a in all_a}) > 1:
                raise ValueError(f"{self.kind} needs one rank in all adapters, but {module} has several.")
            roots = [math.sqrt(abs(each)) for each in scaled]
            signed = [math.copysign(root, each) for root, each in zip(roots, scaled, strict=True)]
            return self._sum(module, "lora_A", all_a, signed), self._sum(module, "lora_B", all_b, roots)
        changes = [b @ a * np.float32(scale) for a, b, scale in zip(all_a, all_b, scales, strict=True)]
        change = self._sum(module, "change", changes, weights)
        if rank > min(change.shape):
            raise ValueError(f"svd_rank must be at most {min(change.shape)}, for {module}. Received: {rank}")
        return factorized(change, rank, self.svd_clamp)

    def _sum(self, module: str, part: str, tensors: Sequence[Array], weights: Sequence[float]) -> Array:
        density = 1.0 if self.density is None else self.density
        draw = _masks(self.seed, module, part, density)
        return weighted_sum(tensors, weights, (RULES | _SVD)[self.kind], density, self.majority, draw)


def _masks(seed: int, module: str, part: str, density: float) -> Draw:
    """Returns what DARE keeps: each entry with probability `density`, drawn for each module, part and adapter apart."""

    def draw(number: int, shape: tuple[int, ...]) -> Array:
        rng = np.random.default_rng([seed, zlib.crc32(f"{module}.{part}".encode()), number])
        return rng.random(shape) < density

    return draw


def _check_arguments(adapters: Sequence[Any], weights: Sequence[float], head: int | None) -> None:
    if not adapters or len(weights) != len(adapters):
        raise ValueError(f"each adapter needs a weight. Received: {len(adapters)} adapters, {len(weights)} weights")
    if not all(math.isfinite(weight) for weight in weights):
        raise ValueError(f"weights must be finite numbers. Received: {list(weights)}")
    if head is not None and not 0 <= head < len(adapters):
        raise ValueError(f"head must be the number of an adapter, 0 to {len(adapters) - 1}, or None. Received: {head}")


def _check_places(adapters: Sequence[AdapterFiles], folder: Path) -> None:
    paths = [each.weights.resolve() for each in adapters]
    for each, path in zip(adapters, paths, strict=True):
        if paths.count(path) > 1:
            raise ValueError(f"{each.name} is named twice: give it once, with the sum of its weights.")
        if path == (folder / WEIGHTS).resolve():
            raise ValueError(f"{each.name} is one of the adapters to combine: write to another folder.")


def _check_shapes(read: Sequence[Factors]) -> None:
    """Checks that a module is of one size in all adapters that have it."""
    sizes: dict[str, tuple[Factors, tuple[int, int]]] = {}
    for each in read:
        for module, a in each.a.items():
            size = (a.shape[1], each.b[module].shape[0])
            other, expected = sizes.setdefault(module, (each, size))
            if size != expected:
                raise ValueError(
                    f"the adapters are of different models: {module} maps {expected[0]} features to {expected[1]} in "
                    f"{other.name}, and {size[0]} to {size[1]} in {each.name}."
                )


def _target_modules(read: Sequence[Factors]) -> list[str]:
    """Returns names that PEFT matches to the result's modules: the adapters' own if that is what they stand for."""
    targets = [each.config.get("target_modules") for each in read]
    narrowed = any(each.config.get(field) for each in read for field in ("exclude_modules", "layers_pattern"))
    narrowed = narrowed or any(each.config.get("layers_to_transform") is not None for each in read)
    if narrowed or not all(isinstance(names, list) for names in targets):
        return sorted({module for each in read for module in each.a})
    return sorted({name for names in targets for name in names or []})
