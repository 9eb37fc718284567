"""What a training run records and refuses, its options, the people it is measured on, and what it
needs installed.
"""

import dataclasses
import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from data_pipelines.head_points import SampleConfig
from data_pipelines.synthetic_head import synthetic_head, write_synthetic_head
from experiments.command_line import parse_plainly
from experiments.implicit_deformation import config as presets
from experiments.implicit_deformation import objectives, train
from experiments.implicit_deformation.config import PRESETS, SEEDS, TrainConfig
from jaxrecon.errors import InputError
from jaxrecon.interop.weights import config_from_dict

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
TINY = PRESETS["tiny"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_synthetic_head(tmp_path_factory.mktemp("model") / "head.npz")


@pytest.fixture(scope="module")
def other_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "other.npz"
    arrays = synthetic_head()
    np.savez(path, **arrays | {"v_mean": arrays["v_mean"] + np.float32(1)})
    return path


def test_a_run_names_its_model_and_takes_no_other(model, other_model, tmp_path, capsys):
    out = tmp_path / "run"
    arguments = train.Arguments(model=model, out=out, preset="tiny", devices=1, minutes=0.0)
    assert train.main(arguments) == 130  # the time is up before the first step
    assert "call again" in capsys.readouterr().err
    described = json.loads((out / "run.json").read_text())
    assert described["model"] == "head.npz" and len(described["model_sha256"]) == 64
    text = (out / "config.json").read_text()
    assert config_from_dict(TrainConfig, json.loads(text)) == TINY
    assert (out / "reference" / "0").is_dir()  # saved all the same

    assert train.main(dataclasses.replace(arguments, model=other_model)) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in ("other.npz", "head.npz", described["model_sha256"]))
    assert json.loads((out / "run.json").read_text()) == described
    # The same file by another name is the same model.
    again = tmp_path / "renamed.npz"
    again.write_bytes(model.read_bytes())
    train.record(TINY, again, out)

    (out / "run.json").write_text("{}")
    with pytest.raises(InputError, match="damaged"):
        train.require_model(out / "run.json", model)


def test_a_run_without_a_model_records_nothing(tmp_path):
    (tmp_path / "broken.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match="broken"):
        train.record(TINY, tmp_path / "broken.npz", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("seed", [-1, SEEDS])
def test_seeds_are_below_those_of_people_to_measure_on(model, tmp_path, seed, capsys):
    arguments = train.Arguments(model=model, out=tmp_path / "run", preset="tiny", seed=seed)
    assert train.main(arguments) == 2 and f"seed is {seed}" in capsys.readouterr().err
    with pytest.raises(InputError, match="seed"):
        stored = json.loads(json.dumps(dataclasses.asdict(TINY)))
        config_from_dict(TrainConfig, stored | {"seed": seed})
    assert objectives.HELD_OUT_SEED >= SEEDS == presets.SEEDS


def test_held_out_people_are_many_and_the_same_in_every_run(model):
    sampler = train.run_sampler(TINY, model)
    batch = objectives.held_out_batch(TINY, sampler)
    people = np.asarray(batch["z_id"])
    assert len(people) == objectives.HELD_OUT_PEOPLE >= 16
    assert len(np.unique(people[:, :5], axis=0)) == len(people)
    for name in ("points", "normals"):
        assert batch[name].shape == (len(people), objectives.HELD_OUT_POINTS, 3)
    for changed in (dataclasses.replace(TINY, seed=7), TINY):
        again = objectives.held_out_batch(changed, sampler)
        jax.tree.map(np.testing.assert_array_equal, again, batch)


def test_what_each_stage_trains():
    paper = dataclasses.replace(TINY, codes="table")
    trained = {
        (config.codes, name): objectives.stage_objective(config, name).trainable
        for config in (TINY, paper)
        for name in presets.STAGES
    }
    assert trained == {
        ("coefficients", "reference"): ("reference",),
        ("coefficients", "deformation"): ("reference", "deformation"),
        ("coefficients", "rendering"): ("rendering",),
        ("table", "reference"): ("reference",),
        ("table", "deformation"): ("reference", "deformation", "codes"),
        ("table", "rendering"): ("rendering", "colour_codes"),
    }


def test_devices_and_chunks():
    def sample(heads, points=600):
        return SampleConfig(heads=heads, surface=points, volume=0)

    machine = train.Machine()
    mesh = machine.mesh(16)
    assert mesh.size == 8 and machine.parts(sample(16), mesh) == 2
    one = machine.mesh(4)
    assert one.size == 1 and machine.parts(sample(4), one) == 4
    # By default about 500 points a chunk, as far as heads divide; one chunk where there are fewer.
    assert machine.parts(sample(64, 80), train.Machine(devices=1).mesh(64)) == 8
    assert machine.parts(sample(4, 80), one) == 1
    asked = train.Machine(devices=2, chunks=4)
    assert asked.mesh(8).size == 2 and asked.parts(sample(8), asked.mesh(8)) == 4
    assert asked.parts(sample(1), asked.mesh(1)) == 1
    with pytest.raises(InputError, match="--devices 3"):
        train.Machine(devices=3).mesh(8)
    for chunks in (0, 3):
        with pytest.raises(InputError, match=f"--chunks {chunks}"):
            train.Machine(devices=1, chunks=chunks).parts(
                sample(8), train.Machine(devices=1).mesh(8)
            )


def test_command_line_without_tyro():
    given = ["--model", "a.npz", "--out", "b", "--minutes", "9", "--devices", "2"]
    arguments = parse_plainly(train.Arguments, given)
    assert arguments == train.Arguments(
        model=pathlib.Path("a.npz"), out=pathlib.Path("b"), minutes=9.0, devices=2
    )
    for bad in ([], [*given, "--seed", "x"], [*given, "--mod", "c"]):
        with pytest.raises(SystemExit) as stop:
            parse_plainly(train.Arguments, bad)
        assert stop.value.code == 2


def test_training_and_release_need_only_what_an_accelerator_machine_has(model, tmp_path):
    """jax, flax, optax, orbax, numpy, jaxtyping, safetensors."""
    code = (
        "import sys\n"
        "absent = {'trimesh', 'mcubes', 'igl', 'embreex', 'PIL', 'cv2', 'tyro', 'beartype',\n"
        "          'grain', 'tensorflow_datasets'}\n"
        "class Absent:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] in absent:\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from experiments.implicit_deformation import release, train\n"
        "from experiments.command_line import parse\n"
        "model, out = sys.argv[1:]\n"
        "run = ['--model', model, '--out', out + '/run', '--preset', 'tiny', '--minutes', '0']\n"
        "assert train.main(parse(train.Arguments, run)) == 130\n"
        "free = ['--model', model, '--run', out + '/run', '--out', out + '/w']\n"
        "release.SAMPLES = 128\n"
        "assert release.main(parse(release.Arguments, free + ['--dtype', 'float16'])) == 0\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(model), str(tmp_path)],
        cwd=REPOSITORY, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "unfinished" in done.stderr and (tmp_path / "w.safetensors").stat().st_size > 1000
