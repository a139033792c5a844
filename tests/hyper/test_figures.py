"""The package's hypermodels are Figures 7 and 8, as a second implementation reads them."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from hypert5_jax.core.batch import Batch
from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.phi.spec import LoRASpec, PrefixSpec
from hypert5_jax.t5.loss import cross_entropy
from tests import models
from tests.hyper import figures

VARIANTS = {
    "prefix": Variant(
        "prefix", "generated", trainable=("hypermodel",), prefix=PrefixSpec(length=3)
    ),
    "prefix-mlp": Variant(
        "prefix",
        "generated",
        "mlp",
        trainable=("hypermodel",),
        prefix=PrefixSpec(length=3),
    ),
    "lora": Variant(
        "lora", "generated", trainable=("hypermodel",), lora=LoRASpec(rank=2)
    ),
}


def reference_logits(system, params, batch) -> list[np.ndarray]:
    """Logits of each row's real target positions, by the second implementation."""
    cfg = system.downstream
    hyper, downstream = params["hypermodel"], params["downstream"]
    rows = []
    for context, inputs, targets in zip(
        batch.hyper_inputs, batch.inputs, batch.targets, strict=True
    ):
        output = figures.hyper_decoder_output(cfg, hyper, context[context > 0])
        if system.variant.adaptation == "prefix":
            phi = figures.figure_7(cfg, hyper["heads"], output)
        else:
            phi = figures.figure_8(
                cfg, hyper["heads"], output, system.variant.lora.rank
            )
        real = inputs[inputs > 0], targets[targets > 0]
        rows.append(figures.downstream_logits(cfg, downstream, *real, phi))
    return rows


def reference_loss(system, params, batch) -> float:
    """Summed cross-entropy of the real target tokens."""
    total = 0.0
    for logits, targets in zip(
        reference_logits(system, params, batch), batch.targets, strict=True
    ):
        targets = targets[targets > 0]
        log_z = np.log(np.exp(logits).sum(-1))
        total += (log_z - logits[np.arange(len(targets)), targets]).sum()
    return total


@dataclasses.dataclass(frozen=True)
class Case:
    """A system, float64 parameters, a padded batch, and what ours makes of them."""

    system: System
    params: dict[str, Any]
    batch: Batch
    loss: float
    logits: np.ndarray
    gradients: dict[str, Any]


@pytest.fixture(scope="module", params=sorted(VARIANTS))
def case(request):
    """Our loss, logits and the hypermodel's gradients, compiled once for both tests."""
    system = System(models.TINY, VARIANTS[request.param])
    params = models.random_params(system, seed=3)
    batch = models.random_batch(rows=3, seed=5)

    def summed_loss(hypermodel):
        groups = {**params, "hypermodel": hypermodel}
        logits = system.logits(groups, batch)
        return cross_entropy(logits, batch.targets, batch.weights).total, logits

    compiled = jax.jit(jax.value_and_grad(summed_loss, has_aux=True))
    (loss, logits), gradients = compiled(params["hypermodel"])
    exact = jax.tree.map(lambda leaf: leaf.astype(np.float64), params)
    gradients = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), gradients)
    return Case(system, exact, batch, float(loss), np.asarray(logits), gradients)


def test_logits_are_those_of_the_figures(case):
    expected = reference_logits(case.system, case.params, case.batch)
    for row, targets, reference in zip(
        case.logits, case.batch.targets, expected, strict=True
    ):
        scale = np.abs(reference).max()
        np.testing.assert_allclose(row[targets > 0], reference, atol=1e-5 * scale)


def test_loss_and_gradients_are_those_of_the_figures(case):
    """The gradient along a direction of its own, by central differences in float64.

    The direction is the gradient with every entry randomly scaled: along a direction
    that knows nothing of it the products cancel, and rounding is all that is left.
    """
    hypermodel = case.params["hypermodel"]
    size = sum(np.vdot(g, g) for g in jax.tree.leaves(case.gradients)) ** 0.5
    direction = jax.tree.map(
        lambda g, r: (g * (1 + 0.5 * r)).astype(np.float64) * (100 / size),
        case.gradients,
        models.random_tree(hypermodel, seed=7, scale=1.0),
    )
    step = 1e-6

    def loss_at(distance: float) -> float:
        moved = jax.tree.map(lambda leaf, d: leaf + distance * d, hypermodel, direction)
        params = {**case.params, "hypermodel": moved}
        return reference_loss(case.system, params, case.batch)

    assert case.loss == pytest.approx(loss_at(0.0), rel=1e-5)
    expected = (loss_at(step) - loss_at(-step)) / (2 * step)
    products = jax.tree.map(np.vdot, case.gradients, direction)
    assert sum(jax.tree.leaves(products)) == pytest.approx(expected, rel=1e-4)
