"""Hugging Face's hub: what an hf:// address names, and the download of those files of it that are needed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SCHEME = "hf://"


@dataclass(frozen=True)
class Repository:
    """What an hf:// address names.

    Attributes:
        name: OWNER/NAME.
        revision: Branch, tag or commit; `None` is the main branch.
        folder: A folder in the repository; `""` is its top.
    """

    name: str
    revision: str | None
    folder: str


def parse(address: str) -> Repository:
    """Reads hf://OWNER/NAME, with an @REVISION and a /FOLDER behind it if need be.

    Raises:
        ValueError: If it is none, or would climb out of the repository.
    """
    match = re.fullmatch(r"hf://([\w.-]+(?:/[\w.-]+)?)(?:@([\w.-]+))?((?:/[\w.-]+)*)", address.rstrip("/"), re.ASCII)
    if match is None or {".", ".."} & set(re.split("[/@]", address)):
        raise ValueError(
            "a repository on Hugging Face is written hf://OWNER/NAME, or hf://OWNER/NAME@REVISION/FOLDER. "
            f"Received: {address!r}"
        )
    return Repository(match[1], match[2], match[3].removeprefix("/"))


def download(repository: Repository, patterns: Sequence[str]) -> Path:
    """Downloads files, unless they are in the hub's own cache, and returns their folder.

    Args:
        repository: Where they are.
        patterns: Names of the files, as for the shell; no others are downloaded.

    Raises:
        ValueError, OSError: If the hub does not answer, or has no such repository.
    """
    import huggingface_hub

    above = f"{repository.folder}/" if repository.folder else ""
    allowed = [above + pattern for pattern in patterns]
    return Path(
        huggingface_hub.snapshot_download(repository.name, revision=repository.revision, allow_patterns=allowed), above
    )


def first_line(error: Exception) -> str:
    """Returns an error's class and the first line of its message, cut to a readable length."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:120] if lines else ''}"
