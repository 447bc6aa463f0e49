"""The command that makes a run again, from the configuration in its result.json."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from typing import Any

from kpeft.config import DataConfig, TrainingConfig
from kpeft.methods import Method, Union
from kpeft.methods.fields import method_from_json, write_field

# Their defaults hang on task and method, or say what run it is.
_ALWAYS = ("epochs", "learning_rate", "seed")


def command(config: Mapping[str, Any]) -> str:
    """Returns the command line of a run, quoted for a shell, with the flags that are not as they come.

    Args:
        config: As `RunConfig.to_json` gives it. Where the run's files went is no part of it.

    Raises:
        ValueError: If a method or an option of it has no form on the command line.
    """
    words = ["python", "-m", "kpeft.run", "--task", config["task"]]
    if config.get("adapter") is None:
        method = method_from_json(config["method"])
        words += ["--method", method.name, *_method_flags(method)]
    else:  # which brings its method
        words += ["--adapter", config["adapter"]]
    words += ["--preset", config["preset"]]
    for kind, name in ((TrainingConfig, "training"), (DataConfig, "data")):
        for field in dataclasses.fields(kind):
            value = config[name].get(field.name, field.default)
            if value is True:
                words.append(_flag(field.name))
            elif field.name in _ALWAYS or value != field.default:
                words += [_flag(field.name), str(0 if value is None else value)]  # --clip-norm 0 is none
    taught = config.get("distillation")
    if taught is not None:
        words += ["--teacher", taught["teacher"], "--distillation-weight", str(taught["weight"])]
        words += ["--temperature", str(taught["temperature"])]
    masked = config.get("masked_text")
    if masked is not None:
        words += ["--text", masked["text"], "--rehearsal", str(masked["rehearsal"])]
    if config.get("precision", "float32") != "float32":
        words += ["--precision", config["precision"]]
    return shlex.join(_joined(words))


def _method_flags(method: Method) -> list[str]:
    parts = method.parts if isinstance(method, Union) else (method,)
    texts: dict[str, str] = {}
    for part in parts:
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            if value == getattr(type(part)(), field.name):
                continue
            texts[field.name] = write_field(type(part), field.name, value)
    for part in parts:  # a flag goes to every part that has it
        for field in dataclasses.fields(part):
            text = texts.get(field.name)
            if text is not None and write_field(type(part), field.name, getattr(part, field.name)) != text:
                raise ValueError(f"{field.name} differs between the parts of {method.name}.")
    return [word for name, text in texts.items() for word in (_flag(name), text)]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _joined(words: list[str]) -> list[str]:
    """A value that begins with a dash goes into one word with its flag."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1].startswith("--") and word.startswith("-") and not word.startswith("--"):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined
