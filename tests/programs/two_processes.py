"""One of the two processes of `contracts/test_two_processes.py`, each with two of the four devices.

`python -m tests.programs.two_processes PORT PROCESS` prints one JSON object: each result
by its name.
"""

import json
import sys
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from xentjax import (
    counts as count,
    linear_softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
)

PROCESSES, DEVICES = 2, 4
ROWS, FEATURES, K = 8, 3, 10
HELD = 12  # the last device holds one class and two columns of padding
KEYWORDS: dict[str, Any] = {"ignore_index": -1, "label_smoothing": 0.1, "z_loss": 0.01}


def problem() -> dict[str, np.ndarray]:
    """A linear layer of K classes with labels, one of them ignored; the same at every call."""
    rng = np.random.default_rng(0)
    shapes = {"x": (ROWS, FEATURES), "kernel": (FEATURES, K), "bias": (K,)}
    layer = {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}
    labels = rng.integers(0, K, ROWS).astype(np.int32)
    labels[5] = -1
    return {**layer, "labels": labels}


def own_part(x: np.ndarray, axis: int) -> np.ndarray:
    """Return the half of the array that this process would have loaded."""
    return np.split(x, PROCESSES, axis)[jax.process_index()]


def padded(x: np.ndarray) -> np.ndarray:
    return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, HELD - K)], constant_values=9)


def main(port: str, process: str) -> None:
    address = f"127.0.0.1:{port}"
    jax.distributed.initialize(
        address,
        PROCESSES,
        int(process),
        coordinator_bind_address=address,
        initialization_timeout=30,
    )
    assert jax.device_count() == DEVICES
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    mesh = Mesh(np.array(jax.devices()), ("devices",))

    def everywhere(x: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(NamedSharding(mesh, P()), x)

    def split(x: np.ndarray, axis: int) -> jax.Array:
        """The whole array from the part that each process has."""
        sharding = NamedSharding(mesh, P(*(None,) * axis, "devices"))
        return jax.make_array_from_process_local_data(sharding, own_part(x, axis))

    def run(function: Any, *arrays: Any) -> Any:
        results = jax.jit(function, out_shardings=NamedSharding(mesh, P()))(*arrays)
        return jax.tree.map(lambda a: np.asarray(a).tolist(), results)

    x, kernel, bias, labels = problem().values()

    @jax.value_and_grad
    def rows_split(kernel, x, labels):
        return softmax_cross_entropy_with_integer_labels(
            x @ kernel, labels, reduction="mean", **KEYWORDS
        )

    @jax.value_and_grad
    def classes_split(logits, labels):
        loss = jax.shard_map(
            lambda logits, labels: softmax_cross_entropy_with_integer_labels(
                logits, labels, axis_name="devices", num_classes=K, reduction="mean", **KEYWORDS
            ),
            mesh=mesh,
            in_specs=(P(None, "devices"), P()),
            out_specs=P(),
        )
        return loss(logits, labels)

    @jax.value_and_grad
    def kernel_split(layer, labels):
        loss = jax.shard_map(
            lambda x, kernel, bias, labels: linear_softmax_cross_entropy(
                x, kernel, labels, bias, axis_name="devices", num_classes=K, reduction="mean",
                max_bytes=100, **KEYWORDS,
            ),
            mesh=mesh,
            in_specs=(P(), P(None, "devices"), P("devices"), P()),
            out_specs=P(),
        )  # fmt: skip
        x, kernel, bias = layer
        return loss(x, kernel, bias, labels)

    counts = jax.shard_map(
        lambda labels: count(labels, K, axis_name="devices"),
        mesh=mesh,
        in_specs=P("devices"),
        out_specs=P(),
    )
    layer = everywhere(x), split(padded(kernel), 1), split(padded(bias), 0)
    by_row, by_class = split(labels, 0), everywhere(labels)
    results = {
        "rows split": run(rows_split, everywhere(kernel), split(x, 0), by_row),
        "classes split": run(classes_split, split(padded(x @ kernel), 1), by_class),
        "kernel split": run(kernel_split, layer, by_class),
        "counts": run(counts, by_row),
    }
    print(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
