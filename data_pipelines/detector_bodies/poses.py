"""Plausible poses without recorded motion: mixtures of everyday poses, with jitter within limits.

Arms are set by the directions of their bones or by where the wrist is (two bones, in closed form),
legs by angles of the joints. All in the frame of the rest pose: x to the left, y up, z to the
front; metres and radians. Host NumPy.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from data_pipelines.detector_bodies.surface import FINGERS

ARMS = {
    "hang": 26,
    "apart": 6,
    "tee": 4,
    "hips": 8,
    "raised": 6,
    "goal": 3,
    "reach": 6,
    "crossed": 5,
    "hold": 9,
    "ear": 4,
    "chin": 4,
    "pocket": 7,
    "behind": 4,
    "point": 5,
    "wave": 5,
}
"""Arm poses and how often they come."""
LEGS = {
    "stand": 34,
    "relaxed": 14,
    "wide": 8,
    "walk": 16,
    "run": 7,
    "sit": 8,
    "squat": 3,
    "crouch": 3,
    "kneel": 2,
    "lunge": 3,
    "kick": 2,
}
"""Leg poses and how often they come."""
SAME = 0.6
"""How often both arms take the same pose."""
REACHES = {
    # height between hips (0) and shoulders (1), sideways, in front of the belly, elbow's direction
    "crossed": (0.62, -0.25, 0.05, (1.0, -1.0, 0.3)),
    "hold": (0.45, 0.35, 0.14, (1.0, -1.0, -0.4)),
    "behind": (0.12, 0.10, None, (1.0, 0.0, -0.6)),
    "chin": (1.12, 0.25, 0.04, (1.0, -1.0, 0.2)),
}


@dataclasses.dataclass(frozen=True)
class Build:
    """Measures of a person at rest that poses depend on."""

    joints: Float[np.ndarray, "j 3"]
    """rest joints, metres"""
    half_width: float
    """of the hips, metres"""
    front: float
    """depth of the belly's and chest's front, metres"""
    back: float
    """depth of the back, metres"""


def turn_x(angle: float) -> Float[np.ndarray, "3 3"]:
    """Rotation about x, radians."""
    return rotation(np.array([1.0, 0.0, 0.0]), angle)


def rotation(axis: Float[np.ndarray, "3"], angle: float) -> Float[np.ndarray, "3 3"]:
    """Rotation about an axis (any length but 0) by an angle, radians (Rodrigues)."""
    x, y, z = np.asarray(axis, float) / np.linalg.norm(axis)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


def euler(x: float, y: float, z: float) -> Float[np.ndarray, "3 3"]:
    """Turn about y, then x, then z of the turned frame; radians."""
    return (
        rotation(np.array([0.0, 1.0, 0.0]), y) @ turn_x(x) @ rotation(np.array([0.0, 0.0, 1.0]), z)
    )


def sample_pose(
    rng: np.random.Generator, build: Build, names: tuple[str, ...]
) -> Float[np.ndarray, "j 3 3"]:
    """Rotations of every joint against its parent.

    Args:
        rng: source of randomness.
        build: the person.
        names: of the joints, those of SMPL-X.
    """
    place = {name: i for i, name in enumerate(names)}
    turns = np.broadcast_to(np.eye(3), (len(names), 3, 3)).copy()
    legs = _choose(rng, LEGS)
    forward = _legs(rng, legs, turns, place)
    _trunk(rng, forward, turns, place)
    arms = [_choose(rng, ARMS)] * 2
    if rng.uniform() > SAME and arms[0] != "crossed":
        arms[1] = _choose(rng, {k: v for k, v in ARMS.items() if k != "crossed"})
    if legs in ("walk", "run") and rng.uniform() < 0.75:
        arms = ["swing", "swing"]
    # which leg is in front decides which arm swings back
    phase = np.sign(rng.normal())
    if legs in ("walk", "run"):
        phase = np.sign(turns[place["left_hip"]][2, 1] - turns[place["right_hip"]][2, 1])
    for side, arm in zip(("left", "right"), arms, strict=True):
        sign = 1.0 if side == "left" else -1.0
        _arm(rng, arm, side, sign * phase, legs == "run", build, turns, place)
        _hand(rng, side, build, turns, place)
    return turns


def _choose(rng, table: dict[str, int]) -> str:
    weights = np.array(list(table.values()), float)
    return str(rng.choice(list(table), p=weights / weights.sum()))


def _legs(rng, kind: str, turns, place) -> float:
    """Sets the legs; returns how far the trunk leans forward with them, degrees."""
    u, n = rng.uniform, rng.normal
    # bend of the hip forward, spread, bend of the knee; one row a leg, degrees
    rows = [[n(0, 4), 1 + n(0, 3), abs(n(3, 3))] for _ in range(2)]
    lean = 0.0
    if kind == "relaxed":
        bent = u(8, 28)
        rows[0] = [0.55 * bent + n(0, 4), u(0, 14), bent]
    elif kind == "wide":
        spread = u(8, 24)
        rows = [[n(0, 5), spread + n(0, 3), abs(n(4, 5))] for _ in range(2)]
    elif kind == "walk":
        step = u(0.4, 1.0)
        rows[0] = [step * u(18, 32), n(0, 2), step * u(2, 25)]
        rows[1] = [-step * u(8, 22), n(0, 2), step * u(8, 50)]
        lean = u(0, 6)
    elif kind == "run":
        rows[0] = [u(30, 80), n(0, 3), u(50, 105)]
        rows[1] = [u(-25, 0), n(0, 3), u(15, 90)]
        lean = u(3, 18)
    elif kind == "sit":
        bent, spread = u(72, 95), u(-2, 18)
        rows = [[bent + n(0, 4), spread + n(0, 4), u(65, 105)] for _ in range(2)]
        lean = u(-8, 25)
    elif kind == "squat":
        bent, spread = u(85, 115), u(6, 28)
        rows = [[bent + n(0, 4), spread + n(0, 3), bent + u(10, 30)] for _ in range(2)]
        lean = u(10, 35)
    elif kind == "crouch":
        bent, spread = u(25, 60), u(2, 18)
        rows = [[bent + n(0, 4), spread + n(0, 3), 1.5 * bent + n(0, 5)] for _ in range(2)]
        lean = u(5, 35)
    elif kind == "kneel":
        rows = [[u(75, 95), u(0, 12), u(80, 110)], [u(-8, 8), u(0, 8), u(85, 100)]]
    elif kind == "lunge":
        rows = [[u(45, 80), u(0, 8), u(55, 95)], [u(-25, -8), u(0, 8), u(5, 45)]]
        lean = u(0, 20)
    elif kind == "kick":
        rows[0] = [u(35, 80), u(-5, 15), u(0, 60)]
        lean = u(-12, 5)
    if rng.uniform() < 0.5:
        rows = rows[::-1]
    for (hip, spread, knee), side in zip(rows, ("left", "right"), strict=True):
        sign = 1.0 if side == "left" else -1.0
        out = np.radians(np.clip(n(6, 7), -8, 28))
        # at rest the legs already spread by some 5 degrees
        turn_out = rotation(np.array([0.0, 0.0, 1.0]), sign * np.radians(spread - 3))
        twist = rotation(np.array([0.0, 1.0, 0.0]), sign * out)
        turns[place[f"{side}_hip"]] = turn_x(-np.radians(hip)) @ turn_out @ twist
        turns[place[f"{side}_knee"]] = turn_x(np.radians(max(knee, 0.0)))
        flat = np.radians(np.clip(hip - knee + n(0, 5), -22, 48))
        turns[place[f"{side}_ankle"]] = turn_x(flat)
    return lean


def _trunk(rng, forward: float, turns, place) -> None:
    n = rng.normal
    bend = forward + n(2, 5)
    if rng.uniform() < 0.08:
        bend += rng.uniform(15, 50)
    side, twist = n(0, 4), n(0, 9)
    if rng.uniform() < 0.1:
        side += rng.uniform(-18, 18)
    share = np.radians([bend, twist, side]) / 3
    for name in ("spine1", "spine2", "spine3"):
        turns[place[name]] = euler(*(share + np.radians(n(0, 1.0, 3))))
    turn = np.clip(n(0, 20), -62, 62)
    nod = np.clip(n(1, 11) - 0.4 * bend * rng.uniform(), -38, 38)
    tilt = np.clip(n(0, 7), -24, 24)
    half = np.radians([nod, turn, tilt]) / 2
    turns[place["neck"]] = euler(*half)
    turns[place["head"]] = euler(*half)
    # the whole body leans a little
    turns[0] = euler(*np.radians(n(0, 2.5, 3)))


def _arm(rng, kind: str, side: str, phase: float, run: bool, build: Build, turns, place) -> None:
    """Sets collar, shoulder, elbow and wrist. Angles in degrees, directions as for the left arm."""
    u, n = rng.uniform, rng.normal
    shoulder, elbow, wrist = (
        build.joints[place[f"{side}_{k}"]] for k in ("shoulder", "elbow", "wrist")
    )
    mirror = np.array([1.0 if side == "left" else -1.0, 1.0, 1.0])
    upper, fore = elbow - shoulder, wrist - elbow
    lengths = float(np.linalg.norm(upper)), float(np.linalg.norm(fore))
    flex = abs(n(14, 12))
    bend = np.array([-0.35, 0.0, 1.0])
    # angle from straight down, and its heading from sideways (0) to the front (90)
    raise_, heading = u(9, 24), n(10, 30)
    target, pole = None, np.zeros(3)
    if kind == "apart":
        raise_ = u(28, 62)
    elif kind == "tee":
        raise_, flex = u(70, 102), abs(n(6, 8))
    elif kind == "swing":
        swing = u(15, 45) if run else u(5, 32)
        raise_, heading = swing, -70.0 if phase > 0 else 75.0
        flex = u(65, 110) if run else u(8, 35)
    elif kind == "raised":
        raise_, heading, flex = u(125, 172), u(-5, 45), u(0, 60)
        bend = np.array([-0.7, 0.4, 0.3])
    elif kind == "goal":
        raise_, heading, flex = u(70, 105), u(-10, 25), u(70, 110)
        bend = np.array([0.0, 1.0, u(0, 0.7)])
    elif kind == "reach":
        raise_, heading, flex = u(45, 100), u(55, 100), u(0, 60)
        bend = np.array([-0.6, 0.5, 0.2])
    elif kind == "point":
        raise_, heading, flex = u(60, 115), u(-5, 95), u(0, 20)
    elif kind == "wave":
        raise_, heading, flex = u(45, 110), u(0, 50), u(80, 140)
        bend = np.array([u(-0.3, 0.3), 1.0, u(0, 0.6)])
    elif kind in ("hips", "pocket", "ear") or kind in REACHES:
        target, pole = _reach(rng, kind, build, place)
    raise_ = float(np.clip(raise_ + n(0, 2), 0, 176))
    if target is not None:
        direction, bend, flex = two_bones(target - mirror * shoulder, pole, lengths)
        raise_ = np.degrees(np.arccos(np.clip(-direction[1], -1, 1)))
    else:
        a, h = np.radians([raise_, heading])
        direction = np.array([np.sin(a) * np.cos(h), -np.cos(a), np.sin(a) * np.sin(h)])
    flex = float(np.clip(flex + n(0, 2), 2, 145))
    direction, bend = mirror * direction, mirror * bend
    # above the horizontal the shoulder blade goes along
    up = np.radians(np.clip((raise_ - 50) * 0.22, 0, 24) + n(0, 2))
    collar = rotation(np.array([0.0, 0.0, 1.0]), mirror[0] * up)
    rest_upper = upper / lengths[0]
    rest_bend = fore - (fore @ rest_upper) * rest_upper
    world = _frame(direction, bend) @ _frame(upper, rest_bend).T
    rest_flex = np.arccos(np.clip(fore @ rest_upper / lengths[1], -1, 1))
    turns[place[f"{side}_collar"]] = collar
    turns[place[f"{side}_shoulder"]] = collar.T @ world
    axis = np.cross(rest_upper, rest_bend)
    turns[place[f"{side}_elbow"]] = rotation(axis, np.radians(flex) - rest_flex)
    twist = rotation(fore, np.radians(np.clip(n(0, 22), -45, 45)))
    turns[place[f"{side}_wrist"]] = twist @ euler(*np.radians(np.clip(n(0, 11, 3), -30, 30)))


def _reach(rng, kind: str, build: Build, place):
    """Where the (left) wrist goes, and where the elbow points."""
    u = rng.uniform
    hip = build.joints[place["left_hip"], 1]
    span = build.joints[place["left_shoulder"], 1] - hip
    width = abs(build.joints[place["left_shoulder"], 0])
    if kind == "hips":
        target = [build.half_width + u(0.03, 0.07), hip + u(0.12, 0.3) * span, u(-0.03, 0.05)]
        pole = (1.0, -0.1, u(-0.9, 0.0))
    elif kind == "pocket":
        target = [build.half_width + u(0.02, 0.05), hip + u(-0.05, 0.12) * span, u(0.0, 0.06)]
        pole = (1.0, 0.0, u(-1.5, -0.5))
    elif kind == "ear":
        head = build.joints[place["head"]]
        target = [u(0.11, 0.17), head[1] + u(-0.03, 0.1), head[2] + u(-0.02, 0.08)]
        pole = (1.0, u(-1.0, 0.2), 0.5)
    else:
        height, sideways, ahead, pole = REACHES[kind]
        depth = build.back - 0.05 if ahead is None else build.front + ahead
        spread = (0.10, 0.12, 0.04) if kind == "hold" else (0.04, 0.05, 0.02)
        target = np.array([sideways * width, hip + height * span, depth])
        target = target + np.array(spread) * rng.normal(size=3)
        target[2] = depth - 0.02 if ahead is None else max(target[2], depth - 0.01)
    return np.array(target, float), np.array(pole, float)


def two_bones(
    target: Float[np.ndarray, "3"], pole: Float[np.ndarray, "3"], lengths: tuple[float, float]
) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"], float]:
    """An arm that ends in a target, in closed form.

    Args:
        target: the wrist, seen from the shoulder; brought within reach.
        pole: where the elbow points.
        lengths: of upper arm and forearm.

    Returns:
        unit direction of the upper arm, the vector of the forearm, and the angle between the two,
        degrees.
    """
    a, b = lengths
    reach = np.clip(np.linalg.norm(target), abs(a - b) + 0.02, 0.995 * (a + b))
    ahead = target / np.linalg.norm(target)
    aside = pole - (pole @ ahead) * ahead
    aside = aside / np.linalg.norm(aside)
    cosine = (a * a + reach * reach - b * b) / (2 * a * reach)
    elbow = cosine * ahead + np.sqrt(max(1 - cosine**2, 0.0)) * aside
    flex = np.pi - np.arccos(np.clip((a * a + b * b - reach * reach) / (2 * a * b), -1, 1))
    return elbow, reach * ahead - a * elbow, float(np.degrees(flex))


def _frame(direction, aside) -> np.ndarray:
    """Columns: the direction, the part of `aside` across it, and their product."""
    x = direction / np.linalg.norm(direction)
    y = aside - (aside @ x) * x
    if np.linalg.norm(y) < 1e-3:
        y = np.array([0.0, 0.0, 1.0]) - x[2] * x
    y = y / np.linalg.norm(y)
    return np.stack([x, y, np.cross(x, y)], axis=1)


def _hand(rng, side: str, build: Build, turns, place) -> None:
    """Fingers curl about the axis about which they are curled at rest."""
    curl = np.radians(np.clip(rng.normal(18, 25), -5, 75))
    for finger in FINGERS:
        joints = [place[f"{side}_{finger}{i}"] for i in (1, 2, 3)]
        first, second, third = build.joints[joints]
        axis = np.cross(second - first, third - second)
        if np.linalg.norm(axis) < 1e-9:
            continue
        for joint in joints:
            turns[joint] = rotation(axis, max(curl + np.radians(rng.normal(0, 6)), -0.1))
