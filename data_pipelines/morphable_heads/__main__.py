"""Build a data set of rendered heads.

    python -m data_pipelines.morphable_heads --model ict_head.npz --out DIR --identities 200

Interrupt it as you like: the same command goes on.
"""

from __future__ import annotations

import argparse
import dataclasses

from jaxrecon.errors import InputError

HELP = {
    "model": "head model .npz with semantic masks",
    "identities": "people in train",
    "held_out": "people in validation, and as many again in test",
    "expressions": "expressions of each person; each is an example",
    "views": "pictures of each example",
    "size": "height and width, pixels",
    "supersampling": "samples along each side of a pixel, odd",
    "modes": "identity modes of the model that vary",
    "azimuth": "cameras stand within this many degrees of the front",
    "seed": "everything random follows from it",
}


def main(argv: list[str] | None = None) -> None:
    """Command line of this package."""
    from data_pipelines.morphable_heads.examples import PRESETS, HeadsConfig

    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.morphable_heads",
        description=(__doc__ or "").split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    text = (
        "defaults of the other options; paper: 95 people, 8 expressions, 40 views over 180 degrees"
    )
    parser.add_argument("--preset", choices=PRESETS, default="small", help=text)
    for field in dataclasses.fields(HeadsConfig):
        flag, text = f"--{field.name.replace('_', '-')}", HELP[field.name]
        if field.default is dataclasses.MISSING:
            parser.add_argument(flag, required=True, help=text)
        else:
            parser.add_argument(flag, type=type(field.default), default=field.default, help=text)
    parser.add_argument("--out", required=True, help="data folder")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: this one renders")
    parser.add_argument("--keep", action="store_true", help="keep the single rendered files")
    parser.set_defaults(**PRESETS.get(_preset(argv), {}))
    given = vars(parser.parse_args(argv))
    out, workers, keep, _ = (given.pop(name) for name in ("out", "workers", "keep", "preset"))

    import tensorflow_datasets as tfds

    from data_pipelines.morphable_heads.builder import build

    tfds.disable_progress_bar()  # packing takes seconds; rendering shows its own
    try:
        print(build(HeadsConfig(**given), out, workers, keep))
    except InputError as error:
        parser.exit(2, f"error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "\ninterrupted: the same command goes on\n")


def _preset(argv: list[str] | None) -> str:
    """The preset among the options; a wrong one is for the whole parser to refuse."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", default="small")
    name = parser.parse_known_args(argv)[0].preset
    return name


if __name__ == "__main__":
    main()
