"""Loading of a `StudyConfig` from a YAML file and `key=value` overrides, with the origin of every value.

A name is looked up as a file first, then among the packaged configs. All errors are reported at once, each with its
file and key. For an unknown key, the error suggests the most similar known key.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from medhybrid.addresses import remember_address, without_passwords
from medhybrid.config.data import ScansConfig
from medhybrid.config.listen import ListenConfig
from medhybrid.config.models import StudyConfig
from medhybrid.config.renamed import present_key, rename_sections, renamed_keys
from medhybrid.config.search import SearchConfig
from medhybrid.errors import ConfigError
from medhybrid.files import write_atomically

MAX_CONFIG_BYTES = 1_000_000
"""Size limit of a YAML file: a larger file is not a config."""


SEARCH_PREFIX = "search_"
"""Prefix of the file names of searches, which are not studies."""


def packaged_configs() -> dict[str, Path]:
    """Return the configs that are packaged with medhybrid, as name to path."""
    return {name: path for name, path in _packaged().items() if not name.startswith(SEARCH_PREFIX)}


def packaged_searches() -> dict[str, Path]:
    """Return the searches of `tune` that are packaged with medhybrid, as name to path."""
    return {name: path for name, path in _packaged().items() if name.startswith(SEARCH_PREFIX)}


def _packaged() -> dict[str, Path]:
    inside = Path(str(files("medhybrid.config"))) / "yaml"
    beside = Path(__file__).parents[2] / "configs"  # in a development checkout, the YAML files are here only
    folder = inside if inside.is_dir() else beside
    return {path.name: path for path in sorted(folder.glob("*.yaml"))}


def find_config(name: str | Path) -> Path:
    """Return the path of a config: a file, else a packaged config of that name.

    Raises
    ------
    ConfigError
        If neither exists.
    """
    path = Path(name)
    if path.is_file():
        return path
    packaged = packaged_configs()
    for candidate in (str(name), f"{name}.yaml"):
        if candidate in packaged:
            return packaged[candidate]
    raise ConfigError(
        f"config {name} not found",
        expected="a YAML file, or one of " + ", ".join(packaged),
        remedy="give the path of a file, or copy a packaged config: medhybrid config brain.yaml > my.yaml",
    )


def load_config(name: str | Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Load a config, merge the overrides into it and check it.

    Parameters
    ----------
    name : str or Path
        A YAML file or the name of a packaged config.
    overrides : sequence of str
        `key=value`, the key dotted, for example `training.max_minutes=10`.

    Raises
    ------
    ConfigError
        If the config cannot be read or is invalid. The message lists all wrong keys.
    """
    return load_config_with_origins(name, overrides)[0]


def require_config(config: object) -> StudyConfig:
    """Return the config that a step was called with; raise `ConfigError` for another type, such as a file name."""
    if not isinstance(config, StudyConfig):
        raise ConfigError(
            "the argument is not a config",
            found=f"{type(config).__name__} {config!r}"[:200],
            remedy="load it first with medhybrid.load_config(NAME)",
        )
    return config


def load_config_with_origins(name: str | Path, overrides: Sequence[str] = ()) -> tuple[StudyConfig, dict[str, str]]:
    """Load a config as `load_config`, and return the origin of each value (dotted key to file, override or default)."""
    overrides = [overrides] if isinstance(overrides, str) else overrides
    path = find_config(name)
    values = rename_sections(_read_yaml(path), source=path.name)
    origins = {key: path.name for key, _ in _leaves(values)}
    changes = rename_sections(_parse_overrides(overrides), source="command line")
    origins |= {key: "command line" for key, _ in _leaves(changes)}
    try:
        merged: Any = OmegaConf.merge(OmegaConf.create(values), OmegaConf.create(changes))
        plain = OmegaConf.to_container(merged, resolve=True)
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigError(
            f"{path.name} and the overrides cannot be merged", found=str(error).splitlines()[0]
        ) from error
    _replace_whole_length(plain, changes)
    try:
        config = StudyConfig.model_validate(plain)
    except ValidationError as error:
        raise ConfigError(_explain(error, path.name, origins)) from None
    return config, {key: _origin(key, origins) for key, _ in _leaves(config.model_dump())}


def load_listen_config(path: Path) -> ListenConfig:
    """Load and check the config of `medhybrid listen`; raise `ConfigError` with all wrong keys."""
    if not path.is_file():
        raise ConfigError(f"config {path} does not exist", remedy="see docs/how-to/dicom-and-pacs.md for an example")
    try:
        return ListenConfig.model_validate(_read_yaml(path))
    except ValidationError as error:
        raise ConfigError(_explain(error, path.name, {}, ListenConfig)) from None


def load_search(name: str | Path) -> SearchConfig:
    """Load and check a search, a YAML file or a packaged one; raise `ConfigError` with all wrong keys."""
    packaged = packaged_searches()
    path = next(
        (p for p in (Path(name), packaged.get(str(name)), packaged.get(f"{name}.yaml")) if p and p.is_file()), None
    )
    if path is None:
        raise ConfigError(f"search {name} not found", expected="a YAML file, or one of " + ", ".join(packaged))
    values = _read_yaml(path)
    for part in ("space", "trial"):
        if isinstance(values.get(part), dict):
            values[part] = {present_key(str(key), source=path.name): v for key, v in values[part].items()}
    try:
        return SearchConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, path.name, {}, SearchConfig)) from None


def with_values(config: StudyConfig, values: Mapping[str, Any], *, source: str) -> StudyConfig:
    """Return a copy of the config with other values of dotted keys; raise `ConfigError` for an unknown key or wrong value."""
    plain = config.model_dump()
    changes: dict[str, Any] = {}
    for key, value in values.items():
        *sections, last = present_key(key, source=source).split(".")
        change = changes
        for section in sections:
            change = change.setdefault(section, {})
        change[last] = value
    try:
        merged = OmegaConf.to_container(OmegaConf.merge(OmegaConf.create(plain), OmegaConf.create(changes)))
    except (OmegaConfBaseException, ValueError, TypeError) as error:  # for a key within a list, or below a value
        raise ConfigError(
            f"{source}: {', '.join(values)} cannot be set",
            expected="keys of sections; a list is set as a whole",
            found=str(error).partition("\n")[0],
        ) from error
    _replace_whole_length(merged, changes)
    return config_from_dict(merged, source=source)


def change_scans(config: ScansConfig, changes: Mapping[str, Any]) -> ScansConfig:
    """Return a copy of the options for reading scans with some values changed; raise `ConfigError` for a wrong one."""
    try:
        return ScansConfig.model_validate(config.model_dump() | dict(changes))
    except ValidationError as error:
        raise ConfigError(_explain(error, "options", {}, ScansConfig)) from None


def config_from_dict(values: Mapping[str, Any], *, source: str) -> StudyConfig:
    """Validate the values of a config that was saved with a run or model; raise `ConfigError` with all wrong keys."""
    try:
        return StudyConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, source, {})) from None


def save_config(config: StudyConfig, path: Path) -> None:
    """Write the resolved config as YAML, without the passwords of its addresses."""
    if config.tracking.uri is not None:
        remember_address(config.tracking.uri)
    values = without_passwords(config.model_dump(mode="json"))
    write_atomically(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def _read_yaml(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path} is too large for a config", expected=f"at most {MAX_CONFIG_BYTES} bytes")
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as YAML", found=str(error).strip()) from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path} is not a config", expected="keys and values", found=type(loaded).__name__)
    return {str(k): v for k, v in loaded.items()}


def _parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    for item in overrides:
        if "=" not in item or not item.split("=", 1)[0].strip():
            raise ConfigError(
                f"override {item!r} cannot be used", expected="key=value, for example training.max_minutes=10"
            )
    try:
        parsed = OmegaConf.create()
        for item in overrides:
            key, _, value = item.partition("=")
            text = _as_text(key.strip(), value.strip())
            if text is None:
                parsed.merge_with_dotlist([item])
            else:
                OmegaConf.update(parsed, key.strip(), text)
        container = OmegaConf.to_container(parsed)
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"overrides {' '.join(overrides)} cannot be used", found=str(error).strip()) from error
    assert isinstance(container, dict)
    return {str(k): v for k, v in container.items()}


def _as_text(key: str, value: str) -> str | None:
    """Return the value of an override as it is written, if its key holds text; None if YAML has to parse it.

    YAML would drop the end of `/data/set #2`, take `*seg*` for an alias and `0123` for a number.
    """
    is_text = _accepts_text(_annotation_of(renamed_keys().get(key, key)))
    may_be_text = value.lower() not in ("", "null", "none", "~") and not value.startswith(("'", '"', "{"))
    return value if is_text and may_be_text else None


def _annotation_of(key: str) -> Any:
    """Return the type of a dotted key of a config; None for an unknown key."""
    annotation: Any = StudyConfig
    for part in key.split("."):
        model = _model_in(annotation)
        if get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
        elif model is not None and part in model.model_fields:
            annotation = model.model_fields[part].annotation
        else:
            return None
    return annotation


def _accepts_text(annotation: Any) -> bool:
    """Return whether a field holds text, and neither numbers nor lists."""
    if get_origin(annotation) is Literal:
        return all(isinstance(v, str) for v in get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        kinds = [a for a in get_args(annotation) if a is not type(None)]
        return any(map(_accepts_text, kinds)) and all(_accepts_text(a) or _model_in(a) is not None for a in kinds)
    return annotation is str


def _replace_whole_length(plain: Any, changes: dict[str, Any]) -> None:
    """Remove the file's kind of length where the command line sets the other kind: a training has only one of them."""
    asked = changes.get("training")
    if isinstance(asked, dict) and isinstance(plain.get("training"), dict):
        if "max_minutes" in asked and "iterations" not in asked:
            plain["training"].pop("iterations", None)
        if "iterations" in asked and "max_minutes" not in asked:
            plain["training"].pop("max_minutes", None)


def _leaves(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(values, Mapping) and values:
        for key, value in values.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, values


def _origin(key: str, origins: Mapping[str, str]) -> str:
    while key:
        if key in origins:
            return origins[key]
        key = key.rpartition(".")[0]
    return "default"


def _origins_of(key: str, origins: Mapping[str, str]) -> str:
    """Return the origin of a key, or those of the values below it, which an error of a section concerns; empty if unknown."""
    found = _origin(key, origins)
    if found != "default":
        return found
    return " and ".join(dict.fromkeys(o for k, o in origins.items() if k.startswith(f"{key}.") or not key))


def _explain(
    error: ValidationError, source: str, origins: Mapping[str, str], model: type[BaseModel] = StudyConfig
) -> str:
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        where = _origins_of(key, origins) or source
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            known = _known_keys(model, item["loc"][:-1])
            near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1, cutoff=0.4)
            message = "unknown key" + (f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}")
        elif item["type"] == "string_type" and isinstance(item["input"], bool | int | float):
            is_name = item["loc"][-1] == "[key]"
            key = ".".join(str(part) for part in item["loc"][:-2]) if is_name else key
            message = f"YAML reads {'a name' if is_name else 'it'} as {item['input']!r}: write it in quotes"
        elif item["type"] == "missing":
            message = "is missing"
        elif "input" in item and not isinstance(item["input"], (dict, BaseModel)):
            message += f", found {item['input']!r}"
        lines.append(f"{where}: {key or 'config'}: {message}")
    count = f"{len(lines)} error{'s' if len(lines) > 1 else ''} in config"
    return f"{count}:\n  " + "\n  ".join(lines)


def _known_keys(model: type[BaseModel], path: Iterable[int | str]) -> list[str]:
    for part in path:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        inner = _model_in(field.annotation) if field else None
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if (found := _model_in(argument)) is not None:
            return found
    return None
