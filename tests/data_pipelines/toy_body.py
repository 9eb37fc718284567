"""A body of tubes and a ball with the 55 joints of the free body, and clothes that bind to it."""

import pathlib

import numpy as np

from data_pipelines.synthetic_head import sphere
from jaxrecon.interop.anny import JOINTS
from jaxrecon.models.parametric.face_masks import MASKS

HEAD = np.array([0.0, 0.74, 0.04])
CENTRE = {
    "pelvis": (0, 0.07, 0),
    "spine1": (0, 0.15, -0.02),
    "spine2": (0, 0.22, -0.01),
    "spine3": (0, 0.30, -0.01),
    "neck": (0, 0.60, 0.01),
    "head": (0, 0.68, 0.03),
    "jaw": (0, 0.65, 0.12),
}
LEFT = {
    "hip": (0.10, 0.06, 0),
    "knee": (0.13, -0.31, 0.03),
    "ankle": (0.17, -0.74, 0),
    "foot": (0.17, -0.80, 0.13),
    "collar": (0.02, 0.53, 0.02),
    "shoulder": (0.18, 0.51, 0.02),
    "elbow": (0.35, 0.32, 0.03),
    "wrist": (0.47, 0.20, 0.19),
    "eye": (0.03, 0.75, 0.12),
}
FINGERS = ("index", "middle", "ring", "pinky", "thumb")


def joints() -> dict[str, np.ndarray]:
    """Rest places, metres, symmetric about x = 0."""
    places = {name: np.array(p, float) for name, p in CENTRE.items()}
    left = {f"left_{name}": np.array(p, float) for name, p in LEFT.items()}
    for k, finger in enumerate(FINGERS):
        for i in (1, 2, 3):
            # a gentle curl, so that fingers have an axis
            step = np.array([0.02 * i, -0.02 * i - 0.006 * i * i, 0.03 * i - 0.02 * k])
            left[f"left_{finger}{i}"] = left["left_wrist"] + step
    mirror = np.array([-1.0, 1.0, 1.0])
    right = {name.replace("left", "right"): p * mirror for name, p in left.items()}
    return places | left | right


def tube(start, end, radii, rings=6, around=8):
    """Vertices and faces of a closed tube with radii (x, z) about a line."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    axis = (end - start) / np.linalg.norm(end - start)
    side = np.cross(axis, [0.0, 0.0, 1.0])
    side /= np.linalg.norm(side)
    front = np.cross(side, axis)
    angle = np.arange(around) * 2 * np.pi / around
    ring = np.cos(angle)[:, None] * side * radii[0] + np.sin(angle)[:, None] * front * radii[1]
    vertices = np.concatenate([start + t * (end - start) + ring for t in np.linspace(0, 1, rings)])
    i, j = np.meshgrid(np.arange(rings - 1), np.arange(around), indexing="ij")
    a, b = (i * around + j).ravel(), (i * around + (j + 1) % around).ravel()
    faces = np.concatenate(
        [np.stack([a, b, a + around], 1), np.stack([b, b + around, a + around], 1)]
    )
    last = (rings - 1) * around
    fan = np.arange(1, around - 1)
    caps = [np.stack([0 * fan, fan + 1, fan], 1), last + np.stack([0 * fan, fan, fan + 1], 1)]
    return vertices, np.concatenate([faces, *caps])


def toy_body() -> dict[str, np.ndarray]:
    """Arrays of a body file."""
    place, names = joints(), list(JOINTS)
    vertices, faces, weights = [], [], []

    def add(points, triangles, owner):
        faces.append(np.asarray(triangles) + sum(map(len, vertices)))
        vertices.append(points)
        row = np.zeros((len(points), len(names)))
        for share, name in zip(*owner(points), strict=True):
            row[:, names.index(name)] = share
        weights.append(row)

    def rigid(name):
        return lambda points: ([np.ones(len(points))], [name])

    def trunk(points):
        t = np.clip((points[:, 1] - 0.1) / 0.2, 0, 1)
        return [1 - t, t], ["pelvis", "spine3"]

    add(*tube((0, -0.05, 0), (0, 0.55, 0), (0.17, 0.10), rings=9, around=12), trunk)
    add(*tube((0, 0.55, 0), (0, 0.64, 0.01), (0.05, 0.05), rings=3), rigid("neck"))
    ball, triangles = sphere(2)
    add(HEAD + ball * np.array([0.08, 0.12, 0.10]), triangles, rigid("head"))
    for side in ("left", "right"):
        limb = [("hip", "knee", 0.07), ("knee", "ankle", 0.05)]
        limb += [("shoulder", "elbow", 0.045), ("elbow", "wrist", 0.035)]
        for start, end, r in limb:
            a, b = place[f"{side}_{start}"], place[f"{side}_{end}"]
            add(*tube(a, b, (r, r)), rigid(f"{side}_{start}"))
        wrist, tip = place[f"{side}_wrist"], place[f"{side}_middle3"]
        add(*tube(wrist, tip, (0.03, 0.02), rings=3), rigid(f"{side}_wrist"))
        heel = place[f"{side}_ankle"] + np.array([0.0, -0.05, -0.06])
        toe = heel + np.array([0.0, -0.01, 0.24])
        add(*tube(heel, toe, (0.04, 0.03), rings=4), rigid(f"{side}_foot"))
    drawn = np.concatenate(vertices)
    triangles = np.concatenate(faces)
    # one hidden vertex at every joint, as the free body's helpers
    points = np.concatenate([drawn, [place[name] for name in names]])
    share = np.concatenate([*weights, np.eye(len(names))])
    middle = points[triangles].mean(1)
    marks = HEAD + np.array([0.08, 0.12, 0.10]) * _mark_directions()
    nearest = np.linalg.norm(middle[None] - marks[:, None], axis=2).argmin(1)
    inside = np.zeros(len(points), bool)
    inside[: len(drawn)] = np.concatenate(weights)[:, names.index("head")] > 0
    masks = {f"mask_{m}": np.zeros(len(points), np.uint8) for m in MASKS}
    masks["mask_scalp"][inside & (points[:, 1] > HEAD[1] + 0.05)] = 255
    masks["mask_ears"][inside & (np.abs(points[:, 0]) > 0.07)] = 255
    rng = np.random.default_rng(0)
    shapes = np.stack([0.03 * points, 0.01 * points * rng.normal(size=3)])
    return {
        "v_template": points.astype(np.float32),
        "shapedirs": shapes.astype(np.float16),
        "faces": triangles.astype(np.uint16),
        "face_part": np.zeros(len(triangles), np.uint8),
        "part_names": np.array(["body"]),
        "joint_names": np.array(names),
        "parents": np.array([names.index(p) if p else -1 for p, *_ in JOINTS.values()], np.int8),
        "joint_vertex_ids": (len(drawn) + np.arange(len(names)))[:, None].astype(np.int16),
        "weights": share.astype(np.float32),
        "landmarks68_face": nearest,
        "landmarks68_bary": np.full((68, 3), 1 / 3, np.float32),
        "unit": np.array("metres"),
        **masks,
    }


def _mark_directions():
    """Unit directions of 68 landmarks from the head's middle; nose and eyes are where they are."""
    directions = np.tile([0.0, -0.5, 0.9], (68, 1))
    directions[30] = (0.0, 0.0, 1.0)
    directions[36:42], directions[42:48] = (-0.4, 0.3, 0.85), (0.4, 0.3, 0.85)
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def toy_clothes(body: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A tunic about the trunk and a pair of shoes, bound to the vertices beneath."""
    points, faces = body["v_template"], body["faces"].astype(int)
    names = list(body["joint_names"])
    owner = body["weights"].argmax(1)
    arrays: dict[str, np.ndarray] = {"names": np.array(["tunic", "shoes"])}
    for name, of in (
        ("tunic", ("pelvis", "spine3")),
        ("shoes", ("left_foot", "right_foot")),
    ):
        own = np.isin(owner, [names.index(n) for n in of])
        used = faces[own[faces].all(1)]
        ids = np.unique(used)
        outward = points[ids] - points[ids].mean(0) * np.array([0.0, 1.0, 1.0])
        if name == "shoes":
            outward = outward * 0 + np.array([0.0, -1.0, 0.0])
        outward = outward / np.linalg.norm(outward, axis=1, keepdims=True)
        arrays |= {
            f"{name}/faces": np.searchsorted(ids, used),
            f"{name}/bind_idx": np.stack([ids] * 3, 1),
            f"{name}/bind_w": np.tile(np.float32([0.5, 0.25, 0.25]), (len(ids), 1)),
            f"{name}/bind_off": (0.02 * outward).astype(np.float32),
            f"{name}/scale_ref": np.array([[0, 5], [0, 90], [0, 3]]),
            f"{name}/scale_den": np.abs(points[0] - points[[5, 90, 3]]).diagonal() + 1e-3,
            f"{name}/delete_verts": ids,
        }
    return arrays


def write_toy(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Files of the toy body and of its clothes."""
    body = toy_body()
    np.savez(folder / "body.npz", **body)
    np.savez(folder / "clothes.npz", **toy_clothes(body))
    return folder / "body.npz", folder / "clothes.npz"
