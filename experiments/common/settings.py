"""Settings of a run that can be read back from its folder, as a dataclass."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from experiments.common.command import UserError

Settings = TypeVar("Settings")


class ConfigError(UserError):
    """An impossible setting; the message is one line that names it."""


def settings_from_json(
    kind: type[Settings], values: Mapping[str, Any], path: Path, run: str
) -> Settings:
    """Read the settings in config.json of the run folder `path`.

    Args:
        kind: the dataclass of the settings, which validates them.
        values: JSON values by name; settings that are missing have their defaults.
        path: the folder, for the message.
        run: the kind of run, for the message.

    Raises:
        ConfigError: a setting is unknown, of another type or impossible.
    """
    try:
        kinds = get_type_hints(kind)
        converted = {name: _converted(name, value, kinds[name]) for name, value in values.items()}
        return kind(**converted)
    except (TypeError, AttributeError, KeyError) as error:
        raise ConfigError(
            f"{path / 'config.json'}: expected {run} run's settings: {error}"
        ) from None


def changed_settings(settings: Any, other: Any) -> list[str]:
    """List the names of the settings in which two dataclasses of one type differ."""
    names = (field.name for field in dataclasses.fields(settings))
    return [name for name in names if getattr(settings, name) != getattr(other, name)]


def _converted(name: str, value: Any, kind: Any) -> Any:
    """Convert a JSON value to the type that the setting is annotated with."""
    if isinstance(kind, UnionType):
        if value is None:
            return None
        (kind,) = (member for member in get_args(kind) if member is not type(None))
    if get_origin(kind) is tuple and isinstance(value, list):
        (entry, _) = get_args(kind)
        return tuple(_converted(name, element, entry) for element in value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    accepted: tuple[Any, ...] = (kind,)
    if kind is float:
        accepted = int, float
    elif get_origin(kind) is Literal:
        accepted = (str,)
    if type(value) not in accepted:
        raise TypeError(f"{name}: {value!r}")
    return value
