from __future__ import annotations

import json
from pathlib import Path

import jax
import pytest

from kpeft.hardware import read_hardware, write_hardware


def test_what_jax_computes_on_is_written(tmp_path: Path) -> None:
    write_hardware(tmp_path)
    found = read_hardware(tmp_path)
    assert found is not None
    assert (found["platform"], found["devices"]) == (jax.default_backend(), jax.device_count())
    assert found["device"] == jax.devices()[0].device_kind
    assert found["processor"]
    assert found["cores"] >= 1


def test_a_run_of_an_older_version_has_none(tmp_path: Path) -> None:
    assert read_hardware(tmp_path) is None


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"platform": 3}'])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "hardware.json").write_text(content)
    with pytest.raises(ValueError, match=r"hardware\.json"):
        read_hardware(tmp_path)


def test_a_value_of_another_kind_is_named(tmp_path: Path) -> None:
    write_hardware(tmp_path)
    content = json.loads((tmp_path / "hardware.json").read_text())
    (tmp_path / "hardware.json").write_text(json.dumps({**content, "cores": "8"}))
    with pytest.raises(ValueError, match="does not say"):
        read_hardware(tmp_path)
