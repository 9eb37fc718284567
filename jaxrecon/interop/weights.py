"""Released weights: one .safetensors of arrays beside one .json of configuration and provenance.

Array names are paths in the parameter tree ("params/reference/layer_0/kernel"). Nothing is
unpickled.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import sys
import types
import typing
from typing import Any

import numpy as np

from jaxrecon.archives import MAX_BYTES
from jaxrecon.errors import InputError

MAX_DEPTH = 32  # of trees: deeper ones exhaust recursive code
FORMAT = "jaxrecon-weights-1"


def flatten_tree(tree: dict, prefix: str = "") -> dict[str, np.ndarray]:
    """{"a/b/c": array} of a nested dict."""
    flat = {}
    for name, value in tree.items():
        if "/" in name:
            raise ValueError(f"key {name!r} holds a slash")
        path = f"{prefix}{name}"
        flat |= (
            flatten_tree(value, path + "/")
            if isinstance(value, dict)
            else {path: np.asarray(value)}
        )
    return flat


def unflatten_tree(flat: dict[str, np.ndarray]) -> dict:
    """The nested dict of `flatten_tree`; ValueError where a path is below an array or too deep."""
    tree: dict = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        node: Any = tree
        for parent in parents[:MAX_DEPTH]:
            node = node.setdefault(parent, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict) or name in node or len(parents) > MAX_DEPTH:
            raise ValueError(f"the name {path[:60]!r} does not fit into a tree")
        node[name] = value
    return tree


def save_weights(path: str | pathlib.Path, tree: dict, header: dict[str, Any]) -> None:
    """Write PATH.safetensors and PATH.json, both to temporary names first.

    Args:
        path: without suffix.
        tree: nested dict of arrays.
        header: JSON-able: `network` (a config as dict), provenance, licence.

    Raises:
        ValueError: an array is not finite.
    """
    from safetensors.numpy import save

    path = pathlib.Path(path)
    flat = {k: np.ascontiguousarray(v) for k, v in flatten_tree(tree).items()}
    for name, value in flat.items():
        if not np.isfinite(value).all():
            raise ValueError(f"{name} is not finite")
    text = json.dumps({"format": FORMAT, **header}, indent=1, allow_nan=False)
    files = {
        path.with_name(f".{path.name}{suffix}.tmp"): (path.with_name(path.name + suffix), data)
        for suffix, data in ((".safetensors", save(flat)), (".json", text.encode()))
    }
    try:
        for temporary, (_, data) in files.items():
            temporary.write_bytes(data)
        for temporary, (final, _) in files.items():
            os.replace(temporary, final)
    finally:
        for temporary in files:
            temporary.unlink(missing_ok=True)


def load_weights(path: str | pathlib.Path) -> tuple[dict, dict[str, Any]]:
    """(nested dict of NumPy arrays, header) of `save_weights`; float16 arrays as float32.

    Args:
        path: with or without a suffix.

    Raises:
        InputError: missing, damaged, of another format, or not finite.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = pathlib.Path(path)
    if not path.name:  # "." and "/"
        raise InputError(f"{path}: a folder", "weights as NAME.safetensors beside NAME.json")
    base = path.with_suffix("") if path.suffix in (".safetensors", ".json") else path
    arrays, header = (base.with_name(base.name + s) for s in (".safetensors", ".json"))
    for file in (arrays, header):
        if not file.is_file():
            raise InputError(
                f"{file}: no such file",
                "weights as NAME.safetensors beside NAME.json",
                "give the path of one of the two, or both without their endings",
            )
        if file.stat().st_size > MAX_BYTES:
            raise InputError(f"{file}: larger than 1 GiB", "released weights")
    try:
        flat = load_file(arrays)
        half = {k: v.astype(np.float32) for k, v in flat.items() if v.dtype == np.float16}
        flat |= half
        tree = unflatten_tree(flat)
        text = header.read_text(encoding="utf-8")
        information = json.loads(text, parse_constant=_refuse_constant)
    # AttributeError: dtypes that NumPy has not. RecursionError: nested JSON.
    except (SafetensorError, ValueError, OSError, AttributeError, RecursionError) as error:
        message = f"{arrays.name} with {header.name} in {path.parent}: {str(error)[:200]}"
        raise InputError(message, "released weights", "get the files again") from error
    if not isinstance(information, dict) or information.get("format") != FORMAT:
        raise InputError(f"{header}: no format {FORMAT!r}", "a header written by jaxrecon")
    with np.errstate(over="ignore"):
        broken = [k for k, v in flat.items() if not np.isfinite(np.asarray(v, np.float32)).all()]
    if broken:
        raise InputError(f"{arrays}: {broken[0]} is not finite", "finite weights")
    return tree, information


def _refuse_constant(name: str):
    raise ValueError(f"{name} in JSON")


def config_from_dict(cls: type, data: Any, where: str = "config"):
    """A (nested) config dataclass from parsed JSON, with every key and type checked.

    Raises:
        InputError: unknown or missing keys, or values of the wrong type; `where` names the file.
    """
    if not isinstance(data, dict):
        raise InputError(f"{where}: {data!r:.60}", f"an object with the fields of {cls.__name__}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise InputError(f"{where}: unknown {unknown}", f"fields {sorted(fields)}")
    missing = [
        n
        for n, f in fields.items()
        if n not in data
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InputError(f"{where}: {missing} missing", f"fields {sorted(fields)}")
    values = {n: _convert(hints[n], v, f"{where}.{n}") for n, v in data.items()}
    try:
        return cls(**values)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def _convert(hint: Any, value: Any, where: str):
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return config_from_dict(typing.cast(type, hint), value, where)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, where)
    if origin is tuple and isinstance(value, list):
        inner = arguments if Ellipsis not in arguments else arguments[:1] * len(value)
        if len(inner) == len(value):
            return tuple(_convert(h, v, where) for h, v in zip(inner, value, strict=True))
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if abs(value) <= sys.float_info.max:
            return float(value)
    if isinstance(hint, type) and hint is not float and isinstance(value, hint):
        if hint is bool or not isinstance(value, bool):
            return value
    raise InputError(f"{where}: {value!r:.60}", f"{hint}")
