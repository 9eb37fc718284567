"""Checkpoints of Deep3D, SPIN and GraphCMR: all of a file is used, or the import fails."""

import dataclasses
import io
import pathlib
import pickle
import zipfile

import jax
import numpy as np
import pytest
import scipy.sparse

from jaxrecon.errors import InputError
from jaxrecon.interop.checkpoints import variables_of
from jaxrecon.interop.mesh_sampling import read_mesh_sampling
from jaxrecon.interop.regressor_networks import (
    IMPORTERS,
    import_deep3d,
    import_graphcmr,
    import_resnet,
    import_spin,
)
from jaxrecon.interop.torch_files import read_checkpoint
from jaxrecon.interop.torch_layers import conv, import_tree, linear, pointwise
from jaxrecon.interop.weights import config_from_dict, load_weights, save_weights
from jaxrecon.models.regressors.coefficients import CoefficientsConfig
from jaxrecon.models.regressors.graph import GraphConfig, ParamConfig, graph_mesh
from jaxrecon.models.regressors.hmr import HMRHead, HMRHeadConfig
from jaxrecon.models.regressors.sparse_rows import multiply
from jaxrecon.models.resnet import ResNetConfig
from tests.models import graph_reference, torch_states

PARITY = pathlib.Path(__file__).parents[1] / "parity"
SMALL = np.load(PARITY / "spin_hmr_head_small.npz")
SPIN = {k.removeprefix("state/"): SMALL[k] for k in SMALL.files if k.startswith("state/")}
TRUNK = torch_states.recipe(torch_states.resnet(18))
WIDTHS = (80, 64, 80, 3, 27, 2, 1)


def _deep3d() -> dict:
    shapes = {}
    for i, width in enumerate(WIDTHS):
        shapes |= {f"final_layers.{i}.weight": (width, 512, 1, 1)}
        shapes |= {f"final_layers.{i}.bias": (width,)}
    trunk = {f"backbone.{k}": v for k, v in TRUNK.items()}
    return {"net_recon": trunk | torch_states.recipe(shapes), "opt_00": {}, "sched_00": {}}


def _graphcmr() -> dict:
    fc = {"resnet.fc.weight": np.zeros((1000, 512)), "resnet.fc.bias": np.zeros(1000)}
    graph = torch_states.recipe(torch_states.graph_cnn(512, 32, 2, 10))
    trunk = {f"resnet.{k}": v for k, v in TRUNK.items()}
    regressor = torch_states.recipe(torch_states.param_regressor(10, 16))
    return {"graph_cnn": trunk | fc | graph, "smpl_param_regressor": regressor, "epoch": 3}


def _equal(a, b) -> bool:
    same = jax.tree.structure(a) == jax.tree.structure(b)
    return same and jax.tree.all(jax.tree.map(np.array_equal, a, b))


@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_both_containers_hold_the_same_network(container):
    checkpoint = read_checkpoint(PARITY / f"torch_ckpt_spin_small_{container}.pt")
    networks = import_spin(checkpoint)
    assert set(networks) == {"head"}  # the recorded trunk is the identity
    config, variables = networks["head"]
    assert config == HMRHeadConfig(features=48, hidden=32)
    assert _equal(variables, import_spin(SPIN)["head"][1])
    for name in ("fc1", "fc2", "decpose", "decshape", "deccam"):
        layer = variables["params"][name]
        np.testing.assert_array_equal(layer["kernel"], SPIN[f"{name}.weight"].T)
        np.testing.assert_array_equal(layer["bias"], SPIN[f"{name}.bias"])
    estimate = HMRHead(config, precision="highest").apply(variables, SMALL["features"])
    np.testing.assert_allclose(estimate.rotations, SMALL["out_rotmat"], atol=1e-5)


def test_prefixes_of_data_parallel_go():
    wrapped = {"model": {f"module.{k}": v for k, v in SPIN.items()}}
    assert _equal(import_spin(wrapped)["head"][1], import_spin(SPIN)["head"][1])


def test_spin_with_a_trunk_needs_one_that_fits():
    assert set(import_spin({"model": TRUNK | _wider(512)})) == {"trunk", "head"}
    with pytest.raises(InputError, match="48 features after a trunk of 512"):
        import_spin({"model": TRUNK | SPIN})


def _wider(features: int) -> dict:
    weight = np.zeros((32, features + 157), np.float32)
    return SPIN | {"fc1.weight": weight}


def test_deep3d():
    checkpoint = _deep3d()
    networks = import_deep3d(checkpoint)
    assert networks["trunk"][0] == ResNetConfig(18)
    config, heads = networks["heads"]
    assert config == CoefficientsConfig(features=512) and config.widths == WIDTHS
    for i, name in enumerate(config.names):
        weight = checkpoint["net_recon"][f"final_layers.{i}.weight"]
        np.testing.assert_array_equal(heads["params"][name]["kernel"], weight[:, :, 0, 0].T)
    assert _equal(import_deep3d(checkpoint["net_recon"]), networks)
    tree = variables_of(networks)
    assert set(tree) == {"params", "batch_stats"} and set(tree["batch_stats"]) == {"trunk"}


def test_graphcmr():
    networks = import_graphcmr(_graphcmr())
    configs = {part: config for part, (config, _) in networks.items()}
    assert configs == {
        "trunk": ResNetConfig(18),
        "graph": GraphConfig(512, 32, 2, 10),
        "regressor": ParamConfig(10, 16),
    }
    # blocks that keep their channels have a shortcut in the file only
    blocks = networks["graph"][1]["params"]
    assert [n for n, b in blocks.items() if "skip_conv" in b] == ["block_0", "shape_0", "shape_1"]


def test_weights_survive_our_files(tmp_path):
    networks = import_graphcmr(_graphcmr())
    header = {"config": {part: dataclasses.asdict(c) for part, (c, _) in networks.items()}}
    save_weights(tmp_path / "gcmr", variables_of(networks), header)
    tree, read = load_weights(tmp_path / "gcmr")
    assert _equal(tree, variables_of(networks))
    for part, cls in (("trunk", ResNetConfig), ("graph", GraphConfig), ("regressor", ParamConfig)):
        assert config_from_dict(cls, read["config"][part]) == networks[part][0]


def _bad_spin():
    nan = SPIN["fc2.bias"].copy()
    nan[3] = np.nan
    return {
        "extra": ({"fc3.weight": nan}, "fc3.weight, which this network does not"),
        "nan": ({"fc2.bias": nan}, "fc2.bias is not finite"),
        "too large for float32": ({"fc2.bias": np.full(32, 1e300)}, "not finite in float32"),
        "whole numbers": ({"fc2.bias": np.arange(32)}, "fc2.bias is int64"),
        "shape": ({"decshape.weight": np.zeros((10, 31))}, "decshape.weight is float64 of shape"),
        "pose": ({"decpose.weight": np.zeros((143, 32))}, "143 pose numbers"),
        "flat": ({"fc1.weight": np.zeros(32)}, "fc1.weight is of shape"),
        "empty": ({"fc1.weight": np.zeros((0, 205))}, "fc1.weight is of shape"),
        "objects": ({"fc1.bias": np.array([None])}, "object in a state dict"),
        "part of a trunk": ({"conv1.weight": TRUNK["conv1.weight"]}, "blocks in layers of"),
    }


@pytest.mark.parametrize("case", list(_bad_spin()))
def test_wrong_state_dicts_are_refused(case):
    change, message = _bad_spin()[case]
    with pytest.raises(InputError, match=message):
        import_spin({"model": SPIN | change})


@pytest.mark.parametrize("network", list(IMPORTERS))
@pytest.mark.parametrize("checkpoint", [{}, {"model": 3}, {"a": {"b": {}}}, {"state": [1, 2]}])
def test_other_checkpoints_are_refused(network, checkpoint):
    with pytest.raises(InputError):
        IMPORTERS[network](checkpoint)


CHECKPOINTS = {"spin": lambda: {"model": dict(SPIN)}, "deep3d": _deep3d, "graphcmr": _graphcmr}
DEAD = {
    *(f"resnet.fc.{leaf}" for leaf in ("weight", "bias")),
    *(f"gc.{i}.skip_conv.{leaf}" for i in (2, 3) for leaf in "Wb"),
}


@pytest.mark.parametrize("network", list(CHECKPOINTS))
def test_every_array_is_needed_but_dead_ones(network):
    """Each name taken away, one after another; each once under another name."""
    checkpoint = CHECKPOINTS[network]()
    whole = IMPORTERS[network](checkpoint)
    parts = [v for k, v in checkpoint.items() if isinstance(v, dict) and v]
    seen = 0
    for part in parts:
        names = [n for n in part if not n.endswith("num_batches_tracked")]
        # blocks of the trunk are alike: one layer of one of them stands for all
        names = [
            n for n in names if "layer" not in n or "layer4.1.bn2" in n or n.startswith("layers.")
        ]
        for name in names:
            value = part.pop(name)
            if name in DEAD:
                assert _equal(variables_of(IMPORTERS[network](checkpoint)), variables_of(whole))
                seen += 1
            else:
                with pytest.raises(InputError):
                    IMPORTERS[network](checkpoint)
                part[f"{name}_of_another"] = value
                with pytest.raises(InputError):
                    IMPORTERS[network](checkpoint)
                del part[f"{name}_of_another"]
            part[name] = value
    assert seen == (len(DEAD) if network == "graphcmr" else 0)


def test_parts_of_different_networks_are_refused():
    checkpoint = _graphcmr()
    checkpoint["smpl_param_regressor"] = torch_states.recipe(torch_states.param_regressor(11, 16))
    with pytest.raises(InputError, match="parts of one network"):
        import_graphcmr(checkpoint)


def test_negative_variances_are_refused():
    state = TRUNK | {"bn1.running_var": -np.ones(64, np.float32)}
    with pytest.raises(InputError, match="running_var has negative entries"):
        import_resnet(state)


def test_classifiers_are_refused_unless_dead():
    state = TRUNK | {"fc.bias": np.zeros(1000, np.float32)}
    with pytest.raises(InputError, match="fc.bias, which this network does not"):
        import_resnet(state)
    assert _equal(import_resnet(state, dead=(r"fc\.bias",)), import_resnet(TRUNK))


def test_aliases_repeat_their_array(rng):
    state = {"a.weight": rng.normal(size=(2, 3)), "a.bias": rng.normal(size=2)}
    spec, aliases = linear("ours", "a", 3, 2), {"b.weight": "a.weight"}
    expected = import_tree(state, spec)
    np.testing.assert_allclose(expected["params"]["ours"]["kernel"], state["a.weight"].T, rtol=1e-6)
    assert _equal(import_tree(state, spec, aliases=aliases), expected)
    twice = state | {"b.weight": state["a.weight"]}
    assert _equal(import_tree(twice, spec, aliases=aliases), expected)
    with pytest.raises(InputError, match="b.weight is not a.weight"):
        import_tree(twice | {"b.weight": 2 * state["a.weight"]}, spec, aliases=aliases)
    with pytest.raises(InputError, match="b.weight, which"):
        import_tree(twice, spec)


def test_layouts_of_convolutions(rng):
    weight = rng.normal(size=(4, 3, 1, 1))
    state = {"c.weight": weight, "c.bias": rng.normal(size=4)}
    flat = import_tree(state, pointwise("c", "c", 3, 4))["params"]["c"]["kernel"]
    np.testing.assert_allclose(flat, weight[:, :, 0, 0].T, rtol=1e-6)
    volume = rng.normal(size=(4, 3, 5, 2, 1))
    spec = conv("v", "v", (5, 2, 1), 3, 4, bias=False)
    kernel = import_tree({"v.weight": volume}, spec)["params"]["v"]["kernel"]
    assert kernel.shape == (5, 2, 1, 3, 4) and kernel.flags.c_contiguous
    np.testing.assert_allclose(kernel[4, 1, 0], volume[:, :, 4, 1, 0].T, rtol=1e-6)


class MyMesh:
    """Stands for the class that GraphCMR's file pickles; unpickling it would be seen."""

    def __reduce__(self):
        return (open, ("/nonexistent/canary", "w"))


def _sampling(path, rng, **changes):
    """A file as GraphCMR's: sizes 9, 6, 4; and its dense matrices."""
    sizes = (9, 6, 4)
    pairs = list(zip(sizes[:-1], sizes[1:], strict=True))

    def matrix(rows, columns):
        dense = rng.normal(size=(rows, columns)) * (rng.uniform(size=(rows, columns)) < 0.4)
        return scipy.sparse.csc_matrix(dense)

    members = {
        "A": [abs(matrix(n, n)) for n in sizes],
        "U": [matrix(fine, coarse) for fine, coarse in pairs],
        "D": [matrix(coarse, fine) for fine, coarse in pairs],
        "M": [MyMesh(), MyMesh()],
        "F": [np.zeros((2, 3), int), np.zeros((3, 3), int)],
    } | changes
    with zipfile.ZipFile(path, "w") as archive:
        for name, values in members.items():
            array = np.empty(len(values), object)
            array[:] = values
            stream = io.BytesIO()
            np.lib.format.write_array(stream, array, allow_pickle=True)
            archive.writestr(f"{name}.npy", stream.getvalue())
    return members


def test_mesh_sampling(tmp_path, rng):
    members = _sampling(tmp_path / "mesh.npz", rng)
    assert b"canary" in (tmp_path / "mesh.npz").read_bytes()
    sampling = read_mesh_sampling(tmp_path / "mesh.npz")
    assert sampling.vertices == (9, 6, 4)
    for kind, matrices in (("D", sampling.down), ("U", sampling.up)):
        for ours, theirs in zip(matrices, members[kind], strict=True):
            identity = np.eye(theirs.shape[1], dtype=np.float32)
            np.testing.assert_allclose(multiply(ours, identity), theirs.toarray(), atol=1e-6)
    for ours, theirs in zip(sampling.adjacency, members["A"], strict=True):
        n = theirs.shape[0]
        expected = graph_reference.adjacency(np.argwhere(theirs.toarray()), n)
        np.testing.assert_allclose(multiply(ours, np.eye(n, dtype=np.float32)), expected, atol=1e-6)
    template = rng.normal(size=(9, 3))
    mesh = graph_mesh(template, sampling.adjacency[1], sampling.down[0], sampling.up[0])
    assert mesh.template.shape == (6, 3)


def test_broken_mesh_samplings_are_refused(tmp_path, rng):
    path = tmp_path / "mesh.npz"
    big = scipy.sparse.csc_matrix(np.ones((300, 300)))
    nan = scipy.sparse.csc_matrix(np.full((6, 6), np.nan))
    for change, message in (
        ({"A": [big, big, big]}, "row of more than 256"),
        ({"A": [nan, nan, nan]}, "not finite"),
        ({"A": [np.eye(3), np.eye(3)]}, "ndarray among its matrices"),
        ({"D": []}, "matrices of shapes"),
        ({"A": [MyMesh(), MyMesh(), MyMesh()]}, "mesh.npz"),
    ):
        _sampling(path, rng, **change)
        with pytest.raises(InputError, match=message):
            read_mesh_sampling(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("A.npy", pickle.dumps([]))
    with pytest.raises(InputError, match="mesh.npz"):
        read_mesh_sampling(path)
    with pytest.raises(InputError, match="absent.npz"):
        read_mesh_sampling(tmp_path / "absent.npz")
