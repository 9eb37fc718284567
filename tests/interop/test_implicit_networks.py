"""IDR's and i3DMM's networks against recordings of the originals and their formulas in NumPy."""

import functools
import hashlib
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.cli import main
from jaxrecon.cli.import_checkpoint import ImportCheckpoint
from jaxrecon.errors import InputError
from jaxrecon.geometry.extraction import extract
from jaxrecon.geometry.gradients import eikonal, value_and_gradient
from jaxrecon.interop.checkpoints import NETWORKS
from jaxrecon.interop.implicit_networks import (
    IMPORTERS,
    idr_config,
    idr_rendering_inputs,
    idr_rendering_network,
    import_i3dmm_reference,
    import_idr_implicit,
    import_idr_rendering,
    network_field,
)
from jaxrecon.interop.state_dicts import read_npz
from jaxrecon.interop.weights import config_from_dict, load_weights
from jaxrecon.models.implicit import MLPConfig, evaluate, fold, idr_network, init_mlp

PARITY = pathlib.Path(__file__).parents[1] / "parity"
SMALL = np.load(PARITY / "idr_implicit_small.npz")
GROUPS = ("small_pe6_skip", "small_nope_noskip", "small_nowave_nown")


def _state_dict(fixture, group: str) -> dict[str, np.ndarray]:
    prefix = f"{group}/sd/"
    return {k.removeprefix(prefix): fixture[k] for k in fixture.files if k.startswith(prefix)}


def _idr(fixture, group: str) -> MLPConfig:
    """The configuration that a fixture states."""
    cfg = json.loads(str(fixture[f"{group}/cfg"]))
    return idr_network(
        hidden=tuple(cfg["dims"]),
        features=cfg["feature_vector_size"],
        bands=cfg["multires"],
        skip=tuple(cfg["skip_in"]),
        weight_norm=cfg["weight_norm"],
        geometric=cfg["geometric_init"],
        radius=cfg["bias"],
    )


@functools.partial(jax.jit, static_argnums=0)
def _quantities(config, parameters, points):
    """Outputs, spatial gradients, the Eikonal term; its gradients by parameter (second order)."""

    def term(parameters):
        layers = fold(parameters)

        def level_set(x):
            out = evaluate(config, layers, x)
            return out[:, 0], out

        _, gradients, out = value_and_gradient(level_set, points, has_aux=True)
        return eikonal(gradients), (out, gradients)

    (value, (out, gradients)), by_parameter = jax.value_and_grad(term, has_aux=True)(parameters)
    return {"out": out, "grad": gradients, "eik": value}, by_parameter


_OURS = {"weight_v": "kernel", "weight": "kernel", "weight_g": "scale", "bias": "bias"}


def _check_parity(fixture, group: str, double: bool, suffix: str) -> None:
    config = _idr(fixture, group)
    dtype, rtol, atol = (np.float64, 0, 1e-10) if double else (np.float32, 1e-4, 1e-5)
    with jax.enable_x64(double):
        parameters = import_idr_implicit(_state_dict(fixture, group), config)
        parameters = jax.tree.map(lambda x: x.astype(dtype), parameters)
        values, gradients = _quantities(config, parameters, jnp.asarray(fixture["pts"], dtype))
    for name, value in values.items():
        assert value.dtype == dtype
        np.testing.assert_allclose(
            value, fixture[f"{group}/{name}_{suffix}"], rtol=rtol, atol=atol, err_msg=name
        )
    compared = 0
    for key in fixture.files:
        owner, _, parameter = key.rpartition("/")
        if not parameter.startswith("lin") or not owner.startswith(f"{group}/eikgrad"):
            continue
        layer, name = parameter.split(".")
        ours = np.asarray(gradients[f"layer_{layer.removeprefix('lin')}"][_OURS[name]])
        if owner == f"{group}/eikgrad_norm_{suffix}":
            reference, ours = fixture[key], np.linalg.norm(ours)
        elif owner == f"{group}/eikgrad_{suffix}":
            reference = fixture[key].reshape(-1) if name == "weight_g" else fixture[key].T
        else:
            continue
        tolerance = 1e-10 if double else 1e-4
        error = np.abs(ours - reference).max() / np.abs(reference).max()
        assert ours.shape == reference.shape and error < tolerance, (key, error)
        compared += 1
    assert compared >= 2 * len(config.shapes())


@pytest.mark.parametrize("double", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize("group", GROUPS)
def test_idr_parity(group, double):
    _check_parity(SMALL, group, double, "f64")


@pytest.mark.parametrize("double", [False, True], ids=["float32", "float64"])
def test_idr_parity_of_the_published_size(shared, double):
    fixture = np.load(shared / "parity" / "idr_implicit_full.npz")
    _check_parity(fixture, "full", double, "f64" if double else "f32")


@pytest.mark.parametrize("double", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize("group", GROUPS)
def test_idr_parity_of_the_complete_fixture(shared, group, double):
    fixture = np.load(shared / "parity" / "idr_implicit_small.npz")
    _check_parity(fixture, group, double, "f64" if double else "f32")


@pytest.mark.parametrize("group", GROUPS)
def test_idr_configurations_follow_from_shapes(group):
    expected, found = _idr(SMALL, group), idr_config(_state_dict(SMALL, group))
    for name in ("hidden", "out", "encoding", "skip", "weight_norm", "activation", "extra"):
        assert getattr(found, name) == getattr(expected, name), name
    assert found.shapes() == expected.shapes()


def test_imported_parameters_have_the_layout_of_fresh_ones(key):
    for group in GROUPS:
        config = _idr(SMALL, group)
        imported = import_idr_implicit(_state_dict(SMALL, group), config)
        fresh = jax.eval_shape(functools.partial(init_mlp, config=config), key)
        assert jax.tree.map(jnp.shape, imported) == jax.tree.map(lambda x: x.shape, fresh)


def test_idr_misfits_are_named():
    state_dict = _state_dict(SMALL, "small_pe6_skip")
    config = _idr(SMALL, "small_pe6_skip")
    with pytest.raises(InputError, match="lin4.bias is missing"):
        import_idr_implicit({k: v for k, v in state_dict.items() if k != "lin4.bias"}, config)
    with pytest.raises(InputError, match="lin9.bias"):
        import_idr_implicit(state_dict | {"lin9.bias": np.zeros(3)}, config)
    with pytest.raises(InputError, match="weight_norm is True"):
        plain = _idr(SMALL, "small_nowave_nown")
        normed = idr_network(plain.hidden, plain.out - 1, plain.encoding.bands, plain.skip)
        import_idr_implicit(_state_dict(SMALL, "small_nowave_nown"), normed)
    with pytest.raises(InputError, match=r"lin1.bias is float32 of shape \(25,\)"):
        import_idr_implicit(state_dict, idr_network((64,) * 4, 16, 6, skip=()))
    with pytest.raises(InputError, match=r"lin0 sees 3 \+ 6 n"):
        idr_config({f"lin{i}.weight": np.zeros(s) for i, s in enumerate([(8, 4), (1, 8)])})


# ---------------------------------------------------------------- IDR's rendering network


def _linear(rng, name, inputs, outputs) -> dict[str, np.ndarray]:
    return {
        f"{name}.weight_g": rng.uniform(0.5, 1.5, (outputs, 1)).astype(np.float32),
        f"{name}.weight_v": rng.standard_normal((outputs, inputs)).astype(np.float32),
        f"{name}.bias": rng.standard_normal(outputs).astype(np.float32),
    }


def _encoding(x, bands):
    parts = [x] + [f(2.0**k * x) for k in range(bands) for f in (np.sin, np.cos)]
    return np.concatenate(parts, -1)


def _normed(state_dict, name, h):
    """A weight-normed linear layer in float64."""
    g, v, b = (state_dict[f"{name}.{k}"].astype(float) for k in ("weight_g", "weight_v", "bias"))
    return h @ (g * v / np.linalg.norm(v, axis=1, keepdims=True)).T + b


def test_idr_rendering_network(rng):
    features, width = 6, 3 + 27 + 3 + 6
    state_dict = {}
    for i, (a, b) in enumerate([(width, 32), (32, 32), (32, 3)]):
        state_dict |= _linear(rng, f"lin{i}", a, b)
    points, views, gradients = rng.standard_normal((3, 9, 3))
    features = rng.standard_normal((9, features))
    h = np.concatenate([points, _encoding(views, 4), gradients, features], -1)
    for i in range(3):
        h = _normed(state_dict, f"lin{i}", h)
        h = np.maximum(h, 0) if i < 2 else np.tanh(h)
    config = idr_rendering_network(hidden=(32, 32), features=6)
    parameters = import_idr_rendering(state_dict, config)
    extra = idr_rendering_inputs(*(x.astype(np.float32) for x in (views, gradients, features)))
    colours = evaluate(config, fold(parameters), jnp.float32(points), extra)
    np.testing.assert_allclose(colours, h, atol=1e-5)
    # the published one
    assert idr_rendering_network().shapes() == [(289, 512), *[(512, 512)] * 3, (512, 3)]


def test_idrs_whole_model_is_imported(rng):
    implicit = _state_dict(SMALL, "small_nope_noskip")
    whole = {f"module.implicit_network.{k}": v for k, v in implicit.items()}
    for i, (a, b) in enumerate([(3 + 15 + 3 + 8, 32), (32, 3)]):
        whole |= _linear(rng, f"module.rendering_network.lin{i}", a, b)
    networks = IMPORTERS["idr"](whole)
    assert set(networks) == {"implicit", "rendering"}
    config, parameters = networks["rendering"]
    assert config == idr_rendering_network(hidden=(32,), features=8, view_bands=2)
    assert parameters["layer_0"]["kernel"].shape == (29, 32)
    alone = IMPORTERS["idr"](implicit)["implicit"]
    assert alone[0] == networks["implicit"][0]
    assert jax.tree.all(jax.tree.map(np.array_equal, alone[1], networks["implicit"][1]))
    with pytest.raises(InputError, match="embed_fn"):
        IMPORTERS["idr"](whole | {"module.embed_fn": np.zeros(3)})
    with pytest.raises(InputError, match="mode 'idr'"):
        IMPORTERS["idr"](whole | _linear(rng, "module.rendering_network.lin1", 32, 4))


# ---------------------------------------------------------------- i3DMM's reference network


def _reference(state_dict, points):
    """i3DMM's reference network as it is published: padded input, norms over all its columns."""
    h = np.concatenate([_encoding(points, 6), np.zeros((len(points), 512 - 39))], -1)
    for i in range(3):
        h = np.maximum(_normed(state_dict, f"lin_sdf{i}", h), 0)
    weight = state_dict["lin_sdf3.weight"].astype(float)
    return np.tanh(h @ weight.T + state_dict["lin_sdf3.bias"])[:, 0]


@pytest.fixture(scope="module")
def random_reference():
    """A state dict of that size with random weights."""
    rng = np.random.default_rng(3)
    state_dict = {}
    for i in range(3):
        state_dict |= _linear(rng, f"lin_sdf{i}", 512, 512)
    weight = 0.05 * rng.standard_normal((1, 512))
    return state_dict | {"lin_sdf3.weight": weight, "lin_sdf3.bias": np.full(1, 0.1)}


def test_i3dmm_reference_with_random_weights(random_reference, rng):
    points = rng.uniform(-1, 1, (64, 3))
    config, parameters = import_i3dmm_reference(
        {f"module.{k}": v for k, v in random_reference.items()}
    )
    assert parameters["layer_0"]["kernel"].shape == (39, 512)
    values = network_field(config, parameters)(jnp.float32(points))
    np.testing.assert_allclose(values, _reference(random_reference, points), atol=2e-5)
    with pytest.raises(InputError, match="lin_sdf2.bias is missing"):
        import_i3dmm_reference({k: v for k, v in random_reference.items() if k != "lin_sdf2.bias"})
    with pytest.raises(InputError, match="lin_sdf4.bias"):
        import_i3dmm_reference(random_reference | {"lin_sdf4.bias": np.zeros(1)})


def test_fields_of_one_configuration_compile_once(random_reference):
    config, parameters = import_i3dmm_reference(random_reference)
    traced = []

    @jax.jit
    def call(shape, x):
        traced.append(1)
        return shape(x)

    x = jnp.zeros((2, 3))
    first = call(network_field(config, parameters), x)
    again = import_i3dmm_reference(random_reference | {"lin_sdf3.bias": np.full(1, 0.3)})
    assert not np.array_equal(first, call(network_field(*again), x)) and len(traced) == 1


def test_i3dmm_pretrained_head(shared, tmp_path, capsys):
    import trimesh

    path = shared / "parity" / "i3dmm_ref_pretrained_weights.npz"
    config, parameters = import_i3dmm_reference(read_npz(path))
    head = network_field(config, parameters)
    points = np.random.default_rng(0).uniform(-1, 1, (1000, 3))
    values = np.asarray(head(jnp.float32(points)))
    assert np.isfinite(values).all()
    np.testing.assert_allclose(values, _reference(read_npz(path), points), atol=1e-5)
    # The head lies around the origin, within a radius of 0.75.
    assert float(head(jnp.zeros((1, 3)))[0]) < -0.1
    assert (values[np.linalg.norm(points, axis=1) > 0.75] > 0).all()
    mesh, stats = extract(head, 96)
    assert stats.open_faces == 0
    parts = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).split(only_watertight=False)
    largest = max(parts, key=lambda part: len(part.faces))
    assert largest.is_watertight and len(largest.faces) > 0.95 * len(mesh.faces)
    size = np.ptp(largest.vertices, axis=0)  # width, height, depth; the height includes a neck
    assert 0.3 < size[0] < 0.5 and 0.6 < size[1] < 0.8 and 0.6 < size[2] < 0.85
    assert 0.07 < largest.volume < 0.13

    # the command line writes what the function returns
    out = tmp_path / "new" / "reference"
    arguments = ["import-checkpoint", str(path), "--network", "i3dmm-reference", "--out", str(out)]
    assert main.main(arguments) == 0
    # 790,017 parameters less the padding's and the resolved norms'
    assert "546,305 parameters" in capsys.readouterr().out
    tree, header = load_weights(out)
    assert config_from_dict(MLPConfig, header["config"]["reference"]) == config
    assert jax.tree.all(jax.tree.map(np.array_equal, tree["params"]["reference"], parameters))


# ---------------------------------------------------------------- the command


def _import(*arguments) -> int:
    return main.main(["import-checkpoint", *map(str, arguments)])


def test_import_checkpoint(tmp_path, capsys):
    source, out = tmp_path / "idr.npz", tmp_path / "new" / "folder" / "idr"
    state_dict = _state_dict(SMALL, "small_pe6_skip")
    np.savez(source, specs=np.array("{}"), **{f"module.{k}": v for k, v in state_dict.items()})
    assert _import(source, "--network", "idr", "--out", f"{out}.safetensors") == 0
    text = capsys.readouterr().out
    size = sum(v.size for v in state_dict.values())
    assert f"idr implicit: {size:,} parameters" in text and "specs" in text and str(out) in text
    assert sorted(p.name for p in out.parent.iterdir()) == ["idr.json", "idr.safetensors"]
    tree, header = load_weights(out)
    assert header["network"] == "idr" and header["source"]["file"] == "idr.npz"
    assert header["source"]["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    config = config_from_dict(MLPConfig, header["config"]["implicit"])
    assert config == idr_config(state_dict)
    parameters = jax.tree.map(jnp.asarray, tree["params"]["implicit"])
    values = evaluate(config, fold(parameters), jnp.asarray(SMALL["pts"]))
    np.testing.assert_allclose(values, SMALL["small_pe6_skip/out_f64"], rtol=1e-4, atol=1e-5)


def test_import_a_checkpoint_of_torch(tmp_path, capsys):
    """IDR's latest.pth: {epoch, model_state_dict} with the prefixes of DataParallel."""
    from tests.interop.foreign_files import mapping, number, storage, tensor, zip_container

    state = {
        f"module.implicit_network.{k}": np.asarray(v, np.float32)
        for k, v in _state_dict(SMALL, "small_pe6_skip").items()
    }
    tensors = {
        k: tensor(storage(str(i), v.size), v.shape) for i, (k, v) in enumerate(state.items())
    }
    value = mapping(epoch=number(2000), model_state_dict=mapping(**tensors))
    storages = [(str(i), v.tobytes()) for i, v in enumerate(state.values())]
    (tmp_path / "latest.pth").write_bytes(zip_container(value, storages))
    out = tmp_path / "idr"
    assert _import(tmp_path / "latest.pth", "--network", "idr", "--out", out) == 0
    assert "left out, as no weights: epoch" in capsys.readouterr().out
    tree, header = load_weights(out)
    assert "MIT" in header["licence"] and "lioryariv/idr" in header["source"]["authors"]
    config = config_from_dict(MLPConfig, header["config"]["implicit"])
    parameters = jax.tree.map(jnp.asarray, tree["params"]["implicit"])
    values = evaluate(config, fold(parameters), jnp.asarray(SMALL["pts"]))
    np.testing.assert_allclose(values, SMALL["small_pe6_skip/out_f64"], rtol=1e-4, atol=1e-5)


def test_import_checkpoint_refuses(tmp_path, capsys):
    def refused(message, *arguments):
        assert _import(*arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error

    out = tmp_path / "out"
    torch, objects, source = (tmp_path / n for n in ("a.pth", "objects.npz", "idr.npz"))
    torch.write_bytes(b"\x80\x02")  # cut short
    np.savez(objects, a=np.array([{}], object))
    np.savez(source, **_state_dict(SMALL, "small_nope_noskip"))
    refused("its pickle is truncated", torch, "--network", "idr", "--out", out)
    refused("objects", objects, "--network", "idr", "--out", out)
    refused("no such file", tmp_path / "no.npz", "--network", "idr", "--out", out)
    refused("lin_sdf0", source, "--network", "i3dmm-reference", "--out", out)
    refused("--out", source, "--network", "idr", "--out", torch / "out")
    refused("--out", source, "--network", "idr", "--out", tmp_path / ".safetensors")
    refused("--out", source, "--network", "idr", "--out", tmp_path / "..")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pth", "idr.npz", "objects.npz"]
    with pytest.raises(SystemExit) as stop:
        _import(source, "--network", "resnet", "--out", out)
    assert stop.value.code == 2


def test_the_command_offers_every_importer():
    import typing

    offered = typing.get_args(typing.get_type_hints(ImportCheckpoint)["network"])
    assert set(offered) == set(NETWORKS) > set(IMPORTERS)
