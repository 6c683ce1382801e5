"""The scaling benchmark: collectives counted right, schemes that are the loss, a model by hand."""

import io
import json

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from rich.console import Console

from benchmarks.harness import output
from benchmarks.scaling import benchmark as scaling, model, report, split_losses
from benchmarks.scaling.collectives import Exchange, exchange
from benchmarks.scaling.model import Link
from benchmarks.scaling.split_losses import Request, Scheme, Shape
from tests.support import tolerances
from tests.support.benchmarking import MACHINE, interrupting, session
from tests.support.oracles import cross_entropy as oracles

SHAPE = Shape(8, 4, 32)
HLO = """\
HloModule jit_step, entry_computation_layout={(f32[8,4]{1,0})->f32[]}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  ROOT %sum = f32[] add(%a, %b)
}

%inner (p: f32[8]) -> f32[8] {
  ROOT %r = bf16[8]{0} all-reduce(%p), replica_groups={{0,1}}, to_apply=%add
}

%body (t: (s32[], f32[8])) -> (s32[], f32[8]) {
  %w = f32[8] while(%x), condition=%c, body=%inner, backend_config={"known_trip_count":{"n":"3"}}
  %g = f32[4,2]{1,0} all-gather(%w), replica_groups=[1,2]<=[2], dimensions={0}
}

%left (p: f32[]) -> f32[] {
  ROOT %r = pred[5]{0} all-to-all(%p), replica_groups={{0,1}}
}

%right (p: f32[]) -> f32[] {
  ROOT %r = f32[7]{0} all-reduce(%p), replica_groups={{0},{1}}, to_apply=%add
}

ENTRY %main (p: f32[8,4]) -> f32[] {
  %w = f32[8] while(%t), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %c = f32[] conditional(%p, %p), branch_computations={%left, %right}
  ROOT %r = (f32[6]{0}, f64[]) all-reduce(%p, %q), replica_groups=[1,2]<=[2], to_apply=%add
}
"""


def test_collectives_are_counted_with_the_loops_around_them():
    found = exchange(HLO)
    assert found.calls == {"all-reduce": 15 + 1, "all-gather": 5, "all-to-all": 1}
    assert found.payload == {"all-reduce": 15 * 16 + 6 * 4 + 8, "all-gather": 160, "all-to-all": 5}
    assert found.total == 437


def test_a_loop_without_an_end_in_sight_is_refused():
    hlo = "ENTRY %main (p: f32[]) -> f32[] {\n  %w = f32[] while(%p), condition=%c, body=%b\n}\n"
    with pytest.raises(ValueError, match="hlo: expected loops with a known number of iterations"):
        exchange(hlo)


@pytest.mark.parametrize("scheme", Scheme)
def test_each_scheme_is_the_mean_loss_with_its_gradients(scheme):
    mesh = Mesh(np.array(jax.devices()[:1]), (split_losses.AXIS,))
    program = split_losses.program(scheme, mesh, SHAPE)
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in program.shapes[:-1]]
    labels = rng.integers(SHAPE.classes, size=SHAPE.rows).astype(np.int32)
    placed = [
        jax.device_put(array, argument.sharding)
        for array, argument in zip((*arrays, labels), program.arguments(mesh), strict=True)
    ]
    if scheme == Scheme.VOCAB_LINEAR:  # test_parallel.py checks its gradients
        loss, gradients = jax.jit(program.loss)(*placed), ()
    else:
        loss, gradients = program.compile(mesh)(*placed)
    wide = [array.astype(np.float64) for array in arrays]
    expected = oracles.cross_entropy(wide[0] if len(wide) == 1 else wide[0] @ wide[1], labels)
    d_logits = expected.gradient / SHAPE.rows
    right = [d_logits] if len(wide) == 1 else [d_logits @ wide[1].T, wide[0].T @ d_logits]
    np.testing.assert_allclose(loss, expected.mean, rtol=tolerances.VALUE["float32"])
    for found, gradient in zip(gradients, right, strict=bool(gradients)):
        np.testing.assert_allclose(found, gradient, rtol=tolerances.GRADIENT["float32"], atol=1e-6)


def test_an_unknown_scheme_is_refused():
    with pytest.raises(ValueError, match="scheme: expected one of"):
        split_losses.program("by colour", Mesh(np.array(jax.devices()), ("devices",)), SHAPE)


def test_two_devices_exchange_numbers_a_row_and_not_logits():
    schemes = (Scheme.VOCAB, Scheme.DATA, Scheme.GATHERED)
    found = split_losses.measure_in_subprocess(2, Request([(scheme, SHAPE) for scheme in schemes]))
    vocab, data, gathered = found.exchanges
    # The maximum; then the sum and the label's logit: three float32.
    assert vocab == Exchange({"all-reduce": 2}, {"all-reduce": 12 * SHAPE.rows})
    assert data.total <= 8
    assert gathered == Exchange({"all-gather": 1}, {"all-gather": 4 * SHAPE.rows * SHAPE.classes})
    assert found.seconds == {}


def test_a_process_that_fails_says_why():
    with pytest.raises(RuntimeError, match=r"with 2 devices failed\n(.|\n)*ValueError"):
        split_losses.measure_in_subprocess(2, Request([("by colour", SHAPE)]))


def test_measure_times_every_scheme(monkeypatch):
    program = split_losses.program
    monkeypatch.setattr(split_losses, "program", lambda scheme, *args: program(Scheme.DATA, *args))
    found = split_losses.measure(Request([], timed=SHAPE, rounds=2))
    assert {name: len(samples) for name, samples in found.seconds.items()} == dict.fromkeys(
        Scheme, 2
    )


def test_ring_collectives_by_hand():
    link = Link("wire", bandwidth=100.0, latency=0.5)
    # 4 devices: 3 steps of a quarter of 800 bytes, 2 s each, and 0.5 s a hop.
    assert link.all_gather(800, 4) == pytest.approx(3 * (2 + 0.5))
    assert link.all_reduce(800, 4) == pytest.approx(2 * 3 * (2 + 0.5))
    assert link.all_reduce(800, 4, calls=10) == pytest.approx(2 * 3 * (2 + 5))
    assert link.all_gather(800, 1) == 0


def test_model_by_hand(monkeypatch):
    monkeypatch.setattr(model, "FLOPS", 100.0)
    monkeypatch.setattr(model, "MEMORY_BANDWIDTH", 64.0)
    monkeypatch.setattr(model, "LINKS", (Link("wire", bandwidth=10.0, latency=1.0),))
    vocab = Exchange({"all-reduce": 3}, {"all-reduce": 400})
    data = Exchange({"all-reduce": 1}, {"all-reduce": 20})
    found = {each.scheme: each for each in model.model(Shape(8, 5, 10), 2, vocab, data)}
    product = 2 * 8 * 5 * 10 / 100
    assert found[Scheme.VOCAB_LINEAR].compute == pytest.approx(4 * product / 2)
    assert found[Scheme.VOCAB_LINEAR].exchange == {"wire": pytest.approx(2 * (3 + 20))}
    # 320 bytes of logits are gathered and read; 160 bytes of x's gradient are reduced.
    assert found[Scheme.GATHERED].compute == pytest.approx(3 * product / 2 + 320 / 64)
    assert found[Scheme.GATHERED].exchange == {"wire": pytest.approx(1 + 16 + 2 * (1 + 8))}
    assert found[Scheme.DATA_LINEAR].compute == pytest.approx(4 * product)
    assert found[Scheme.DATA_LINEAR].exchange == {"wire": pytest.approx(2 * (1 + 1))}


def test_interrupted_devices_leave_those_before_them(monkeypatch, tmp_path):
    """The model is left out, because it needs the counts on eight devices."""
    monkeypatch.setattr(scaling.machine, "measure", lambda **_: MACHINE)
    found = split_losses.Finding(
        [Exchange({"all-reduce": 1}, {"all-reduce": 8})] * len(Scheme),
        {scheme: [0.25] for scheme in Scheme},
    )
    interrupt = interrupting(3)
    monkeypatch.setattr(scaling, "measure_in_subprocess", lambda *_: interrupt() or found)
    result = scaling.run(session())
    assert (
        result.extent.interrupted == "virtual devices, case 3 of 4, 4, before its first round ended"
    )
    assert {each.devices for each in result.counted} == {1, 2}
    assert [table.title[:7] for table in result.tables()] == ["Counted"]
    assert len(result.figure().axes) == 1
    assert "**QUICK, INTERRUPTED: Counted" in output.markdown(result)
    assert (output.save(result, tmp_path) / "scaling.png").exists()


def test_report_tells_counted_from_modelled(tmp_path):
    vocab = Exchange({"all-reduce": 2}, {"all-reduce": 96})
    result = report.Scaling(
        counted_shape=SHAPE,
        timed_shape=SHAPE,
        counted=tuple(
            report.Counted(devices, scheme, vocab, [0.25])
            for devices in (1, 2, 4)
            for scheme in Scheme
        ),
        modelled=tuple(
            each
            for classes in model.MODEL_CLASSES
            for devices in model.MODEL_DEVICES
            for each in model.model(Shape(8, 4, classes), devices, vocab, vocab)
        ),
        machine=MACHINE,
    )
    text = output.markdown(result)
    assert "| devices: 2 | vocab-parallel | 2 | 9.6e-05 | 12 | 250 |" in text
    assert "| MODELLED: K = 131072, 8 devices | vocab-parallel linear |" in text
    assert "**MODELLED, not measured" in text
    stream = io.StringIO()
    output.print_terminal(result, Console(file=stream, width=80))
    assert max(map(len, stream.getvalue().splitlines())) <= 80
    (folder,) = [output.save(result, tmp_path)]
    stored = json.loads((folder / "scaling.json").read_text())
    assert stored["counted"][1]["exchange"] == {
        "calls": {"all-reduce": 2},
        "payload": vocab.payload,
    }
    assert stored["modelled"][0]["scheme"] == "vocab-parallel linear"
    assert stored["model"]["links"][0]["name"] == model.LINKS[0].name
    counted, *models = result.figure().axes
    assert counted.get_title("left").startswith("COUNTED")
    assert [axes.get_title("left") for axes in models] == [
        f"MODELLED, K = {classes}" for classes in model.MODEL_CLASSES
    ]
    assert models[0].get_ylabel().startswith("MODELLED")
