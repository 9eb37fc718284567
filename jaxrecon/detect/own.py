"""Detectors of our own, with the weights that the package ships."""

from __future__ import annotations

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxrecon
from jaxrecon.detect.detections import Detector
from jaxrecon.detect.face import detect_faces
from jaxrecon.detect.finding import Network
from jaxrecon.detect.network import DetectorConfig, DetectorNetwork
from jaxrecon.detect.person import detect_person
from jaxrecon.errors import InputError
from jaxrecon.interop.weights import config_from_dict, load_weights
from jaxrecon.types import BODY_25, FACE_LABELS

EXPECTED = {"face": (68, len(FACE_LABELS)), "person": (len(BODY_25), 2)}
"""Points and labels of the networks."""
ASSETS = pathlib.Path(jaxrecon.__file__).parent / "assets"


def load_network(subject: str, path: pathlib.Path | None = None) -> Network:
    """The released network of `face` or `person`, or one's own.

    Args:
        subject: whom it detects.
        path: NAME of NAME.safetensors and NAME.json; None for those the package ships.

    Raises:
        InputError: missing, damaged, or weights of something else.
    """
    path = ASSETS / f"detector_{subject}" if path is None else path
    tree, header = load_weights(path)
    if header.get("system") != f"detector_{subject}":
        raise InputError(
            f"{path}: weights of {header.get('system')!r:.40}",
            f"a detector of the kind {subject}, of experiments.detector.release",
            "leave the option out for those that the package ships",
        )
    config = config_from_dict(DetectorConfig, header.get("network"), f"{path}.json: network")
    if (config.points, config.labels) != EXPECTED[subject]:
        raise InputError(
            f"{path}.json: {config.points} points and {config.labels} labels",
            f"{EXPECTED[subject][0]} and {EXPECTED[subject][1]}",
            "get the files again",
        )
    shapes = jax.eval_shape(
        lambda: DetectorNetwork(config).init(
            jax.random.key(0), jnp.zeros((1, config.size, config.size, 3))
        )
    )
    expected: Any = jax.tree.map(lambda x: x.shape, shapes)
    if jax.tree.map(np.shape, tree) != expected:
        raise InputError(f"{path}: arrays do not fit the network in its header", "matching files")
    return Network(config, jax.tree.map(jnp.asarray, tree))


def face_detector(weights: pathlib.Path | None = None) -> Detector:
    """Landmarks, parsing and mask of faces.

    Args:
        weights: of `load_network`.
    """
    return functools.partial(detect_faces, load_network("face", weights))


def person_detector(weights: pathlib.Path | None = None) -> Detector:
    """Keypoints and mask of the largest person.

    Args:
        weights: of `load_network`.
    """
    return functools.partial(detect_person, load_network("person", weights))
