"""From a person's numbers to the arrays that `render.render_figure` draws."""

from __future__ import annotations

import numpy as np

from data_pipelines.detector_faces import bust, shells
from data_pipelines.detector_faces.figure import (
    BUN,
    BUST,
    CURTAIN,
    FRONT,
    RINGS,
    Figure,
    turned,
)
from data_pipelines.detector_faces.glasses import glasses_faces, glasses_mesh
from data_pipelines.detector_faces.look import Look

GLASSES = glasses_faces()


def _normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    corners = vertices[faces]
    face = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    total = np.stack(
        [
            np.bincount(faces.ravel(), np.repeat(face[:, i], 3), minlength=len(vertices))
            for i in range(3)
        ],
        1,
    )
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-9)


class Dresser:
    """Host copies of what every scene of a figure needs."""

    def __init__(self, figure: Figure):
        self.figure = figure
        self.rest = np.asarray(figure.rest, np.float64)
        self.rim, self.rim_ids = np.asarray(figure.rim, np.float64), np.asarray(figure.rim_ids)
        self.own_rim = bool((self.rim_ids >= len(self.rest)).any())
        self.follow = np.asarray(figure.follow, np.float64)
        self.faces = np.asarray(figure.faces)
        material = np.asarray(figure.material)
        self.body_faces = self.faces[material <= BUST]
        surface = figure.head.surface
        inner = sum(np.asarray(surface[k]) for k in ("eye", "teeth", "gums", "mouth")) > 0.5
        self.outer = np.flatnonzero(~inner)
        self.above = np.flatnonzero(~inner & (self.rest[:, 1] > -85))
        scalp = self.rest[np.asarray(surface["scalp"]) > 0.5]
        low, high = scalp.min(0), scalp.max(0)
        self.middle, self.half = (low + high) / 2, np.maximum((high - low) / 2, 1.0)
        ears = np.asarray(surface["ears"])[: len(self.rest)] > 0.5
        left = self.rest[:, 0] > 0
        self.ears = [np.flatnonzero(ears & ~left), np.flatnonzero(ears & left)]
        self.eye = np.asarray(surface["eye"]) > 0.5
        self.balls = [np.flatnonzero(self.eye & ~left), np.flatnonzero(self.eye & left)]

    def dress(
        self,
        rng: np.random.Generator,
        look: Look,
        head: np.ndarray,
        landmarks: np.ndarray,
        turn: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Scene arrays of a person.

        Args:
            rng: of irregularities.
            look: what they wear.
            head: (v, 3) vertices of the head with its hair, of the figure's `rest`, mm.
            landmarks: (68, 3) mm.
            turn: (3,) rotation vector of the body against the head, radians.

        Returns:
            what `render_figure` reads, but for albedo, style, light.
        """
        head = np.asarray(head, np.float64)
        v = len(head)
        rim_now = self.rim if self.own_rim else head[self.rim_ids]
        body_rest = bust.bust_rest(self.rim, look.build)
        fade = (1 - np.arange(1, RINGS + 1) / RINGS)[:, None, None] ** 0.5
        body = (body_rest + fade * (rim_now - self.rim)).reshape(-1, 3)
        body_rest = body_rest.reshape(-1, 3)
        if self.own_rim:
            body, body_rest = (np.concatenate([self.rim, b]) for b in (body, body_rest))
        share = np.concatenate([self.follow, np.ones(len(body))])
        joined = turned(np.concatenate([head, body]), share, turn, bust.PIVOT)
        rest = np.concatenate([self.rest, body_rest])
        normals = _normals(joined, self.body_faces)
        # Clothes and hats lie on the skin.
        depth = bust.neckline_depth(np, rest, look.neckline)
        clothed = np.clip(depth / 6.0, 0, 1) * (rest[:, 1] < -85) * look.garment
        rise = rest[:, 1] - look.hat[0] - look.hat[1] * rest[:, 2]
        hat = np.clip(rise / 8.0, 0, 1) * look.hat[6]
        joined = joined + (clothed + hat * (np.arange(len(joined)) < v))[:, None] * normals
        outer = np.concatenate([self.outer, np.arange(v, len(joined))])
        collar = bust.collar_ring(
            joined[outer], normals[outer], rest[outer], look.neckline, *look.collar
        )
        shell, sheet, knot = self._shells(rng, look, joined, normals, outer)
        extra = np.concatenate([collar, shell, sheet, knot])
        counts = [len(body), len(collar), len(shell), len(sheet), len(knot)]
        is_hair = np.repeat([0.0, 0.0, 1.0, 1.0, 1.0], counts)
        dim = np.ones((CURTAIN[1], 2 * CURTAIN[0]))
        dim[:, CURTAIN[0] :] = 0.35
        tops = np.linspace(0.75, 1.0, FRONT[1])[:, None] * np.ones((1, FRONT[0]))
        dim = np.concatenate(
            [np.ones(counts[0] + counts[1]), dim.ravel(), tops.ravel(), np.ones(counts[4])]
        )
        rest_extra = np.concatenate([body_rest, extra])
        scene = {
            "vertices": np.concatenate([joined, extra]),
            "rest": rest_extra,
            "strands": (rest_extra - self.middle) / self.half,
            "is_hair": is_hair,
            "dim": dim,
            "landmarks": landmarks,
            "neckline": look.neckline,
            "cloth": look.cloth,
            "hat": look.hat,
            "scarf": float(look.scarf),
            "sheet_hat": float(look.peak > 0),
            "shade": look.shade,
            "albedo": look.albedo,
            "style": look.style,
        }
        return scene | self._glasses(rng, look, joined, landmarks)

    def _shells(self, rng, look: Look, joined, normals, outer):
        around = shells.Surround(joined[self.above])
        shell = np.zeros((2 * CURTAIN[0] * CURTAIN[1], 3))
        if look.long_hair is not None:
            grid = shells.curtain(rng, around, *look.long_hair)
            columns = CURTAIN[0]
            front = grid[:, :columns].reshape(-1, 3)
            moved = shells.pushed_out(front, joined[outer], normals[outer], 5.0)
            shift = (moved - front).reshape(CURTAIN[1], columns, 3)
            shift = shells.smoothed(shells.smoothed(shift, 2, 1), 1, 0)
            shift[0] = 0
            grid[:, :columns] += shift
            grid[:, columns:] += shift[:, ::-1]
            shell = grid.reshape(-1, 3)
        sheet = np.zeros((FRONT[0] * FRONT[1], 3))
        if look.peak > 0:
            height = look.hat[0] + look.hat[1] * 85.0 + 2.0
            sheet = shells.peak(rng, around, height, look.peak).reshape(-1, 3)
        elif look.fringe is not None:
            sheet = shells.fringe(rng, around, *look.fringe).reshape(-1, 3)
        knot = np.zeros((BUN[0] * BUN[1], 3))
        if look.bun is not None:
            place = look.bun[:3] * (1 + look.bun[3] / 200)
            knot = shells.bun(np.array([0.0, 50.0, 0.0]) + place, look.bun[3]).reshape(-1, 3)
        return shell, sheet, knot

    def _glasses(self, rng, look: Look, joined, landmarks):
        faces, lens = GLASSES
        ears = np.stack([_resting_place(joined, ids) for ids in self.ears])
        frame = look.frame
        optics = np.zeros(6)
        colour = np.zeros(3)
        if frame is not None:
            optics = np.concatenate(
                [frame["tint"], [frame["opacity"], frame["glare"], rng.uniform(0, 6.3)]]
            )
            colour = frame["colour"]
        return {
            "glasses": glasses_mesh(frame, landmarks, ears),
            "glasses_faces": faces,
            "glasses_lens": lens,
            "lens": optics,
            "frame": colour,
        }


def _resting_place(vertices: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Where a temple rests on an ear: at its top, next to the head."""
    if not len(ids):
        return np.array([0.0, 30.0, 0.0])
    ear = vertices[ids]
    top = ear[ear[:, 1] > np.quantile(ear[:, 1], 0.75)]
    side = np.sign(top[:, 0].mean())
    x = side * (np.abs(top[:, 0]).min() + 2.0)
    return np.array([x, top[:, 1].mean() + 3.0, np.quantile(top[:, 2], 0.4)])
