"""How well a prior draws unseen people of its head model, with known codes: surface error in mm.

    python -m experiments.implicit_deformation.held_out --model ict_head.npz --people 64

Random identities and expressions that training cannot have seen (another seed); |s| / |gradient| at
area-uniform points of the canonical box, all of them and those within 95 mm of the nose tip; what
no view shows (`data_pipelines.head_exposure`) counts with `--hidden` only. The baseline is the mean
head: the same points against the reference surface. Codes are the model's coefficients, so this
measures the networks alone (nothing is fitted).
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import head_points
from experiments.implicit_deformation.batches import pad
from experiments.implicit_deformation.objectives import point_errors
from jaxrecon.errors import InputError
from jaxrecon.models.parametric.face import load_face_model
from jaxrecon.pipelines import implicit_deformation as pipeline


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Measure a prior on unseen people."""

    model: pathlib.Path
    """The head model it was trained on."""
    weights: pathlib.Path | None = None
    """Weights without suffix; the released ones if not given."""
    people: int = 64
    """How many; each with a random expression."""
    points: int = 2000
    """Surface points of each."""
    hidden: bool = False
    """Count hidden surface too: backs of eyeballs, folds of lids and lips."""
    seed: int = 987_654
    """Of the people; training uses small seeds."""


def main(arguments: Arguments) -> int:
    """Print one JSON line; exit code."""
    try:
        prior = pipeline.load_prior(arguments.weights)
        face = load_face_model(arguments.model)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    net, sample = prior.config, head_points.SampleConfig(heads=1, surface=arguments.points)
    sample = dataclasses.replace(sample, face_density=1.0, volume=2, hidden=arguments.hidden)
    identities = min(net.id_dim, face.identity.shape[0])
    sampler = head_points.make_sampler(face, sample, identities)

    @jax.jit
    def measure(key):
        k_codes, k_points = jax.random.split(key)
        identity, expression = head_points.sample_codes(sampler, sample, k_codes)
        vertices = head_points.canonical_vertices(sampler, identity, expression)
        batch = head_points.sample_points(sampler, sample, k_points, vertices)
        code = jnp.concatenate([pad(identity, net.id_dim), pad(expression, net.exp_dim)])
        near = jnp.linalg.norm(batch["points"] - vertices[sampler.landmarks[30]][None], axis=1)
        results = []
        for z in (code, None):
            error, cosine = point_errors(net, prior.params, z, batch["points"], batch["normals"])
            error = prior.unit_mm * error
            results += [error, cosine]
        return (near * prior.unit_mm < 95.0, *results)

    keys = jax.random.split(jax.random.key(arguments.seed), arguments.people)
    near, error, cosine, mean_error, _ = (
        np.stack(x) for x in zip(*map(measure, keys), strict=True)
    )
    line = {"people": arguments.people, "points": int(error.size)}
    for name, chosen in (("head", np.ones_like(near)), ("face", near)):
        line |= {
            f"{name}_mean_mm": round(float(error[chosen].mean()), 3),
            f"{name}_median_mm": round(float(np.median(error[chosen])), 3),
            f"{name}_normal_cosine": round(float(cosine[chosen].mean()), 4),
            f"{name}_mean_head_mm": round(float(mean_error[chosen].mean()), 3),
        }
    print(json.dumps(line))
    return 0


if __name__ == "__main__":
    import tyro

    sys.exit(main(tyro.cli(Arguments)))
