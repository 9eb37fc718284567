"""Weights that are read but cannot be a network's: wrong shapes, NaN, missing and foreign keys."""

import numpy as np
import pytest

from jaxrecon.errors import InputError
from jaxrecon.interop.checkpoints import NETWORKS, import_network, left_out
from jaxrecon.interop.state_dicts import parameters_of, state_dict_in


def linear(rng, inputs=3, outputs=4):
    return {
        "weight_g": rng.uniform(1, 2, (outputs, 1)).astype("f4"),
        "weight_v": rng.standard_normal((outputs, inputs)).astype("f4"),
        "bias": rng.standard_normal(outputs).astype("f4"),
    }


@pytest.fixture
def idr(rng):
    """IDR's checkpoint of a small network: 3 -> 8 -> 5."""
    layers = {"lin0": linear(rng, 3, 8), "lin1": linear(rng, 8, 5)}
    state = {f"module.implicit_network.{n}.{k}": v for n, p in layers.items() for k, v in p.items()}
    return {"epoch": 3, "model_state_dict": state, "optimizer": {"state": {}}}


def test_the_checkpoint_itself_is_sound(idr):
    tree, configs = import_network(idr, "idr")
    assert list(tree) == ["params"] and configs["implicit"].out == 5
    flat, _ = import_network(idr["model_state_dict"], "idr")
    np.testing.assert_array_equal(
        flat["params"]["implicit"]["layer_0"]["kernel"],
        tree["params"]["implicit"]["layer_0"]["kernel"],
    )
    assert left_out(idr, "idr") == ["epoch", "optimizer"]


KEY = "module.implicit_network.lin1."
BROKEN = {
    "a NaN": {KEY + "bias": np.array([0, np.nan, 0, 0, 0], "f4")},
    "an infinity": {KEY + "weight_v": np.full((5, 8), np.inf, "f4")},
    "more than float32 holds": {KEY + "bias": np.full(5, 1e300)},
    "a transposed weight": {KEY + "weight_v": np.ones((8, 5), "f4")},
    "a weight of one axis": {KEY + "weight_v": np.ones(40, "f4")},
    "whole numbers": {KEY + "bias": np.ones(5, int)},
    "complex numbers": {KEY + "bias": np.ones(5, complex)},
    "a list": {KEY + "bias": [1.0] * 5},
    "a missing bias": {KEY + "bias": None},
    "a foreign layer": {"module.implicit_network.lin9.bias": np.ones(5, "f4")},
    "a foreign network": {"module.decoder.weight": np.ones(5, "f4")},
    "two names of one": {"implicit_network.lin1.bias": np.ones(5, "f4")},
    "a nested dict": {"module.more": {"a": np.ones(2)}},
    "a name that is a number": {7: np.ones(2, "f4")},
    "a zero row": {KEY + "weight_v": np.zeros((5, 8), "f4")},
}


@pytest.mark.parametrize("which", BROKEN)
def test_broken_weights(which, idr):
    state = idr["model_state_dict"] | BROKEN[which]
    idr["model_state_dict"] = {k: v for k, v in state.items() if v is not None}
    with pytest.raises(InputError) as caught:
        import_network(idr, "idr")
    assert len(caught.value.given) < 500 and "Type-check" not in caught.value.given


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_names_what_does_not_fit(name, idr):
    for checkpoint in ({}, {"state": {}}, {"a.weight": np.ones((2, 2), "f4")}, {"epoch": 1}):
        with pytest.raises(InputError) as caught:
            import_network(checkpoint, name)
        assert caught.value.expected and "Type-check" not in caught.value.given
    if name != "idr":
        with pytest.raises(InputError):
            import_network(idr, name)


def test_a_state_dict_is_found_by_its_path():
    inner = {"a": np.ones(2)}
    assert state_dict_in({"net": {"g": inner}}, "net", "g") is inner
    assert state_dict_in(inner, "net", "g") is inner
    with pytest.raises(InputError, match="no state dict at net.d of the checkpoint; it has net"):
        state_dict_in({"net": {"g": inner}}, "net", "d")
    assert set(parameters_of({"a": np.ones(1), "bn.num_batches_tracked": np.array(3)})) == {"a"}
