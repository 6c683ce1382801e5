"""The back-ends by name: what they offer, what None stands for, and what a wrong name says."""

import subprocess
import sys
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xentjax
from tests.support.imports import modules
from xentjax.ops import Implementation, backend

OFFERED = {
    "xla": {"row_statistics"},
    "reference": {"row_statistics", "stores_logits"},
    "mosaic_tpu": {"row_statistics", "linear_statistics", "layer_gradients", "softmax"},
    "mosaic_gpu": {"row_statistics", "linear_statistics"},
}


@pytest.mark.parametrize("name", get_args(Implementation))
def test_what_a_backend_offers(name):
    offers = backend(name)._asdict()
    assert {key for key, value in offers.items() if value} == OFFERED[name]


def test_none_is_xla():
    assert backend(None) is backend("xla")


def test_a_name_that_is_none():
    with pytest.raises(ValueError, match=r"^implementation: expected one of .*'xla'.*, got fast$"):
        backend("fast")


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("operation", ["logits", "linear"])
def test_without_a_name_no_platform_gets_a_kernel(operation, platform):
    labels = jnp.array([3, 4])
    if operation == "logits":
        loss = jax.jit(lambda x: xentjax.softmax_cross_entropy_with_integer_labels(x, labels))
        arguments = (jnp.ones((2, 204)),)
    else:
        loss = jax.jit(lambda x, w: xentjax.linear_softmax_cross_entropy(x, w, labels))
        arguments = jnp.ones((2, 64), "bfloat16"), jnp.ones((64, 204), "bfloat16")
    text = loss.trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
    assert "mosaic" not in text
    assert "tpu_custom_call" not in text
    np.testing.assert_allclose(loss(*arguments), np.log(204), rtol=1e-6)


def test_a_named_kernel_that_cannot_raises():
    with pytest.raises(NotImplementedError, match=r"^implementation: expected a TPU"):
        xentjax.softmax_cross_entropy_with_integer_labels(
            jnp.ones((2, 203)), np.array([3, 4]), implementation="mosaic_tpu"
        )


def test_the_first_call_imports_no_pallas_and_the_second_traces_nothing():
    program = (
        "import sys, jax, jax.numpy as jnp, xentjax\n"
        "assert 'xentjax.ops.backends.contexts' in sys.modules\n"
        "logits, labels = jnp.ones((2, 3)), jnp.array([0, 1])\n"
        "xentjax.softmax_cross_entropy_with_integer_labels(logits, labels)\n"
        "events = []\n"
        "listen = jax.monitoring.register_event_duration_secs_listener\n"
        "listen(lambda event, *_, **__: events.append(event))\n"
        "xentjax.softmax_cross_entropy_with_integer_labels(logits, labels)\n"
        "assert not [e for e in events if 'trace' in e], events\n"
        "assert not any('experimental.pallas' in name for name in sys.modules)\n"
        "assert 'xentjax.ops.backends.reference' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_contexts_are_made_with_the_package():
    """One that is made later, with a kernel's module, would have jax trace every function again."""
    makers = [name for name, path in modules().items() if "make_user_context" in path.read_text()]
    assert makers == ["xentjax.ops.backends.contexts"]
