"""Released and own weights of the head prior of implicit_deformation."""

from __future__ import annotations

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp

import jaxrecon
from jaxrecon.errors import InputError
from jaxrecon.fitting.latents import LatentSpace
from jaxrecon.fitting.problem import FieldFunctions
from jaxrecon.interop.weights import config_from_dict, load_weights
from jaxrecon.systems.implicit_deformation import networks
from jaxrecon.systems.implicit_deformation.functions import functions as system_functions

DEFAULT_WEIGHTS = pathlib.Path(jaxrecon.__file__).parent / "assets" / "implicit_deformation_small"


@dataclasses.dataclass(frozen=True)
class Prior:
    """A trained head prior."""

    config: networks.Config
    params: dict
    space: LatentSpace
    unit_mm: float
    """millimetres per canonical unit"""
    header: dict

    @property
    def functions(self) -> FieldFunctions:
        """What fitting sees of the networks."""
        return _field_functions(self.config)


@functools.cache
def _field_functions(config: networks.Config) -> FieldFunctions:
    return FieldFunctions(**system_functions(config))


def load_prior(path: str | pathlib.Path | None = None) -> Prior:
    """Released or own weights of implicit_deformation.

    Args:
        path: NAME of NAME.safetensors and NAME.json; None for those the package ships.

    Raises:
        InputError: missing, damaged, or of another system.
    """
    path = DEFAULT_WEIGHTS if path is None else pathlib.Path(path)
    tree, header = load_weights(path)
    if header.get("system") != "implicit_deformation" or set(tree) != {"params", "latent"}:
        raise InputError(f"{path}: not weights of implicit_deformation", "those of its release.py")
    config = config_from_dict(networks.Config, header.get("network"), f"{path}.json: network")
    expected = jax.eval_shape(lambda: networks.init(jax.random.key(0), config)["params"])
    shapes = jax.tree.map(lambda x: x.shape, tree["params"])
    if shapes != jax.tree.map(lambda x: x.shape, expected):
        raise InputError(f"{path}: arrays do not fit the network in its header", "matching files")
    names = {f.name for f in dataclasses.fields(LatentSpace)}
    if set(tree["latent"]) != names:
        raise InputError(f"{path}: latent space holds {sorted(tree['latent'])}", f"{sorted(names)}")
    params, latent = jax.tree.map(jnp.asarray, (tree["params"], tree["latent"]))
    unit = float(header.get("canonical", {}).get("unit_mm", 150.0))
    return Prior(config, params, LatentSpace(**latent), unit, header)
