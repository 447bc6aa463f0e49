"""The tensors of a folder's model.safetensors, whole or in shards, as numpy arrays under checked names and shapes."""

from __future__ import annotations

from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt
import safetensors

from kpeft.backbones.huggingface_config import read_json

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@final
class SafetensorsFolder:
    """Reads one tensor at a time.

    Args:
        folder: Holds model.safetensors, or model.safetensors.index.json and the shards it names.

    Raises:
        ValueError: If there are no weights, only pickled ones, a shard outside the folder, or a damaged file.
    """

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, Path] = {}
        for path in _paths(folder):
            with _opened(path) as file:
                self._files.update(dict.fromkeys(file.keys(), path))
        self.folder = folder

    @property
    def names(self) -> frozenset[str]:
        """Names of all tensors."""
        return frozenset(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of a tensor that is there."""
        with _opened(self._files[name]) as file:
            return tuple(file.get_slice(name).get_shape())

    def read(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Returns a tensor as float32.

        Args:
            name: The tensor's name.
            shape: The shape it must have.

        Raises:
            ValueError: If it is missing, has another shape, or holds no floating-point numbers.
        """
        if name not in self._files:
            raise ValueError(f"{self.folder}: the weights lack tensor {name!r} of shape {shape}")
        path = self._files[name]
        with _opened(path) as file:
            found = tuple(file.get_slice(name).get_shape())
            if found != shape:
                raise ValueError(f"{path}: tensor {name!r} must have shape {shape}. Received: shape={found}")
            dtype = file.get_slice(name).get_dtype()
            if dtype not in ("F64", "F32", "F16", "BF16"):
                raise ValueError(f"{path}: tensor {name!r} must hold floating-point numbers. Received: dtype={dtype}")
            return np.asarray(file.get_tensor(name)).astype(np.float32)


def _paths(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        shards = read_json(folder / INDEX).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise ValueError(f"{folder / INDEX}: expected an object weight_map from tensor to file")
        for shard in set(shards.values()):
            # A name with a folder in it could climb out of the preset.
            if not isinstance(shard, str) or Path(shard).name != shard:
                raise ValueError(f"{folder / INDEX}: a shard must lie beside the index. Received: {shard!r}")
            if not (folder / shard).is_file():
                raise ValueError(f"{folder / INDEX}: there is no shard {shard!r} beside it")
        return [folder / shard for shard in sorted(set(shards.values()))]
    pickled = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    if pickled:
        raise ValueError(
            f"{folder}: holds pickled weights, which can run code when read; save the model again with "
            f"save_pretrained(folder, safe_serialization=True). Received: {pickled[0]}"
        )
    raise ValueError(f"{folder}: no weights; expected {WEIGHTS} or {INDEX}")


def _opened(path: Path) -> safetensors.safe_open:
    try:
        return safetensors.safe_open(path, framework="numpy")
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path}: damaged or incomplete safetensors file ({error})") from error
