"""Losses of logits sharded by rows and by classes, for `contracts/test_sharding.py`.

`python -m tests.programs.sharded_logits` prints how many it has checked.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P

from tests.support.oracles import cross_entropy as oracles
from tests.support.virtual_devices import NUM_DEVICES, collectives
from xentjax import softmax_cross_entropy_with_integer_labels as loss

ALL_KEYWORDS = {"label_smoothing": 0.1, "z_loss": 1e-3, "return_stats": True}
CLASSES = (1000, 8192, 32768, 50264)
ROWS = 64


def main() -> None:
    checked = 0
    for axis_type, sizes in ((AxisType.Auto, CLASSES), (AxisType.Explicit, CLASSES[::2])):
        mesh = Mesh(np.array(jax.devices()), ("shards",), axis_types=(axis_type,))
        assert mesh.size == NUM_DEVICES
        for num_classes in sizes:
            for split in (("shards", None), (None, "shards")):
                for keywords in ({}, ALL_KEYWORDS):
                    check(mesh, num_classes, split, keywords)
                    checked += 1
    print("checked", checked)


def check(
    mesh: Mesh, num_classes: int, split: tuple[str | None, ...], keywords: dict[str, Any]
) -> None:
    rng = np.random.default_rng(num_classes)
    logits = rng.standard_normal((ROWS, num_classes)).astype(np.float32)
    labels = rng.integers(0, num_classes, ROWS).astype(np.int32)
    x = jax.device_put(logits, NamedSharding(mesh, P(*split)))
    y = jax.device_put(labels, NamedSharding(mesh, P(split[0])))
    has_aux = "return_stats" in keywords

    def mean(x: jax.Array, y: jax.Array) -> Any:
        return loss(x, y, reduction="mean", **keywords)

    compiled = jax.jit(jax.value_and_grad(mean, has_aux=has_aux)).lower(x, y).compile()
    # O(rows) numbers may cross between devices (an argmax of each shard among them), never
    # O(rows x classes).
    for arrays in collectives(compiled.as_text() or ""):
        elements = max(n for n, _ in arrays)
        assert elements <= ROWS * NUM_DEVICES, (num_classes, split, elements)
    value, gradient = compiled(x, y)
    assert gradient.sharding.is_equivalent_to(x.sharding, 2)
    options = {name: x for name, x in keywords.items() if name != "return_stats"}
    expected = oracles.cross_entropy(logits, labels, **options)
    np.testing.assert_allclose(value[0] if has_aux else value, expected.mean, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected.gradient / ROWS, atol=1e-7)


if __name__ == "__main__":
    main()
