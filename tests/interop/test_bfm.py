"""The Basel Face Model from both of its sources, and one error for each bad file. What the model
means is compared in tests/models/test_deep3d.py.
"""

import numpy as np
import pytest

from jaxrecon.errors import InputError
from jaxrecon.interop import bfm
from jaxrecon.models.parametric.deep3d_file import load_deep3d_model
from jaxrecon.models.parametric.head_file import read_head

COUNT, TRIMMED, MODEL = 90, 110, 130
"""Vertices of the front, of the expressions, of the whole model."""


def save_mat(path, arrays):
    from scipy.io import savemat

    savemat(path, arrays)


def front_arrays(rng):
    """A random `BFM_model_front.mat`: indices from 1, as floating-point numbers."""
    faces = np.stack([rng.permutation(COUNT)[:3] for _ in range(60)]) + 1
    near = np.full((COUNT, 8), len(faces) + 1)
    near[:, :3] = rng.integers(1, len(faces) + 1, (COUNT, 3))

    def base(modes):
        return rng.standard_normal((3 * COUNT, modes)).astype(np.float32)

    whole = {
        "tri": faces,
        "point_buf": near,
        "tri_mask2": faces[:20],
        "keypoints": rng.permutation(COUNT)[None, :68] + 1,
        "frontmask2_idx": np.unique(faces[:20])[:, None],
    }
    return {
        "meanshape": rng.standard_normal((1, 3 * COUNT)).astype(np.float32),
        "meantex": rng.uniform(0, 255, (1, 3 * COUNT)).astype(np.float32),
        "idBase": base(80),
        "exBase": base(64),
        "texBase": base(80),
        "skinmask": (rng.uniform(size=(1, COUNT)) < 0.5).astype(np.float32),
        **{k: v.astype(np.float32) for k, v in whole.items()},
    }


def write_folder(folder, front, rng):
    """The six files that `front` is made of: our own reading of their published layout."""
    kept, trim = rng.permutation(TRIMMED)[:COUNT], rng.permutation(MODEL)[:TRIMMED]

    def spread(flat, rows, total):
        """Rows (3 n, m) at their places of a larger random mesh."""
        modes = flat.shape[1]
        whole = rng.standard_normal((total, 3, modes))
        whole[rows] = flat.reshape(-1, 3, modes)
        return whole.reshape(3 * total, modes)

    def split(key, modes, rows, total, unit):
        deviations = rng.uniform(1, 3, (modes, 1))
        extra = rng.standard_normal((3 * COUNT, modes - front[key].shape[1]))
        flat = np.concatenate([front[key], extra], 1) * unit / deviations.T
        return spread(flat, rows, total).astype(np.float64), deviations

    shape, shape_ev = split("idBase", 199, trim[kept], MODEL, 1e5)
    texture, texture_ev = split("texBase", 199, trim[kept], MODEL, 1.0)
    expression, expression_ev = split("exBase", 79, kept, TRIMMED, 1e5)
    save_mat(
        folder / "01_MorphableModel.mat",
        {
            "shapeMU": spread(1e5 * front["meanshape"].reshape(-1, 1), trim[kept], MODEL),
            "shapePC": shape,
            "shapeEV": shape_ev,
            "texMU": spread(front["meantex"].reshape(-1, 1), trim[kept], MODEL),
            "texPC": texture,
            "texEV": texture_ev,
        },
    )
    mean = rng.standard_normal(3 * TRIMMED)
    data = np.concatenate([mean, expression.T.ravel()]).astype("<f4")
    (folder / "Exp_Pca.bin").write_bytes(np.array([79], "<i4").tobytes() + data.tobytes())
    (folder / "std_exp.txt").write_text(" ".join(f"{s:.9g}" for s in expression_ev.ravel()))
    save_mat(folder / "BFM_exp_idx.mat", {"trimIndex": trim[:, None] + 1.0})
    save_mat(folder / "BFM_front_idx.mat", {"idx": kept[:, None] + 1.0})
    info = "tri point_buf tri_mask2 keypoints frontmask2_idx skinmask".split()
    save_mat(folder / "facemodel_info.mat", {key: front[key] for key in info})


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    rng = np.random.default_rng(4)
    folder = tmp_path_factory.mktemp("bfm")
    front = front_arrays(rng)
    save_mat(folder / "front.mat", front)
    raw = folder / "raw"
    raw.mkdir()
    write_folder(raw, front, rng)
    return folder / "front.mat", raw, front


def test_arrays_of_the_authors_file(sources):
    path, _, front = sources
    found = bfm.convert_bfm(path)
    np.testing.assert_allclose(found["v_mean"].ravel(), 100 * front["meanshape"][0], rtol=1e-6)
    mode = found["id_basis"][3].ravel()
    np.testing.assert_allclose(mode, 100 * front["idBase"][:, 3], rtol=1e-6)
    np.testing.assert_allclose(
        found["albedo_basis"][79].ravel(), front["texBase"][:, 79] / 255, rtol=1e-5
    )
    np.testing.assert_allclose(found["albedo_mean"].ravel(), front["meantex"][0] / 255, rtol=1e-6)
    assert found["expr_basis"].shape == (64, COUNT, 3)
    np.testing.assert_array_equal(found["faces"], front["tri"] - 1)
    np.testing.assert_array_equal(found["landmarks68"], front["keypoints"][0] - 1)
    near = found["deep3d_vertex_faces"]
    assert (near[:, 3:] == -1).all() and near[:, :3].min() >= 0
    assert str(found["licence"]).startswith("Basel Face Model")


def test_the_folder_gives_the_authors_file(sources):
    path, raw, _ = sources
    expected, found = bfm.convert_bfm(path), bfm.convert_bfm(raw)
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        if array.dtype.kind == "f":
            np.testing.assert_allclose(found[key], array, rtol=1e-5, atol=1e-5, err_msg=key)
        elif array.dtype.kind == "i":
            np.testing.assert_array_equal(found[key], array, err_msg=key)
    again = bfm.convert_bfm(raw / "01_MorphableModel.mat")
    np.testing.assert_array_equal(again["id_basis"], found["id_basis"])


def test_the_file_is_a_head_model(sources, tmp_path):
    np.savez(tmp_path / "bfm.npz", **bfm.convert_bfm(sources[0]))
    head = read_head(tmp_path / "bfm.npz")
    assert head["expression"].shape[0] == 64 and head["expr_names"][0] == "mode_000"
    assert head["albedo_basis"].shape == (80, COUNT, 3)
    model = load_deep3d_model(tmp_path / "bfm.npz")
    np.testing.assert_allclose(np.asarray(model.face.mean).mean(0), 0, atol=1e-6)
    sizes = np.linalg.norm(head["id_basis"], axis=2), np.linalg.norm(model.face.identity, axis=2)
    np.testing.assert_allclose(sizes[0], 100 * sizes[1], rtol=1e-4)


BAD = {
    "no mean": {"meanshape": None},
    "other mesh": {"meantex": np.zeros((1, 30), np.float32)},
    "index zero": {"tri": np.zeros((5, 3), np.float32)},
    "half an index": {"keypoints": np.full((1, 68), 1.5, np.float32)},
    "beyond": {"point_buf": np.full((COUNT, 8), 900.0, np.float32)},
    "few landmarks": {"keypoints": np.ones((1, 67), np.float32)},
    "NaN": {"idBase": np.full((3 * COUNT, 80), np.nan, np.float32)},
    "words": {"skinmask": np.array(["skin"])},
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_files(case, sources, tmp_path):
    changed = sources[2] | BAD[case]
    save_mat(tmp_path / "bad.mat", {k: v for k, v in changed.items() if v is not None})
    with pytest.raises(InputError, match=r"bad\.mat"):
        bfm.convert_bfm(tmp_path / "bad.mat")


def test_bad_folders(sources, tmp_path):
    with pytest.raises(InputError, match="no 01_MorphableModel"):
        bfm.convert_bfm(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        bfm.convert_bfm(tmp_path / "absent.mat")
    for name, content, said in (
        ("Exp_Pca.bin", b"\x4f\x00\x00\x00" + bytes(40), "Exp_Pca"),
        ("std_exp.txt", b"1.0 2.0", "std_exp"),
        ("std_exp.txt", b"one two", "could not convert"),
        ("std_exp.txt", b"1.0 " * 79 + b" " * (1 << 20), "std_exp.txt than 1 MiB"),
    ):
        folder = tmp_path / said.replace(" ", "")
        folder.mkdir(exist_ok=True)
        for path in sources[1].iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        (folder / name).write_bytes(content)
        with pytest.raises(InputError, match=said):
            bfm.convert_bfm(folder)
