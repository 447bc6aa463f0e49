"""Modules of Hugging Face's models as PEFT's configurations name them: targets, and the head that is saved whole."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from kpeft.adapters.peft_names import hugging_face_modules
from kpeft.sites import Layout
from kpeft.targets import ALL_LINEAR, head_layers, is_linear, resolve

_TASKS = ("SEQ_CLS", "CAUSAL_LM", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION")
"""Tasks whose adapters may be of use here: classification, and those that by themselves save no head."""
_HEADS = ("classifier", "pooler", "pre_classifier", "score")
"""What some family calls its head; PEFT passes over those that a model has not."""
_ORDER = (True, "pooler", "logits", False)
"""What of the head is saved; BERT's classifier is its whole head, and DeBERTa's its logits."""


def modules_to_save(module: str) -> str:
    """Returns the Hugging Face module that PEFT saves whole to save a layer of the head or of the pooler."""
    pooler = re.match(r".*\bpooler(?=\.|$)", module)
    return pooler[0] if pooler else module.partition(".")[0]


def trained_head(layout: Layout, config: Mapping[str, Any]) -> bool | str:
    """Returns what a method calls the modules that PEFT saves whole: its `train_head`.

    Raises:
        ValueError: If the model is no KerasHub encoder, the adapter is for a task with a head that is none for whole
            rows, or a saved module is none of the head's, the pooler, or one that PEFT names in vain (`score`).
    """
    task = config.get("task_type")
    if task not in (None, *_TASKS):
        raise ValueError(
            f"adapter_config.json: task_type={task!r} is not supported; kpeft's models classify whole rows (SEQ_CLS)."
        )
    modules = hugging_face_modules(layout)
    if not modules:
        raise ValueError(f"a Hugging Face adapter needs a KerasHub encoder; model {layout.model.name!r} holds none.")
    names = config.get("modules_to_save") or (["classifier", "score"] if task == "SEQ_CLS" else [])
    saved: set[str] = set()
    most = head_layers(layout, "pooler")
    for name in names:
        matched = {path for module, path in modules.items() if is_saved(module, [name])}
        if matched - most or (not matched and name not in _HEADS):
            raise ValueError(
                f"adapter_config.json: modules_to_save={name!r} is neither in the head nor the pooler; kpeft saves no "
                "other module whole."
            )
        saved |= matched
    named = set(modules.values())
    found = next((which for which in _ORDER if head_layers(layout, which) & named == saved), None)
    if found is None and saved < head_layers(layout):
        return True  # a head without its last layer, which the model then keeps as it is
    if found is None:
        raise ValueError(
            f"adapter_config.json: modules_to_save={names!r} is the pooler without the head; kpeft trains it with the "
            "head only."
        )
    return found


def is_saved(module: str, names: Iterable[str]) -> bool:
    """PEFT's own rule for a module: whether `modules_to_save` names it, or what holds it, by the end of the name."""
    parts = module.split(".")
    holders = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return any(holder.endswith(name) for holder in holders for name in names)


def can_save(layout: Layout, train_head: bool | str) -> bool:
    """Whether PEFT can save what a method trains of the head, and nothing else of it."""
    whole, rest = _tops(layout, train_head), head_layers(layout) - head_layers(layout, train_head)
    modules = hugging_face_modules(layout)
    return not any(is_saved(module, whole) for module, path in modules.items() if path in rest)


def _tops(layout: Layout, which: bool | str) -> set[str]:
    """Returns the Hugging Face modules that hold a head."""
    head = head_layers(layout, which)
    return {modules_to_save(module) for module, path in hugging_face_modules(layout).items() if path in head}


def linear_modules(layout: Layout, *, outside_head: bool | str) -> dict[str, str]:
    """Returns the structural path of each linear layer by its Hugging Face module name.

    Args:
        layout: The model.
        outside_head: Leave those of the head out that a method with such a `train_head` trains: PEFT never adapts what
            it saves whole.
    """
    head = head_layers(layout, outside_head)
    modules = hugging_face_modules(layout)
    return {module: path for module, path in modules.items() if is_linear(layout.layers[path]) and path not in head}


def head_fields(layout: Layout, train_head: bool | str) -> dict[str, Any]:
    """Returns the fields of a config that say what of the head is saved whole."""
    saved = sorted(_tops(layout, train_head))
    return {"modules_to_save": saved, "task_type": "SEQ_CLS"} if saved else {"modules_to_save": None, "task_type": None}


def short_names(adapted: set[str], modules: set[str]) -> list[str]:
    """Names modules by their last part, or last two, where those name no other module, else in full."""
    names = set()
    for module in adapted:
        parts = module.split(".")
        endings = (".".join(parts[-count:]) for count in (1, 2))
        names.add(next((end for end in endings if not any(matches(m, [end]) for m in modules - adapted)), module))
    return sorted(names)


def no_target(layout: Layout, targets: Any) -> ValueError:
    """Returns the error for `target_modules` that match nothing in a model."""
    return ValueError(
        f"adapter_config.json: target_modules={targets!r} match no layer of model {layout.model.name!r}, "
        f"a {layout.family.name if layout.family else 'model of no known family'}."
    )


def linear_targets(
    layout: Layout, config: Mapping[str, Any], usual: Any, *, train_head: bool | str
) -> str | tuple[str, ...]:
    """Returns the linear layers that a config adapts, as a method of kpeft names them.

    Args:
        layout: The model.
        config: Names them as PEFT does.
        usual: What PEFT takes where `target_modules` is not set.
        train_head: What of the head is saved whole, and so not adapted.

    Raises:
        ValueError: If there are none.
    """
    linear = linear_modules(layout, outside_head=train_head)
    targets = config.get("target_modules")
    targets = usual if targets is None else targets
    adapted = [path for module, path in linear.items() if is_target(module, targets, config)]
    if not adapted:
        raise no_target(layout, targets)
    return kpeft_targets(layout, adapted)


def is_target(module: str, targets: Any, config: Mapping[str, Any]) -> bool:
    """PEFT's own rule for one module.

    Args:
        module: Its name in Hugging Face's model.
        targets: `target_modules`, or what PEFT takes for the family where a config has none.
        config: The rest: `exclude_modules`, `layers_to_transform`, `layers_pattern`.
    """
    if matches(module, config.get("exclude_modules") or []):
        return False
    if targets != ALL_LINEAR and not matches(module, targets):
        return False
    layers = config.get("layers_to_transform")
    if layers is None or layers == [] or (isinstance(targets, list) and module in targets):
        return True
    pattern = config.get("layers_pattern") or r"[^.]*"
    names = [pattern] if isinstance(pattern, str) else pattern
    found = (re.match(rf"(?:^|.*?\.){name}\.(?P<number>\d+)\.", module) for name in names)
    number = next((match["number"] for match in found if match and match["number"]), None)
    return number is not None and int(number) in ([layers] if isinstance(layers, int) else layers)


def matches(module: str, names: str | list[str]) -> bool:
    """Whether a module is one of `names`: a regular expression over the whole name, or a list of last parts."""
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def kpeft_targets(layout: Layout, paths: list[str]) -> str | tuple[str, ...]:
    """Says a set of layers as briefly as kpeft can: by names of the family, else path by path."""
    wanted = set(paths)
    if wanted == set(resolve(layout, ALL_LINEAR)):
        return ALL_LINEAR
    terms = layout.family.terms if layout.family else ()
    by_term = {
        term: {p for p in resolve(layout, term) if p in layout.layers} for term in terms if _exists(layout, term)
    }
    chosen = tuple(term for term, members in by_term.items() if members and members <= wanted)
    if chosen and set().union(*(by_term[term] for term in chosen)) == wanted:
        return chosen
    return "|".join(re.escape(path) for path in paths)


def _exists(layout: Layout, term: str) -> bool:
    try:
        return bool(resolve(layout, term))
    except ValueError:
        return False
