"""GraphCMR's networks in NumPy float64: torch's layout (b, c, n), dense matrices."""

import numpy as np


def adjacency(edges, n):
    """Binary adjacency with loops, each row over its sum."""
    A = np.eye(n)
    A[edges[:, 0], edges[:, 1]] = 1
    return A / A.sum(axis=1, keepdims=True)


def group_norm_relu(x, state, name):
    """Groups of eight channels over channels and vertices, eps 1e-5; then ReLU."""
    b, c, n = x.shape
    groups = x.reshape(b, c // 8, 8 * n)
    mean, var = groups.mean(axis=2, keepdims=True), groups.var(axis=2, keepdims=True)
    x = ((groups - mean) / np.sqrt(var + 1e-5)).reshape(b, c, n)
    weight, bias = (state[f"{name}.{leaf}"][:, None] for leaf in ("weight", "bias"))
    return np.maximum(x * weight + bias, 0)


def graph_linear(x, state, name):
    """W x + b at every vertex."""
    return state[f"{name}.W"].astype(np.float64) @ x + state[f"{name}.b"][:, None]


def graph_block(x, state, name, A):
    """The residual block; its shortcut is projected only where channels change."""
    y = graph_linear(group_norm_relu(x, state, f"{name}.pre_norm"), state, f"{name}.lin1")
    y = np.swapaxes(group_norm_relu(y, state, f"{name}.norm1"), 1, 2)
    y = A @ (y @ state[f"{name}.conv.weight"].astype(np.float64)) + state[f"{name}.conv.bias"]
    y = group_norm_relu(np.swapaxes(y, 1, 2), state, f"{name}.norm2")
    y = graph_linear(y, state, f"{name}.lin2")
    if x.shape[1] != y.shape[1]:
        x = graph_linear(x, state, f"{name}.skip_conv")
    return x + y


def graph_cnn(features, template, state, A, blocks):
    """(vertices (b, n, 3), camera (b, 3)) of image features (b, f)."""
    b, n = len(features), len(template)
    image = np.broadcast_to(features[:, :, None], (*features.shape, n))
    x = np.concatenate([np.broadcast_to(template.T, (b, 3, n)), image], axis=1)
    x = graph_linear(x, state, "gc.0")
    for i in range(1, 2 + blocks):
        x = graph_block(x, state, f"gc.{i}", A)
    y = graph_block(graph_block(x, state, "shape.0", A), state, "shape.1", A)
    shape = graph_linear(group_norm_relu(y, state, "shape.2"), state, "shape.4")
    z = graph_linear(group_norm_relu(x, state, "camera_fc.0"), state, "camera_fc.2")
    z = np.maximum(z[:, 0], 0)
    camera = z @ state["camera_fc.4.weight"].astype(np.float64).T + state["camera_fc.4.bias"]
    return np.swapaxes(shape, 1, 2), camera


def _norm(x, state, name):
    x = (x - state[f"{name}.running_mean"]) / np.sqrt(
        state[f"{name}.running_var"].astype(np.float64) + 1e-5
    )
    return x * state[f"{name}.weight"] + state[f"{name}.bias"]


def _linear(x, state, name):
    return x @ state[f"{name}.weight"].astype(np.float64).T + state[f"{name}.bias"]


def param_regressor(vertices, template, state):
    """(rotations (b, 24, 3, 3), betas (b, 10)) of vertices (b, n, 3)."""
    b = len(vertices)
    x = np.concatenate([vertices, np.broadcast_to(template, vertices.shape)], axis=-1)
    x = _linear(x.reshape(b, -1), state, "layers.0.fc_block.0")
    x = np.maximum(_norm(x, state, "layers.0.fc_block.1"), 0)
    for i in (1, 2):
        block = f"layers.{i}.fc_block"
        y = np.maximum(_norm(_linear(x, state, f"{block}.0"), state, f"{block}.1"), 0)
        y = _norm(_linear(y, state, f"{block}.3"), state, f"{block}.4")
        x = np.maximum(x + y, 0)
    x = _linear(x, state, "layers.3")
    matrices = x[:, :-10].reshape(b, -1, 3, 3)
    return rotations(matrices), x[:, -10:]


def rotations(matrices):
    """U V^T times its determinant."""
    u, _, vt = np.linalg.svd(matrices)
    rotation = u @ vt
    return rotation * np.linalg.det(rotation)[..., None, None]
