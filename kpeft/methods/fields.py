"""A method's fields as text and as JSON: command-line flags and adapter_config.json derive from the dataclass alone."""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any

from kpeft.methods import METHODS, Method, Union

_TRUE, _FALSE = ("true", "yes", "1"), ("false", "no", "0")
_NUMBERS = {int: "a whole number", float: "a number"}


def field_types(method: type[Method]) -> dict[str, Any]:
    """Returns the type of each field of a method, by name."""
    hints = typing.get_type_hints(method)
    return {field.name: hints[field.name] for field in dataclasses.fields(method)}


def describe_fields() -> dict[str, str]:
    """Returns a line of help for every field of any method, by name; it says which methods a text is for."""
    users: dict[str, dict[str, list[str]]] = {}
    for name, method in METHODS.items():
        for field in dataclasses.fields(method):
            users.setdefault(field.name, {}).setdefault(field.metadata["help"], []).append(name)

    def describe(texts: dict[str, list[str]]) -> str:
        return "; ".join(
            text if len(names) == len(METHODS) else f"{', '.join(names)}: {text}" for text, names in texts.items()
        )

    return {name: describe(texts) for name, texts in users.items()}


def is_switch(name: str) -> bool:
    """Whether a field can be true, in every method that has it."""
    return all(bool in _kinds(kinds.get(name, bool)) for kinds in map(field_types, METHODS.values()))


def _kinds(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)


def parse_field(method: type[Method], name: str, text: str) -> Any:
    """Reads a field's value from the command line.

    A tuple is `a,b`, a mapping `a=1,b=2`, a truth value `true` or `false`, and an absent value `none`.

    Raises:
        ValueError: If the text does not fit the field's type.
    """
    try:
        return _parse(field_types(method)[name], text)
    except (ValueError, TypeError) as error:
        flag = name.replace("_", "-")
        raise ValueError(f"--{flag} of method {method.name} cannot be {text!r}: {error}") from error


def _parse(kind: Any, text: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        if types.NoneType in arguments and text.lower() == "none":
            return None
        several = next((a for a in arguments if typing.get_origin(a) is tuple), None)
        if several is not None and (str not in arguments or _is_list(text)):
            return _parse(several, text)
        if bool in arguments and text.lower() not in _TRUE + _FALSE:
            return _parse(str, text)
        return _parse(next(a for a in arguments if a is not types.NoneType), text)
    if origin is tuple:
        parts = [part.strip() for part in text.split(",") if part.strip()]
        if not parts:
            raise ValueError("expected values separated by commas")
        return tuple(_parse(arguments[0], part) for part in parts)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        pairs = [part.rsplit("=", 1) for part in text.split(",") if part.strip()]
        if any(len(pair) != 2 for pair in pairs):
            raise ValueError("expected name=value pairs separated by commas")
        return {key.strip(): _parse(arguments[1], value) for key, value in pairs}
    if kind is bool:
        if text.lower() not in _TRUE + _FALSE:
            raise ValueError("expected true or false")
        return text.lower() in _TRUE
    if kind is str:
        return text
    try:
        value = kind(text)
    except ValueError as error:
        raise ValueError(f"expected {_NUMBERS[kind]}") from error
    if not -sys.float_info.max <= value <= sys.float_info.max:
        raise ValueError(f"expected {_NUMBERS[kind]}")
    return value


def write_field(method: type[Method], name: str, value: Any) -> str:
    """Writes a field's value as `parse_field` reads it.

    Raises:
        ValueError: If no text gives that value, as for the tuple of one name where a name alone is text as well.
    """
    text = _write(value)
    if text and parse_field(method, name, text) == (tuple(value) if isinstance(value, list) else value):
        return text
    raise ValueError(f"{name}={value!r} of method {method.name} has no form on the command line.")


def _write(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return ",".join(f"{key}={_write(item)}" for key, item in value.items())
    return ",".join(map(_write, value)) if isinstance(value, tuple | list) else str(value)


def _is_list(text: str) -> bool:
    """Whether text for `str | tuple` is a list of names: a regular expression with a comma has other signs as well."""
    return "," in text and all(part.strip().replace("-", "_").isidentifier() for part in text.split(","))


def method_to_json(method: Method) -> dict[str, Any]:
    """Returns a method as a JSON object: its name and its fields."""
    if isinstance(method, Union):
        return {"name": method.name, "parts": [method_to_json(part) for part in method.parts]}
    values = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
    return {"name": method.name, **{k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items()}}


def method_from_json(value: Mapping[str, Any]) -> Method:
    """Returns the method that `method_to_json` described.

    Raises:
        ValueError: If the method or one of the fields is unknown, or a value is of the wrong type.
    """
    fields = dict(value)
    name = fields.pop("name", None)
    if isinstance(fields.get("parts"), list):
        return Union(parts=tuple(map(method_from_json, fields["parts"])))
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; known are {', '.join(METHODS)}.")
    cls: Any = METHODS[name]
    unknown = sorted(set(fields) - {field.name for field in dataclasses.fields(cls)})
    if unknown:
        raise ValueError(f"method {name} has no field {', '.join(unknown)}.")
    values = {key: tuple(item) if isinstance(item, list) else item for key, item in fields.items()}
    check_types(cls, values)
    return cls(**values)


def check_types(method: type[Method], values: Mapping[str, Any]) -> None:
    """Checks the values of a method's fields, as a file gives them.

    Raises:
        ValueError: If one is not of its field's type.
    """
    kinds = field_types(method)
    for name, value in values.items():
        if not fits(kinds[name], value):
            raise ValueError(f"{name} of method {method.name} cannot be {value!r}.")


def fits(kind: Any, value: Any) -> bool:
    """Whether a value is of a field's type; an int also is a float, and a float is finite."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return any(fits(each, value) for each in arguments)
    if origin in (tuple, list):
        return isinstance(value, origin) and all(fits(arguments[0], item) for item in value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(fits(arguments[1], item) for item in value.values())
    if kind is float:
        in_range = isinstance(value, int | float) and -sys.float_info.max <= value <= sys.float_info.max
        return in_range and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
