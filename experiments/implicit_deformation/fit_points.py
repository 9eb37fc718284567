"""How well a prior draws unseen people whose codes were fitted to 3D points: surface error in mm.

    python -m experiments.implicit_deformation.fit_points --model ict_head.npz
    python -m experiments.implicit_deformation.fit_points --model ict_head.npz --components 10,50

People of the model that training cannot have drawn (another seed), two expressions each. Points and
normals of the seen surface give the codes (`fitting.points`, one z_id a person); fresh area-uniform
points of the true surface measure, against the extracted mesh and, without extraction, by
|s| / |gradient|. `head` is all of the canonical box, `face` lies within 95 mm of the nose tip. Each
is reported for all points of the model's outer skin and eyeballs, and for the `seen` ones: the
backs of eyeballs and the folds of lids and lips are hidden in any closed head (surface_error.py).
The baseline is the model's mean head, not aligned. `lost` counts extractions that find no surface,
or whose largest part misses a tenth of the seen head or face by over 10 mm.

The second command repeats the fit with the first K identity components, those that move the surface
most, and prints the held-out error of each K beside the linear model's own truncation error.
"""

from __future__ import annotations

import json
import sys
import time

import jax.numpy as jnp
import numpy as np

from experiments.implicit_deformation import components, surface_error
from experiments.implicit_deformation.people import (
    Arguments,
    Person,
    Tally,
    coefficient_codes,
    draw_person,
    field_error,
    fit_person,
    make_sampler,
    show_progress,
)
from experiments.implicit_deformation.surface_error import TruePoints
from jaxrecon.errors import InputError
from jaxrecon.fitting.problem import FieldFunctions
from jaxrecon.geometry.distances import point_to_surface
from jaxrecon.geometry.extraction import extract
from jaxrecon.geometry.mesh import face_components, largest_component, sample_surface
from jaxrecon.geometry.mesh_writers import write_whole
from jaxrecon.models.parametric.face import LinearFaceModel, load_face_model
from jaxrecon.pipelines.priors import Prior, load_prior
from jaxrecon.types import Mesh, field

LOST_MM, LOST_SHARE = 10.0, 0.1


def extract_head(
    functions: FieldFunctions, params: dict, z_id, z_exp, resolution: int
) -> tuple[Mesh | None, int]:
    """(largest part of the zero level set in the box, number of parts); None without a surface."""
    conditioning = functions.condition(params, z_id, z_exp)
    try:
        mesh, _ = extract(field(functions.level_set, conditioning), resolution)
    except InputError:
        return None, 0
    parts = len(np.unique(face_components(mesh.faces, len(mesh.vertices))))
    return largest_component(mesh), parts


def is_lost(truth: TruePoints, distance: np.ndarray) -> bool:
    """Whether a mesh misses more than a tenth of the seen head, or face, by over 10 mm."""
    far = distance > LOST_MM
    places = (truth.seen, truth.seen & truth.face)
    return any(bool(p.any()) and float(far[p].mean()) > LOST_SHARE for p in places)


def measure(arguments: Arguments, prior: Prior, face: LinearFaceModel) -> dict:
    """Fit, extract and measure all people: numbers as they are printed."""
    sampler = make_sampler(prior, face)
    mean = Mesh(np.asarray(sampler.mean, np.float64), np.asarray(face.faces, np.int64))
    tally, back, spent = Tally(), [], np.zeros(2)
    lost, parts, began = 0, [], time.monotonic()
    for number in range(arguments.people):
        person = draw_person(arguments, face, sampler, prior.unit_mm, number)
        clock = time.monotonic()
        fit = fit_person(arguments, prior, person)
        spent += [time.monotonic() - clock, 0]
        for i, (truth, true_mesh) in enumerate(zip(person.truths, person.meshes, strict=True)):
            codes = {"field": (fit.z_id, fit.z_exp[i])}
            if coefficient_codes(prior):
                codes["field, known codes"] = _coefficients(prior, person, i)
            for row, z in codes.items():
                tally.add(row, truth, *field_error(prior, z, truth))
            distance, cosine = surface_error.to_mesh(truth, mean)
            tally.add("mean head", truth, prior.unit_mm * distance, cosine)
            if not arguments.resolution:
                continue
            clock = time.monotonic()
            mesh, count = extract_head(
                prior.functions, prior.params, *codes["field"], arguments.resolution
            )
            spent += [0, time.monotonic() - clock]
            parts.append(count)
            if mesh is None:
                lost += 1
                continue
            distance, cosine = surface_error.to_mesh(truth, mesh)
            distance *= prior.unit_mm
            lost += is_lost(truth, distance)
            tally.add("mesh", truth, distance, cosine)
            nose = true_mesh.vertices[int(sampler.landmarks[30])]
            back.append(_reverse(mesh, true_mesh, nose, arguments.measured // 4, prior.unit_mm))
        show_progress(number + 1, arguments.people, began)
    numbers = {
        "people": arguments.people,
        "expressions": arguments.expressions,
        "points": arguments.points,
        "resolution": arguments.resolution,
        "fit_seconds_a_person": round(spent[0] / arguments.people, 2),
        "rows": tally.numbers(),
    }
    if parts:
        numbers |= {
            "lost": int(lost),
            "parts_max": int(max(parts)),
            "extraction_seconds": round(spent[1] / len(parts), 2),
        }
    if back:
        error, near = (np.concatenate(x) for x in zip(*back, strict=True))
        numbers["mesh_to_truth"] = {
            "head": surface_error.statistics(error),
            "face": surface_error.statistics(error[near]),
        }
    return numbers


def _coefficients(prior: Prior, person: Person, row: int):
    def fill(values, width):
        return jnp.asarray(np.pad(values[:width], (0, max(0, width - len(values)))), jnp.float32)

    net = prior.config
    return fill(person.identity, net.id_dim), fill(person.expressions[row], net.exp_dim)


def _reverse(mesh: Mesh, truth: Mesh, nose: np.ndarray, count: int, unit_mm: float):
    """(distances (mm) of area-uniform points of a reconstruction to the true surface, whether they
    lie on the face).
    """
    drawn = sample_surface(mesh.vertices, mesh.faces, 0, count).points
    near = np.linalg.norm(drawn - nose[None], axis=1) * unit_mm < surface_error.FACE_MM
    return unit_mm * point_to_surface(drawn, truth)[0], near


def table(numbers: dict) -> list[str]:
    """The numbers as lines of text, with the ratio of the mean head's error to each row's."""
    names = ("head", "head_seen", "face", "face_seen")
    lines = [f"{'':20} " + " ".join(f"{n + ' mean/median/p95 mm, cos, ratio':>44}" for n in names)]
    for row, values in numbers["rows"].items():
        cells = []
        for name in names:
            own, mean = values[name], numbers["rows"]["mean head"][name]
            ratio = mean["mean_mm"] / own["mean_mm"]
            text = f"{own['mean_mm']:.3f}/{own['median_mm']:.3f}/{own['p95_mm']:.3f}"
            cells.append(f"{text}, {own['normal_cosine']:.4f}, {ratio:.1f}x")
        lines.append(f"{row:20} " + " ".join(f"{c:>44}" for c in cells))
    if "mesh_to_truth" in numbers:
        back = numbers["mesh_to_truth"]
        lines.append(
            f"mesh to truth, head and face: mean {back['head']['mean_mm']:.3f} and "
            f"{back['face']['mean_mm']:.3f}, median {back['head']['median_mm']:.3f} and "
            f"{back['face']['median_mm']:.3f} mm; "
            f"lost {numbers['lost']}, at most {numbers['parts_max']} parts"
        )
    return lines


def main(arguments: Arguments) -> int:
    """Print a table and one JSON line; exit code."""
    try:
        prior = load_prior(arguments.weights)
        face = load_face_model(arguments.model)
        if arguments.components is None:
            numbers = measure(arguments, prior, face)
            lines = table(numbers)
        else:
            variance = components.variance_components(face)
            records = components.compare_components(arguments, prior, face)
            numbers = {"components_at_96_percent": variance, "components": records}
            lines = components.components_table(records, variance)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(lines))
    text = json.dumps(rounded(numbers))
    print(text)
    if arguments.out is not None:
        write_whole(arguments.out, (text + "\n").encode())
    return 0


def rounded(value):
    """Numbers with five significant digits, in dicts and lists."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


if __name__ == "__main__":
    from experiments.command_line import parse

    sys.exit(main(parse(Arguments)))
