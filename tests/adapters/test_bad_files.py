"""The battery of bad files: whatever is wrong, one clear line, and the model is to the bit what it was.

By default each format meets every kind of damage that is found before a model is touched, and one of each kind that is
found after; `-m slow` runs the whole product.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from command_line import Run, assert_refused
from safetensors.numpy import load_file, save_file

import kpeft
from kpeft.adapter_files import CONFIG, WEIGHTS
from kpeft.sites import variable_paths, walk
from tests.adapters.test_files import edit_config, edit_tensors, saved
from tests.tiny import tiny_classifier

FORMATS: dict[str, kpeft.Method] = {
    "LORA": kpeft.LoRA(rank=2, layers=(1,)),
    "DORA": kpeft.DoRA(rank=2, layers=(1,), bias="all"),
    "BITFIT": kpeft.BitFit(),
    "ADALORA": kpeft.AdaLoRA(rank=3, target_rank=2),
    "LOHA": kpeft.LoHa(rank=2),
    "LOKR": kpeft.LoKr(rank=1),
    "IA3": kpeft.IA3(),
    "LN_TUNING": kpeft.LayerNorm(),
    "VERA": kpeft.VeRA(rank=4),
    "PROMPT_TUNING": kpeft.Prompt(tokens=2),
    "P_TUNING": kpeft.PTuning(tokens=2, hidden=5),
    "PREFIX_TUNING": kpeft.Prefix(tokens=2),
    "KPEFT_BOTTLENECK": kpeft.Bottleneck(size=3),
    "KPEFT_LORA+BITFIT": kpeft.LoRA(rank=2) + kpeft.BitFit(),
}
Damage = Callable[[Path], object]
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an adapter of each format, all numbers random."""
    folder = tmp_path_factory.mktemp("adapters")
    for name, method in FORMATS.items():
        saved(folder / name, method)
    return folder


@pytest.fixture(scope="module")
def model() -> Any:
    """The model that all of them meet: none changes it. A layer of it is frozen, as its owner wanted."""
    model = tiny_classifier("bert", seed=3)
    model.get_layer("logits").bias.trainable = False
    return model


def state(model: Any) -> dict[str, Any]:
    """Everything that a failed load might change: layer objects, variable objects, flags and every bit."""
    layers = {f"layer {path}": (id(layer), layer.trainable) for path, layer in walk(model)}
    nodes = {f"node {number}": id(each) for number, each in enumerate(model.operations)}
    variables = {path: (id(v), v.trainable, np.asarray(v.value).tobytes()) for path, v in variable_paths(model).items()}
    return {**layers, **nodes, **variables}


def refused(model: Any, folder: Path, named: str | None = None) -> None:
    """One line that names the file, and a model that nothing happened to."""
    before = state(model)
    with pytest.raises(ValueError, match=named) as error:
        kpeft.load_adapter(model, folder)
    text = str(error.value)
    assert text.isprintable(), text
    assert str(folder) in text
    assert len(text) < 500
    assert state(model) == before


def refused_or_taken(model: Any, folder: Path) -> None:
    """The same, for what may be no damage: then it loads, and comes off again."""
    before, said = state(model), str(folder)
    try:
        kpeft.load_adapter(model, folder).detach()
    except ValueError as error:
        said = str(error)
    assert said.isprintable()
    assert str(folder) in said
    assert state(model) == before


def some(*names: str) -> list[Any]:
    """All formats, those that are not named only with `-m slow`."""
    return [pytest.param(name, marks=() if name in names else slow) for name in FORMATS]


def copied(adapters: Path, name: str, folder: Path) -> Path:
    return Path(shutil.copytree(adapters / name, folder / "adapter", dirs_exist_ok=True))


def header_of(content: bytes) -> int:
    return 8 + int(struct.unpack("<Q", content[:8])[0])


# What is found before the model is touched.


def rewritten(name: str, change: Callable[[bytes], bytes]) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / name
        path.write_bytes(change(path.read_bytes()))

    return damage


def with_first(change: Callable[[Any], Any]) -> Damage:
    def damage(folder: Path) -> None:
        def edit(tensors: dict[str, Any]) -> None:
            key = sorted(tensors)[0]
            tensors[key] = change(tensors[key])

        edit_tensors(folder, edit)

    return damage


def filled(value: float) -> Damage:
    def change(tensor: Any) -> Any:
        tensor = tensor.copy()
        tensor.flat[-1] = value
        return tensor

    return with_first(change)


def without_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def folder_for_weights(folder: Path) -> None:
    without_weights(folder)
    (folder / WEIGHTS).mkdir()


def with_config(content: str | bytes) -> Damage:
    return lambda folder: (folder / CONFIG).write_bytes(content if isinstance(content, bytes) else content.encode())


UNREADABLE: dict[str, tuple[Damage, str]] = {
    "no byte": (rewritten(WEIGHTS, lambda content: b""), "is damaged"),
    "half a length": (rewritten(WEIGHTS, lambda content: content[:4]), "is damaged"),
    "no header": (rewritten(WEIGHTS, lambda content: content[:8]), "is damaged"),
    "half a header": (rewritten(WEIGHTS, lambda content: content[: header_of(content) // 2]), "is damaged"),
    "no data": (rewritten(WEIGHTS, lambda content: content[: header_of(content)]), "is damaged"),
    "half the data": (rewritten(WEIGHTS, lambda c: c[: (header_of(c) + len(c)) // 2]), "is damaged"),
    "one byte short": (rewritten(WEIGHTS, lambda content: content[:-1]), "is damaged"),
    "one byte more": (rewritten(WEIGHTS, lambda content: content + b"\0"), "is damaged"),
    "a header of 2**60": (rewritten(WEIGHTS, lambda c: struct.pack("<Q", 2**60) + c[8:]), "is damaged"),
    "a header beyond the file": (rewritten(WEIGHTS, lambda c: struct.pack("<Q", len(c)) + c[8:]), "is damaged"),
    "an empty header": (rewritten(WEIGHTS, lambda c: struct.pack("<Q", 0) + c[8:]), "is damaged"),
    "no weights": (without_weights, "does not exist"),
    "a folder for weights": (folder_for_weights, "does not exist"),
    "int8": (with_first(lambda tensor: tensor.astype("int8")), "must hold floating-point numbers, not I8"),
    "bool": (with_first(lambda tensor: tensor > 0), "must hold floating-point numbers, not BOOL"),
    "NaN": (filled(float("nan")), "not finite"),
    "infinity": (filled(float("-inf")), "not finite"),
    "too large for float32": (with_first(lambda tensor: np.full(tensor.shape, 1e300)), "not finite"),
    "no configuration": (with_config(""), "cannot be read as JSON"),
    "half a configuration": (rewritten(CONFIG, lambda content: content[: len(content) // 2]), "cannot be read as JSON"),
    "other letters": (with_config(b'{"peft_type": "\xff"}'), "cannot be read as JSON"),
    "a list": (with_config("[]"), "names no peft_type"),
    "a number": (with_config("3"), "names no peft_type"),
    "no object": (with_config("null"), "names no peft_type"),
    "brackets": (with_config("[" * 100_000), "cannot be read as JSON"),
    "digits": (with_config('{"r": ' + "9" * 10_000 + "}"), "cannot be read as JSON"),
    "no type": (with_config("{}"), "names no peft_type"),
    "a type that is no text": (lambda folder: edit_config(folder, peft_type=["LORA"]), "names no peft_type"),
    "an unknown type": (lambda folder: edit_config(folder, peft_type="LORA\nPLUS"), "is not supported"),
    "a native type of nothing": (with_config('{"peft_type": "KPEFT_X"}'), "without a description"),
}


@pytest.mark.parametrize("damage", UNREADABLE)
@pytest.mark.parametrize("name", some("LORA", "PROMPT_TUNING", "KPEFT_BOTTLENECK"))
def test_files_that_cannot_be_read(name: str, damage: str, model: Any, adapters: Path, tmp_path: Path) -> None:
    folder = copied(adapters, name, tmp_path)
    change, named = UNREADABLE[damage]
    change(folder)
    refused(model, folder, named)


SIZES = ("init_r", "r", "num_virtual_tokens", "rank", "size", "tokens")


@pytest.mark.parametrize("value", ["8", 0, -1, 10**9, 2.5, True, None, [1]])
@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("BITFIT", "IA3", "LN_TUNING")])
def test_sizes(name: str, value: Any, model: Any, adapters: Path, tmp_path: Path) -> None:
    folder = copied(adapters, name, tmp_path)
    path = folder / CONFIG
    config = json.loads(path.read_text())
    inner = config.get("method", config)
    inner = inner["parts"][0] if "parts" in inner else inner
    size = next(each for each in SIZES if each in inner)
    inner[size] = value
    path.write_text(json.dumps(config))
    refused(model, folder, f"{size}|rank|tokens")


NAMES = ["../../x", "/etc/passwd", "(", ["../x"], ["/etc/passwd"], ["c_attn"], 5, {"a": 1}, [3], "a\nb"]


@pytest.mark.parametrize("field", ["target_modules", "modules_to_save", "feedforward_modules", "exclude_modules"])
@pytest.mark.parametrize("name", [name for name in FORMATS if not name.startswith("KPEFT")])
def test_names_of_modules(name: str, field: str, model: Any, adapters: Path, tmp_path: Path) -> None:
    folder = copied(adapters, name, tmp_path)
    config = json.loads((folder / CONFIG).read_text())
    for value in NAMES if field in config else []:
        (folder / CONFIG).write_text(json.dumps({**config, field: value}))
        if field == "exclude_modules" and not isinstance(value, int | dict) and value not in ("(", [3]):
            continue  # what names no layer excludes none
        refused(model, folder, None if field == "feedforward_modules" else field)


NUMBERS = ["lora_alpha", "lora_dropout", "vera_dropout", "d_initial"]


@pytest.mark.parametrize("name", ["LORA", "DORA", "VERA"])
def test_numbers(name: str, model: Any, adapters: Path, tmp_path: Path) -> None:
    folder = copied(adapters, name, tmp_path)
    config = json.loads((folder / CONFIG).read_text())
    for field in [field for field in NUMBERS if field in config]:
        for value in (float("nan"), float("inf"), 10**400, "8", True, None, [1.0]):
            (folder / CONFIG).write_text(json.dumps({**config, field: value}))
            refused(model, folder, f"{field} must be of type float")


# What is found when the adapter is on the model, which then comes off again.


def larger(tensor: Any) -> Any:
    return np.concatenate([tensor, tensor])


def named(key: str) -> Damage:
    def add(tensors: dict[str, Any]) -> None:
        tensors[key] = np.zeros((2, 2), "float32")

    return lambda folder: edit_tensors(folder, add)


def without_any(folder: Path) -> None:
    without_weights(folder)
    save_file({}, folder / WEIGHTS)


def without_one(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors.pop(sorted(tensors)[-1]))


UNFIT: dict[str, Damage] = {
    "wrong shape": with_first(larger),
    "wrong number of axes": with_first(lambda tensor: tensor[None]),
    "an empty tensor": with_first(lambda tensor: tensor[:0]),
    "a missing tensor": without_one,
    "a surplus tensor": named("base_model.model.more.weight"),
    "a name that climbs": named("../../x"),
    "an absolute name": named("/etc/passwd"),
    "a name of two lines": named("a\nb"),
    "no tensor": without_any,
}
PRODUCT = [
    pytest.param(name, damage, marks=() if (number + index) % len(UNFIT) < 2 or name == "LORA" else slow)
    for number, name in enumerate(FORMATS)
    for index, damage in enumerate(UNFIT)
]


@pytest.mark.parametrize(("name", "damage"), PRODUCT)
def test_tensors_that_do_not_fit(name: str, damage: str, model: Any, adapters: Path, tmp_path: Path) -> None:
    folder = copied(adapters, name, tmp_path)
    UNFIT[damage](folder)
    refused(model, folder)


@pytest.mark.parametrize("name", FORMATS)
def test_another_number_of_labels(name: str, adapters: Path) -> None:
    refused(tiny_classifier("bert", num_classes=3), adapters / name, "shape")


@pytest.mark.parametrize("name", some("LORA", "PREFIX_TUNING"))
def test_another_architecture(name: str, adapters: Path) -> None:
    refused(tiny_classifier("roberta"), adapters / name)
    if name not in ("PROMPT_TUNING", "P_TUNING"):  # whose files name no layer of the encoder
        refused(tiny_classifier("deberta_v3"), adapters / name)
        refused(tiny_classifier("bert", num_layers=1), adapters / name)


@pytest.mark.parametrize("name", some("LORA"))
def test_one_flipped_bit(name: str, model: Any, adapters: Path, tmp_path: Path) -> None:
    """Of a header's bits hardly any is without meaning; of a configuration's, some only make another number of one."""
    folder, rng = copied(adapters, name, tmp_path), np.random.default_rng(0)
    for file in (WEIGHTS, CONFIG):
        content = (folder / file).read_bytes()
        end = header_of(content) if file == WEIGHTS else len(content)
        for place in rng.choice(8 * end, 30, replace=False):
            flipped = bytearray(content)
            flipped[place // 8] ^= 1 << (place % 8)
            (folder / file).write_bytes(bytes(flipped))
            refused_or_taken(model, folder)
        (folder / file).write_bytes(content)


# What is no damage.


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("name", some("LORA", "P_TUNING"))
def test_other_floats_load(name: str, dtype: str, adapters: Path, tmp_path: Path) -> None:
    folder = copied(adapters, name, tmp_path)
    exact = {k: v.astype(ml_dtypes.bfloat16).astype("float16").astype("float32") for k, v in tensors(folder).items()}
    save_file({key: value.astype(dtype) for key, value in exact.items()}, folder / WEIGHTS)
    kpeft.save_adapter(kpeft.load_adapter(tiny_classifier("bert"), folder), tmp_path / "again")
    again = tensors(tmp_path / "again")
    assert {key: value.dtype for key, value in again.items()} == dict.fromkeys(exact, np.dtype("float32"))
    for key, value in exact.items():
        if "original_module" not in key and (name, key) != ("P_TUNING", "prompt_embeddings"):  # made anew
            np.testing.assert_array_equal(again[key], value)


def tensors(folder: Path) -> dict[str, Any]:
    return dict(load_file(folder / WEIGHTS))


# Several adapters, and adapters twice.


def test_named_adapters_stay_as_they_were(adapters: Path, tmp_path: Path) -> None:
    model = tiny_classifier("bert")
    alone = state(model)
    named_adapters = kpeft.NamedAdapters(model)
    named_adapters.add("../x", adapters / "LORA")
    before, names = state(model), named_adapters.names
    bad = copied(adapters, "LORA", tmp_path)
    with_first(larger)(bad)
    for name, adapter, message in (
        ("../x", adapters / "LORA", r"there is an adapter named '\.\./x' already"),
        ("", adapters / "LORA", "a text that is not empty"),
        ("bad", bad, "has shape"),
        ("bad", tmp_path / "none", "does not exist"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            named_adapters.add(name, adapter)
        assert str(error.value).isprintable()
        assert state(model) == before
        assert named_adapters.names == names
    named_adapters.delete("../x")
    assert state(model) == alone
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


def test_merging_twice_and_unmerging_what_is_not_merged(adapters: Path, model: Any) -> None:
    alone = state(model)
    adaptation = kpeft.load_adapter(model, adapters / "LORA")
    for call, message in ((adaptation.unmerge, "is not merged"), (adaptation.merge, ""), (adaptation.merge, "already")):
        before = state(model)
        if not message:
            call()
            continue
        with pytest.raises(ValueError, match=message):
            call()
        assert state(model) == before
    adaptation.unmerge()
    adaptation.detach()
    assert state(model) == alone


def test_combining_what_does_not_fit(adapters: Path, tmp_path: Path) -> None:
    saved(tmp_path / "other", kpeft.LoRA(rank=3, layers=(1,)))
    bad = copied(adapters, "LORA", tmp_path)
    filled(float("nan"))(bad)
    for other, message in ((tmp_path / "other", "needs adapters of one rank"), (bad, "not finite")):
        with pytest.raises(ValueError, match=message) as error:
            kpeft.combine_adapters([adapters / "LORA", other], [1, 1], tmp_path / "out", combination_type="linear")
        assert str(error.value).isprintable()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (UNREADABLE["a header of 2**60"][0], "is damaged"),
        (UNREADABLE["int8"][0], "not I8"),
        (UNREADABLE["NaN"][0], "not finite"),
        (UNFIT["a name of two lines"], "no place for"),
        (lambda folder: edit_config(folder, r=10**9), "does not fit the tensors"),
        (lambda folder: edit_config(folder, modules_to_save=["../x"]), "modules_to_save='../x'"),
    ],
)
def test_from_the_command_line(kpeft_run: Run, finished_run: Path, tmp_path: Path, damage: Damage, named: str) -> None:
    adapter = copied(finished_run, "adapter", tmp_path)
    damage(adapter)
    outcome = kpeft_run("--adapter", adapter, "--output-dir", tmp_path / "run")
    assert_refused(outcome, named, str(adapter))
    assert not (tmp_path / "run").exists()
