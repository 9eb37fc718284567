"""Recorded and made-up bodies for the tests."""

import json
import pathlib

import numpy as np

from jaxrecon.interop.anny import JOINTS
from jaxrecon.interop.anny_phenotypes import PHENOTYPES, phenotype_factors
from jaxrecon.interop.unpickling import read_pickle

PARITY = pathlib.Path(__file__).resolve().parents[1] / "parity"
SMPL_PICKLE = PARITY / "smpl_synthetic_chumpy_layout.pkl"
FLAME_JOINTS = ("root", "neck", "jaw", "left_eye", "right_eye")
PICKED = (
    *("nose", "reye", "leye", "rear", "lear"),
    *("LBigToe", "LSmallToe", "LHeel", "RBigToe", "RSmallToe", "RHeel"),
    *(side + finger for side in "lr" for finger in ("thumb", "index", "middle", "ring", "pinky")),
)
"""The recorded names of `body_joints.VERTEX_JOINTS`."""


def recorded() -> dict[str, np.ndarray]:
    """Models and results of smplx's linear blend skinning (tests/parity/README.md)."""
    with np.load(PARITY / "smplx_lbs_synthetic.npz") as archive:
        arrays = {key: archive[key] for key in archive.files}
    posedirs = np.asarray(read_pickle(SMPL_PICKLE)["posedirs"])
    return arrays | {"smpl/model/posedirs": posedirs.reshape(30, 3, 207)}


def picked_vertices(record: dict[str, np.ndarray]) -> np.ndarray:
    """The recorded vertex joints (21,)."""
    table = json.loads(str(record["smpl/class/vertex_ids"]))
    return np.array([table[name] for name in PICKED])


def layout(record: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """A recorded model in our layout, with all its coefficients those of shape."""
    m = {k.rsplit("/", 1)[1]: v for k, v in record.items() if k.startswith(f"{kind}/model/")}
    arrays = {
        "v_template": m["v_template"],
        "shapedirs": np.moveaxis(m["shapedirs"], 2, 0),
        "posedirs": np.moveaxis(m["posedirs"], 2, 0),
        "joint_regressor": m["J_regressor"],
        "weights": m["weights"],
        "parents": record[f"{kind}/parents"],
        "faces": m["f"],
        "vertex_joint_ids": picked_vertices(record),
    }
    if kind == "flame":
        arrays["joint_names"] = np.array(FLAME_JOINTS)
    if kind == "smplx":
        arrays["joint_names"] = np.array(list(JOINTS))
        for side in ("left", "right"):
            arrays[f"hand_components_{side}"] = m[f"hands_components{side[0]}"]
            arrays[f"hand_mean_{side}"] = m[f"hands_mean{side[0]}"]
        arrays["landmarks_face"] = m["lmk_faces_idx"]
        arrays["landmarks_bary"] = m["lmk_bary_coords"]
        arrays["contour_face"] = m["dynamic_lmk_faces_idx"]
        arrays["contour_bary"] = m["dynamic_lmk_bary_coords"]
    return arrays


def tiny_body(shapes: int = 6, vertices: int = 40) -> dict[str, np.ndarray]:
    """A body of random numbers in the layout of the free body, with its 55 joints."""
    rng = np.random.default_rng(3)
    names, factors = list(JOINTS), phenotype_factors()[0]
    index = rng.integers(0, 55, (vertices, 3))
    weights = rng.uniform(0.1, 1, (vertices, 3))
    moved = [np.sort(rng.choice(vertices, 5, replace=False)) for _ in range(2)]
    ids = rng.integers(0, vertices, (55, 8))
    ids[3, 4:] = -1
    return {
        "v_template": rng.standard_normal((vertices, 3)).astype(np.float32),
        "shapedirs": 0.1 * rng.standard_normal((shapes, vertices, 3)).astype(np.float16),
        "expr_names": np.array(["jawOpen", "mouthSmileLeft"]),
        "expr_ptr": np.array([0, 5, 10]),
        "expr_idx": np.concatenate(moved).astype(np.uint16),
        "expr_delta": 0.01 * rng.standard_normal((10, 3)).astype(np.float16),
        "faces": rng.permuted(np.tile(np.arange(vertices), (30, 1)), axis=1)[:, :3].astype(
            np.uint16
        ),
        "joint_names": np.array(names),
        "parents": np.array([names.index(p) if p else -1 for p, *_ in JOINTS.values()], np.int8),
        "joint_vertex_ids": ids.astype(np.int16),
        "weights_idx": index.astype(np.uint8),
        "weights": (weights / weights.sum(1, keepdims=True)).astype(np.float16),
        "landmarks68_face": rng.integers(0, 30, 68),
        "landmarks68_bary": rng.dirichlet([1, 1, 1], 68).astype(np.float32),
        "phenotype_names": np.array(PHENOTYPES),
        "phenotype_factors": factors,
        "phenotype_mean": np.full(len(factors), 0.1, np.float32),
        "phenotype_matrix": rng.standard_normal((len(factors), shapes)).astype(np.float32),
        "unit": np.array("metres"),
        "licence": np.array("none: random numbers"),
    }
