"""What is promised beside values: memory, residuals, traces, documentation, import directions."""

import ast
import doctest
import importlib
import pkgutil
from pathlib import Path

import chex
import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest

import xentjax

ROOT = Path(xentjax.__file__).parent.parent
PUBLIC = sorted(
    name
    for name, value in vars(xentjax).items()
    if not name.startswith("_") and getattr(value, "__module__", "").startswith("xentjax")
)

loss = xentjax.softmax_cross_entropy_with_integer_labels


def residual_bytes(function, *arguments):
    """Bytes that reverse mode keeps between the passes, the arguments themselves aside."""
    _, pullback = jax.vjp(function, *arguments)
    kept = [x for x in jax.tree.leaves(pullback) if isinstance(x, jax.Array)]
    pointers = {x.unsafe_buffer_pointer() for x in arguments}
    return sum(x.nbytes for x in kept if x.unsafe_buffer_pointer() not in pointers)


@pytest.mark.parametrize(
    "keywords",
    [{}, {"label_smoothing": 0.1, "z_loss": 1e-3, "logit_soft_cap": 5.0, "temperature": 2.0}],
    ids=["plain", "keywords"],
)
def test_reverse_mode_keeps_the_inputs_and_a_few_numbers_a_row(keywords):
    n, k = 64, 512
    logits, labels = jnp.zeros((n, k)), jnp.zeros(n, jnp.int32)
    kept = residual_bytes(lambda x: loss(x, labels, reduction="mean", **keywords), logits)
    assert 0 < kept <= 32 * n  # the labels are among them


@pytest.mark.parametrize("mode", ["value_and_grad", "donated step"])
@pytest.mark.parametrize("shape", [(128, 1024), (4, 32768)], ids=str)
def test_no_temporary_of_the_logits_size(mode, shape):
    logits, labels = jnp.zeros(shape), jnp.zeros(shape[0], jnp.int32)
    value_and_grad = jax.value_and_grad(lambda x: loss(x, labels, reduction="mean"))

    def step(x):
        value, gradient = value_and_grad(x)
        return value, x - 0.1 * gradient

    if mode == "value_and_grad":
        compiled = jax.jit(value_and_grad)
    else:
        compiled = jax.jit(step, donate_argnums=0)
    memory = compiled.lower(logits).compile().memory_analysis()
    if memory is None:
        pytest.skip("this backend does not tell the size of its temporaries")
    assert memory.temp_size_in_bytes <= 0.05 * logits.nbytes + 16 * shape[0]


def test_one_trace_a_shape():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(x, y, smoothing):
        return jax.value_and_grad(
            lambda x: loss(x, y, label_smoothing=smoothing, reduction="mean")
        )(x)

    labels = jnp.zeros(4, jnp.int32)
    for seed, smoothing in enumerate((0.0, 0.1, 0.2)):
        step(jax.random.normal(jax.random.key(seed), (4, 5)), labels, jnp.float32(smoothing))


def test_eager_calls_of_one_shape_compile_once():
    compilations: list[str] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if "compile" in event:
            compilations.append(event)

    labels, logits = jnp.zeros(4, jnp.int32), jnp.ones((4, 5))
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        loss(logits, labels, label_smoothing=0.1)
        first = len(compilations)
        for smoothing in (0.2, 0.3):
            loss(logits, labels, label_smoothing=smoothing)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert len(compilations) == first


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_documented_with_an_example_that_runs(name):
    value = getattr(xentjax, name)
    assert value.__doc__, f"{name} has no docstring"
    if isinstance(value, type):  # results: their fields are documented, their functions show them
        return
    examples = doctest.DocTestFinder(recurse=False).find(
        value, name, module=importlib.import_module(value.__module__)
    )
    globs = {**vars(importlib.import_module(value.__module__)), "jax": jax, "jnp": jnp, "np": np}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert sum(len(e.examples) for e in examples), f"{name} has no example"
    for example in examples:
        example.globs = globs
        report: list[str] = []
        assert runner.run(example, out=report.append).failed == 0, "".join(report)


def test_every_module_imports():
    for package in ("xentjax", "experiments", "benchmarks"):
        module = importlib.import_module(package)
        for found in pkgutil.walk_packages(module.__path__, f"{package}."):
            if not found.name.endswith("__main__"):
                importlib.import_module(found.name)


# A module may import those of its own layer and of the layers below it.
LAYERS = {
    "_checks": 0,
    "_dtypes": 0,
    "_varying": 0,
    "_special": 1,
    "_sums": 2,
    "_special_log": 2,
    "_units": 1,
    "_pmfs": 3,
    "_joint_information": 4,
    "information": 5,
    "categorical": 6,
    "ops": 2,
    "losses": 3,
    "parallel": 7,
    "calibration": 7,
    "_softmax_descent": 4,
    "softmax_regression": 7,
}


def imports_of(path):
    """Names of the modules that a file imports, wherever in the file that stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("xentjax/**/*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_imports_go_one_way(path):
    parts = path.relative_to(ROOT / "xentjax").with_suffix("").parts
    if parts == ("__init__",):
        return
    for module in imports_of(path):
        assert module.split(".")[0] not in ("experiments", "benchmarks", "tests")
        if module.startswith("xentjax."):
            target = module.split(".")[1]
            assert target == parts[0] or LAYERS[target] < LAYERS[parts[0]], module
            if "reference" in module.split("."):
                raise AssertionError("only the dispatcher names the reference implementation")


@pytest.mark.parametrize("package", ["experiments", "benchmarks"])
def test_programs_use_the_public_names(package):
    for path in sorted(ROOT.glob(f"{package}/**/*.py")):
        for module in imports_of(path):
            assert not module.startswith("xentjax."), f"{path}: {module}"
            if package == "experiments":
                assert not module.startswith("benchmarks"), f"{path}: {module}"


def test_ci_runs_the_test_command_of_the_readme():
    readme = (ROOT / "README.md").read_text()
    commands = [line for line in readme.splitlines() if line.endswith("-m pytest")]
    assert len(commands) == 1
    assert commands[0] in (ROOT / ".ci" / "run").read_text().splitlines()
