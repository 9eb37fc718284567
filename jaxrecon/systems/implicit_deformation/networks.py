"""Networks of "Implicit Neural Deformation for Sparse-View Face Reconstruction" (Li et al., PG
2022), Eq. 1-3.

    s(x)  = f_ref(x + f_deform(x, z_geo))                      Eq. 2
    c(x)  = f_render(x, z_c, n, v, l_geo)                      Eq. 3

z_geo = {z_id, z_exp}; n is the unit gradient of s; l_geo are the further outputs of f_ref. Space
is canonical: the cube [-1, 1]^3, 1 unit = 150 mm for heads.

Choices where the paper is silent:
- "8, 8 and 4 FC layers": hidden layers, plus a linear output each. The reference network has IDR's
skip at layer 4, the
  deformation network none, both softplus(100); weight norm everywhere. This gives 4.99 M
  parameters, as the paper states.
- w^K: K bands with pi on unit-box coordinates (x / 2), without the raw coordinates; w^4 for the
view direction, and w^6 of
  the point enters the rendering network.
- z_id and z_exp share z_geo's 256 channels evenly.
- Deformation starts at zero; colours end in a sigmoid; geometric initialisation (IDR) of the
reference.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrecon.models import implicit
from jaxrecon.models.implicit import MLPConfig
from jaxrecon.models.layers import Encoding, encode
from jaxrecon.types import Field, field

PAPER_ENCODING = Encoding(bands=6, include_input=False, scale=float(np.pi / 2))
SMALL_ENCODING = Encoding(bands=5, include_input=True, scale=float(np.pi / 2))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the three networks and of the latent codes."""

    id_dim: int = 128
    """Width of z_id."""
    exp_dim: int = 128
    """Width of z_exp."""
    colour_dim: int = 128
    """Width of z_c."""
    features: int = 256
    """Width of l_geo."""
    reference_hidden: tuple[int, ...] = (512,) * 8
    """Hidden layers of f_ref."""
    deformation_hidden: tuple[int, ...] = (512,) * 8
    """Hidden layers of f_deform."""
    rendering_hidden: tuple[int, ...] = (512,) * 4
    """Hidden layers of f_render."""
    encoding: Encoding = PAPER_ENCODING
    """w^6 of points."""
    view_encoding: Encoding = Encoding(bands=4, include_input=False, scale=float(np.pi / 2))
    """w^4 of view directions."""
    code_everywhere: bool = False
    """Deviation: inject the codes at every layer and modulate the deformation's output kernel (no
    cost per point).
    """
    weight_norm: bool = True
    """Weight normalisation on every layer."""

    @property
    def geo_dim(self) -> int:
        """Width of z_geo = {z_id, z_exp}."""
        return self.id_dim + self.exp_dim

    @property
    def reference(self) -> MLPConfig:
        """f_ref: point -> (s, l_geo)."""
        deep = len(self.reference_hidden) >= 8
        return MLPConfig(
            hidden=self.reference_hidden,
            out=1 + self.features,
            encoding=self.encoding,
            skip=(4,) if deep else (),
            weight_norm=self.weight_norm,
            initial="geometric",
        )

    @property
    def deformation(self) -> MLPConfig:
        """f_deform: (point, z_geo) -> offset."""
        layers = tuple(range(len(self.deformation_hidden))) if self.code_everywhere else (0,)
        return MLPConfig(
            hidden=self.deformation_hidden,
            out=3,
            encoding=self.encoding,
            code=self.geo_dim,
            code_layers=layers,
            code_output=self.code_everywhere,
            weight_norm=self.weight_norm,
            initial="zero_output",
        )

    @property
    def rendering(self) -> MLPConfig:
        """f_render: (point, z_c, n, v, l_geo) -> RGB."""
        layers = tuple(range(len(self.rendering_hidden))) if self.code_everywhere else (0,)
        return MLPConfig(
            hidden=self.rendering_hidden,
            out=3,
            encoding=self.encoding,
            extra=3 + self.view_encoding.width() + self.features,
            code=self.colour_dim,
            code_layers=layers,
            activation="relu",
            output_activation="sigmoid",
            weight_norm=self.weight_norm,
            initial="torch",
        )


PRESETS = {
    "paper": Config(),
    "small": Config(
        id_dim=100,
        exp_dim=57,
        colour_dim=56,
        features=64,
        reference_hidden=(160,) * 4,
        deformation_hidden=(192,) * 4,
        rendering_hidden=(128,) * 3,
        encoding=SMALL_ENCODING,
        code_everywhere=True,
        weight_norm=False,
    ),
    "tiny": Config(
        id_dim=16,
        exp_dim=57,
        colour_dim=56,
        features=8,
        reference_hidden=(48,) * 3,
        deformation_hidden=(32,) * 2,
        rendering_hidden=(32,) * 2,
        encoding=Encoding(bands=3, include_input=True, scale=float(np.pi / 2)),
        code_everywhere=True,
        weight_norm=False,
    ),
}
"""`paper`: as published. `small`: for CPUs. `tiny`: for tests and first steps."""


def init(key: Array, config: Config) -> dict:
    """{"params": {reference, deformation, rendering}} as plain nested dicts."""
    keys = jax.random.split(key, 3)
    names = ("reference", "deformation", "rendering")
    return {
        "params": {
            n: implicit.init_mlp(k, getattr(config, n)) for n, k in zip(names, keys, strict=True)
        }
    }


def condition(params: dict, z_geo: Float[Array, "g"] | None) -> dict:
    """Folded geometry networks of one instance; vmap over instances. Without a code: the reference
    shape alone.
    """
    folded = {"reference": implicit.fold(params["reference"])}
    if z_geo is not None:
        folded["deformation"] = implicit.fold(params["deformation"], z_geo)
    return folded


def condition_colour(params: dict, z_colour: Float[Array, "c"]) -> implicit.Layers:
    """Folded rendering network of one instance."""
    return implicit.fold(params["rendering"], z_colour)


def deform(
    config: Config, conditioning: dict, points: Float[Array, "*n 3"]
) -> Float[Array, "*n 3"]:
    """Offset delta x = f_deform(x, z_geo); zero for the reference shape."""
    if "deformation" not in conditioning:
        return jnp.zeros_like(points)
    return implicit.evaluate(config.deformation, conditioning["deformation"], points)


def geometry(
    config: Config, conditioning: dict, points: Float[Array, "*n 3"]
) -> tuple[Float[Array, "*n"], tuple[Float[Array, "*n f"], Float[Array, "*n 3"]]]:
    """(s, (l_geo, delta x)) at canonical points, Eq. 2."""
    offsets = deform(config, conditioning, points)
    out = implicit.evaluate(config.reference, conditioning["reference"], points + offsets)
    return out[..., 0], (out[..., 1:], offsets)


def signed_distance(
    config: Config, conditioning: dict, points: Float[Array, "*n 3"]
) -> tuple[Float[Array, "*n"], Float[Array, "*n 3"]]:
    """(s, delta x) at canonical points, Eq. 2; the feature outputs are not computed."""
    offsets = deform(config, conditioning, points)
    *hidden, last = conditioning["reference"]
    layers = [*hidden, {"kernel": last["kernel"][:, :1], "bias": last["bias"][:1]}]
    return implicit.evaluate(config.reference, layers, points + offsets)[..., 0], offsets


def level_set(
    config: Config, conditioning: dict, points: Float[Array, "*n 3"]
) -> Float[Array, "*n"]:
    """Signed distance alone."""
    return signed_distance(config, conditioning, points)[0]


def colour(
    config: Config,
    layers: implicit.Layers,
    points: Float[Array, "*n 3"],
    normals: Float[Array, "*n 3"],
    views: Float[Array, "*n 3"],
    features: Float[Array, "*n f"],
) -> Float[Array, "*n 3"]:
    """RGB in [0, 1], Eq. 3; `views` are unit directions from the camera to the point."""
    extra = jnp.concatenate([normals, encode(views, config.view_encoding), features], axis=-1)
    return implicit.evaluate(config.rendering, layers, points, extra, precision="default")


def sdf_field(config: Config, conditioning: dict, lipschitz: float = 1.0) -> Field:
    """The instance as a traceable, extractable field."""
    return field(level_set, config, conditioning, lipschitz=lipschitz)
