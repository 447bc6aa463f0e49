"""Where adapters may lie: folders, single files, Hugging Face's hub; and what is said of any other place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from command_line import Run, assert_refused, result
from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

import kpeft
from kpeft import hub, run
from kpeft.adapter_files import CONFIG, METHOD_NAMES, WEIGHTS, find_adapter, method_name
from kpeft.adapters import PEFT_FORMATS, adapter_labels, adapter_method
from kpeft.defaults import learning_rate
from tests.adapters.test_files import saved, values
from tests.tiny import tiny_classifier

Download = Callable[..., str]


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    saved(tmp_path / "adapter", kpeft.LoRA())
    return tmp_path / "adapter"


@pytest.fixture
def fake_hub(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A hub whose repository me/adapter holds an adapter at its top and another in a folder; returns what is asked."""
    repository, asked = tmp_path / "repository", list[dict[str, Any]]()
    shutil.copytree(adapter, repository)
    shutil.copytree(adapter, repository / "checkpoints" / "last")
    (repository / "adapter_model.bin").write_bytes(b"\x80")

    def download(name: str, *, allow_patterns: list[str], **options: Any) -> str:
        asked.append({"name": name, "patterns": allow_patterns, **options})
        if name != "me/adapter":
            raise huggingface_hub.errors.LocalEntryNotFoundError("no answer\nand more lines")
        cache = tmp_path / f"cache{len(asked)}"
        files = [str(path.relative_to(repository)) for path in repository.rglob("*") if path.is_file()]
        for file in filter_repo_objects(files, allow_patterns=allow_patterns):
            (cache / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repository / file, cache / file)
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


def test_every_place_gives_the_same_model(adapter: Path, tmp_path: Path, fake_hub: list[dict[str, Any]]) -> None:
    model = tiny_classifier("bert")
    kpeft.load_adapter(model, adapter)
    expected = values(model)
    pair = tmp_path / "pair"
    pair.mkdir()
    shutil.copy(adapter / CONFIG, pair / "my.json")
    shutil.copy(adapter / WEIGHTS, pair / "my.safetensors")
    shutil.copy(adapter / WEIGHTS, adapter / "epoch-3.safetensors")
    files = [adapter / CONFIG, adapter / WEIGHTS, adapter / "epoch-3.safetensors", pair / "my.json"]
    places: list[str | Path] = [*files, str(pair / "my.safetensors"), "hf://me/adapter"]
    for place in (*places, "hf://me/adapter@v2/checkpoints/last/"):
        model = tiny_classifier("bert")
        assert adapter_method(model, place) == kpeft.LoRA(), place
        assert adapter_labels(model, place) == 2
        kpeft.load_adapter(model, place)
        found = values(model)
        assert all(np.array_equal(found[path], expected[path]) for path in expected), place
    in_folder = {"patterns": [f"checkpoints/last/{CONFIG}", f"checkpoints/last/{WEIGHTS}"], "revision": "v2"}
    assert fake_hub[0] == {"name": "me/adapter", "patterns": [CONFIG, WEIGHTS], "revision": None}
    assert fake_hub[-1] == {"name": "me/adapter", **in_folder}


def test_named_and_combined_adapters_take_the_same_places(
    adapter: Path, tmp_path: Path, fake_hub: list[dict[str, Any]]
) -> None:
    named = kpeft.NamedAdapters(tiny_classifier("bert"))
    named.add("file", adapter / WEIGHTS)
    named.add("hub", "hf://me/adapter")
    assert named.names == ("file", "hub")
    kpeft.combine_adapters([adapter / CONFIG, "hf://me/adapter"], [1, -1], tmp_path / "none", combination_type="linear")
    assert kpeft.load_adapter(tiny_classifier("bert"), tmp_path / "none").method.train_head
    with pytest.raises(ValueError, match="is named twice"):
        kpeft.combine_adapters([adapter / CONFIG, adapter], [1, 1], tmp_path / "out")
    with pytest.raises(ValueError, match="one of the adapters to combine"):
        kpeft.combine_adapters([adapter / CONFIG], [1], adapter)


def test_a_run_takes_the_same_places(
    kpeft_run: Run, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = kpeft_run("--task", "stsb", "--adapter", finished_run / "adapter" / WEIGHTS, "--max-steps", "1",
                        "--output-dir", tmp_path / "run")  # fmt: skip
    assert outcome.status == 0, outcome.err
    assert "its head, of 2 labels of mrpc, is left out" in outcome.out
    assert result(tmp_path / "run")["config"]["method"] == result(finished_run)["config"]["method"]
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("the network is touched"))
    outcome = kpeft_run("--adapter", "hf://me/adapter", "--output-dir", tmp_path / "offline")
    assert_refused(outcome, "adapter must be a folder or a file with --offline. Received: 'hf://me/adapter'")
    assert not (tmp_path / "offline").exists()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("", "adapter folder '' does not exist"),
        ("no/such", r"adapter folder 'no/such' does not exist; .* hf://OWNER/NAME"),
        ("x" * 300, "adapter folder 'xxx.* cannot be read: File name too long"),
        ("a\0b", "does not exist"),
        ("s3://me/adapter", "unknown scheme s3:// of an adapter; use hf:// or a path"),
        ("hf://", r"is written hf://OWNER/NAME.*Received: 'hf://'"),
        ("hf://me/adapter/../..", "is written hf://OWNER/NAME"),
        ("hf://me/..@main", "is written hf://OWNER/NAME"),
        ("hf://../adapter", "is written hf://OWNER/NAME"),
        ("hf:///etc/passwd", "is written hf://OWNER/NAME"),
        ("hf://me/adapter//etc", "is written hf://OWNER/NAME"),
        ("hf://me/adapter\n", "is written hf://OWNER/NAME"),
        (
            "hf://you/adapter",
            r"'hf://you/adapter' cannot be downloaded .*\(LocalEntryNotFoundError: no answer\); ",
        ),
        ("hf://me/adapter/checkpoints", r"'hf://me/adapter/checkpoints' holds no adapter_config.json; .*/FOLDER"),
    ],
)
def test_no_such_place(place: str, message: str, fake_hub: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match=message) as error:
        find_adapter(place)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lone.safetensors", "has no lone.json or adapter_config.json beside it"),
        (WEIGHTS, "has no adapter_config.json beside it"),
        ("lone.bin", "ends in .safetensors or .json; a pickle can run code when read"),
        ("lone.txt", r"ends in .safetensors or .json. Received: '.*lone.txt'"),
        ("", "holds no adapter_config.json, nor does a folder in it"),
    ],
)
def test_half_an_adapter(name: str, message: str, tmp_path: Path) -> None:
    if name:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=message):
        find_adapter(tmp_path / name)


def test_weights_that_are_not_there(adapter: Path) -> None:
    (adapter / WEIGHTS).rename(adapter / "adapter_model.bin")
    for place in (adapter, adapter / CONFIG):
        with pytest.raises(ValueError, match=r"does not exist \(adapter_model.bin is a pickle; save it again"):
            kpeft.load_adapter(tiny_classifier("bert"), place)
    (adapter / "my.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(ValueError, match=r"my.safetensors does not exist\."):
        kpeft.load_adapter(tiny_classifier("bert"), adapter / "my.json")


def test_addresses() -> None:
    assert hub.parse("hf://bert") == hub.Repository("bert", None, "")
    assert hub.parse("hf://me/a.b-c_d@v1.0/x/y") == hub.Repository("me/a.b-c_d", "v1.0", "x/y")


METHODS = (
    *(kpeft.LoRA(rank=2), kpeft.DoRA(rank=2), kpeft.BitFit(), kpeft.BitFit(terms=("value",)), kpeft.LayerNorm()),
    *(kpeft.AdaLoRA(rank=4, target_rank=2), kpeft.IA3(), kpeft.VeRA(rank=2), kpeft.LoHa(rank=2), kpeft.LoKr(rank=2)),
    *(kpeft.Prompt(tokens=2), kpeft.PTuning(tokens=2), kpeft.Prefix(tokens=2), kpeft.Bottleneck(size=2), kpeft.Full()),
    *(kpeft.LoRA(rank=2) + kpeft.BitFit(), kpeft.LoRA(alpha=0.0, bias="lora_only"), kpeft.QLoRA(rank=2)),
    kpeft.Compacter(size=4),
)


def test_the_name_of_the_method_is_read_without_keras(tmp_path: Path) -> None:
    model, kinds = tiny_classifier("bert"), set()
    for method in METHODS:
        adaptation = kpeft.adapt(model, method)
        kpeft.save_adapter(adaptation, tmp_path)
        config = json.loads((tmp_path / "adapter_config.json").read_text())
        assert method_name(config) == method.name
        kinds.add(config["peft_type"])
        options = run.make_parser().parse_args(["--task", "rte", "--adapter", str(tmp_path)])
        rate = run.make_config(options).training.learning_rate
        assert rate == learning_rate("rte", method.name.partition("+")[0]), method
        if method is not METHODS[-1]:
            adaptation.detach()
    assert {each.peft_type for each in PEFT_FORMATS} == set(METHOD_NAMES) == {k for k in kinds if "KPEFT" not in k}
    assert method_name({"peft_type": "OFT"}) == method_name({}) == ""
