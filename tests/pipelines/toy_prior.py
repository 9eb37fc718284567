"""An untrained, tiny prior of the synthetic head, for tests in which only the plumbing is on trial:
its landmarks are the model's, its surface is a ball.
"""

import dataclasses
import pathlib

import jax
import numpy as np

from data_pipelines.head_points import HEAD_CENTRE_MM, HEAD_SCALE_MM
from data_pipelines.render_head import RenderConfig
from data_pipelines.synthetic_head import sphere, write_synthetic_head
from jaxrecon.fitting.problem import FitConfig
from jaxrecon.geometry.sphere_tracing import TraceConfig
from jaxrecon.interop.weights import save_weights
from jaxrecon.models.layers import Encoding
from jaxrecon.models.parametric.face import load_face_model
from jaxrecon.systems.implicit_deformation import networks

NETWORK = networks.Config(
    id_dim=6, exp_dim=13, colour_dim=4, features=4,
    reference_hidden=(96, 96), deformation_hidden=(8,), rendering_hidden=(8,),
    encoding=Encoding(bands=1, include_input=True, scale=1.57),
    code_everywhere=True, weight_norm=False,
)  # fmt: skip
FIT = FitConfig(
    rays=32,
    landmark_steps=8,
    switch_steps=2,
    weight_steps=2,
    residual_steps=2,
    trace=TraceConfig(tolerance=1e-3, steps=12, samples=8, stages=1),
)
VIEWS = RenderConfig(expressions=("neutral", "open"), views=3, size=64, supersampling=1)
"""Of `render_subject`: three views, of two expressions."""


def write_toy_model(folder: pathlib.Path) -> pathlib.Path:
    """The synthetic head model, `folder/head.npz`."""
    return write_synthetic_head(folder / "head.npz")


def write_toy_weights(model: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Weights `folder/toy` of an untrained network whose landmarks are those of `model`."""
    face = load_face_model(model)
    params = jax.jit(networks.init, static_argnums=1)(jax.random.key(0), NETWORK)["params"]
    # The start is roughly a ball: of 0.62 canonical units (93 mm), then.
    ball = 0.62 * np.float32(sphere(1)[0])
    values = jax.jit(lambda p, x: networks.level_set(NETWORK, networks.condition(p, None), x))
    last = params["reference"]["layer_2"]
    last["bias"] = last["bias"].at[0].add(-values(params, ball).mean())
    marks = np.asarray(face.landmarks)
    single = np.float32
    latent = {
        "id_mean": np.zeros(6), "id_basis": np.eye(6),
        "exp_mean": np.full(13, 0.1), "exp_basis": 0.2 * np.eye(13),
        "colour_mean": np.zeros(4), "colour_basis": np.eye(4)[:2],
        "landmarks_mean": (face.mean[marks] - HEAD_CENTRE_MM) / HEAD_SCALE_MM,
        "landmarks_id": face.identity[:, marks] / HEAD_SCALE_MM,
        "landmarks_exp": face.expression[:, marks] / HEAD_SCALE_MM,
    }  # fmt: skip
    path = folder / "toy"
    tree = {"params": params, "latent": latent}
    header = {
        "system": "implicit_deformation",
        "network": dataclasses.asdict(NETWORK),
        "canonical": {"unit_mm": HEAD_SCALE_MM},
    }
    save_weights(path, jax.tree.map(lambda x: single(x), tree), header)
    return path
