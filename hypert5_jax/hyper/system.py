"""The system: a downstream T5, a source of φ, and how they are joined, as functions.

Parameters are a dict of groups, {"hypermodel": …, "downstream": …, "phi": …}, of which a
variant has "downstream" and at most one of the others.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from hypert5_jax.core import trees
from hypert5_jax.core.batch import Batch
from hypert5_jax.core.errors import UserError
from hypert5_jax.hyper import learned
from hypert5_jax.hyper.hypermodel import Hypermodel, flat_names, module_names
from hypert5_jax.hyper.start import NEW, beside_t5
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.phi.types import Phi
from hypert5_jax.t5.config import T5Config
from hypert5_jax.t5.loss import LossSums, cross_entropy
from hypert5_jax.t5.network import T5

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class System:
    """A variant made concrete by the sizes of its models.

    Attributes:
      downstream: the T5 that is adapted.
      variant: how.
      hypermodel: sizes of the hypermodel; None means those of the downstream model.
    """

    downstream: T5Config
    variant: Variant
    hypermodel: T5Config | None = None

    def __post_init__(self) -> None:
        if self.hypermodel is not None and self.variant.source != "generated":
            raise UserError(
                f"a hypermodel was given, but source={self.variant.source!r} has none"
            )

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the parameter groups."""
        return self.variant.groups

    @property
    def _downstream(self) -> T5:
        return T5(self.downstream)

    @property
    def _hypermodel(self) -> Hypermodel:
        config = self.hypermodel or self.downstream
        return Hypermodel(config, self.downstream, self.variant)

    def _init_boxed(self, rng: Array) -> Params:
        token = jnp.ones((1, 1), jnp.int32)
        keys = dict(zip(("hypermodel", "downstream", "phi"), jax.random.split(rng, 3)))
        params: Params = {}
        if "hypermodel" in self.groups:
            tree = self._hypermodel.init(keys["hypermodel"], token)["params"]
            params["hypermodel"] = flat_names(tree)
        tree = self._downstream.init(keys["downstream"], token, token)["params"]
        params["downstream"] = tree
        if "phi" in self.groups:
            params["phi"] = learned.init(keys["phi"], self.downstream, self.variant)
        return params

    def init(self, rng: Array) -> Params:
        """Random parameters of every group, float32."""
        return nn.unbox(self._init_boxed(rng))

    def init_from_t5(self, rng: Array, t5: Params) -> Params:
        """Parameters around a given T5: the downstream model is it, a hypermodel starts
        as it except for slots and heads, a learned φ is random.

        Args:
          rng: for what is new.
          t5: the "downstream" group of another run, layers laid out as here.

        Raises:
          UserError: t5's parameters are not those of this downstream model, or the
            hypermodel has other sizes than the T5 it should start from.
        """
        shapes = self.abstract_params()
        check_same_shapes(shapes["downstream"], t5, "the initial T5")
        if "hypermodel" in shapes and self.hypermodel not in (None, self.downstream):
            raise UserError(
                "a hypermodel of other sizes than the downstream T5 cannot start from "
                "its checkpoint: give it a checkpoint of its own"
            )

        def new_parts(key: Array) -> Params:
            params = self.init(key)
            del params["downstream"]
            if "hypermodel" in params:
                params["hypermodel"] = {k: params["hypermodel"][k] for k in NEW}
            return params

        # Under jit the compiler drops the initialisers of all that t5 provides.
        params = jax.jit(new_parts)(rng)
        params["downstream"] = jax.tree.map(jnp.asarray, t5)
        if "hypermodel" in params:
            params["hypermodel"] = beside_t5(
                params["hypermodel"], t5, self.downstream, self.variant
            )
        return params

    def abstract_params(self) -> Params:
        """`init`'s tree as ShapeDtypeStructs; costs no memory."""
        # Traced: under a mesh, unboxing constrains the layout of arrays.
        return jax.eval_shape(nn.unbox, _boxed_shapes(self))

    def logical_axes(self) -> Params:
        """`init`'s tree with a tuple of axis names (or None) for every array."""
        specs = nn.get_partition_spec(_boxed_shapes(self))
        return jax.tree.map(
            tuple, specs, is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec)
        )

    def make_phi(
        self,
        params: Params,
        hyper_inputs: ArrayLike,
        *,
        dropout_rng: Array | None = None,
    ) -> Phi | None:
        """φ: generated from contexts, learned, or none.

        Args:
          params: the groups.
          hyper_inputs: int32 [C, k]; only read by a hypermodel.
          dropout_rng: a key turns the hypermodel's dropout on.

        Returns:
          φ of batch C (generated) or `learned_batch` (learned), or None.
        """
        if self.variant.source == "none":
            return None
        if self.variant.source == "learned":
            return learned.phi_of(params["phi"], self.downstream, self.variant)
        return self._hypermodel.apply(
            {"params": module_names(params["hypermodel"])},
            hyper_inputs,
            dropout_rng is None,
            rngs=_rngs(dropout_rng),
        )

    def embeddings(self, params: Params, hyper_inputs: ArrayLike) -> Array:
        """What a hypermodel's heads read: [C, 2P | 3L, d] for contexts int32 [C, k].

        With parametrisation="mlp" these are prefix tuning's embeddings, and the heads
        its MLPs.
        """
        return self._hypermodel.apply(
            {"params": module_names(params["hypermodel"])},
            hyper_inputs,
            method="representations",
        )

    def logits(
        self,
        params: Params,
        batch: Batch,
        *,
        phi: Phi | None = None,
        dropout_rng: Array | None = None,
    ) -> Array:
        """Teacher-forced float32 [B, q, vocab]; φ is made from the batch unless given."""
        rngs: tuple[Array | None, Array | None] = (None, None)
        if dropout_rng is not None:
            hyper_rng, downstream_rng = jax.random.split(dropout_rng)
            trained = "downstream" in self.variant.trainable
            keep = trained or self.variant.downstream_dropout
            rngs = hyper_rng, downstream_rng if keep else None
        if phi is None:
            phi = self.make_phi(params, batch.hyper_inputs, dropout_rng=rngs[0])
        return self._downstream.apply(
            {"params": params["downstream"]},
            batch.inputs,
            batch.targets,
            phi,
            rngs[1] is None,
            rngs=_rngs(rngs[1]),
        )

    def loss(
        self,
        params: Params,
        batch: Batch,
        *,
        phi: Phi | None = None,
        dropout_rng: Array | None = None,
        z_loss: float = 0.0,
    ) -> LossSums:
        """Sums over the batch's target tokens; `.total` is what to differentiate."""
        logits = self.logits(params, batch, phi=phi, dropout_rng=dropout_rng)
        return cross_entropy(logits, batch.targets, batch.weights, z_loss)


@functools.lru_cache(maxsize=32)
def _boxed_shapes(system: System) -> Params:
    """Shapes and axis names of a system's parameters: a trace, made once."""
    return jax.eval_shape(system._init_boxed, jax.random.key(0))


def _rngs(key: Array | None) -> dict[str, Array]:
    return {} if key is None else {"dropout": key}


def check_same_shapes(expected: Mapping, given: Mapping, what: str) -> None:
    """Refuses parameters of another model.

    Raises:
      UserError: naming the first parameter that is missing, unexpected or of another
        shape, with both shapes.
    """

    want, have = trees.flatten(expected), trees.flatten(given)
    for path in sorted(want.keys() | have.keys()):
        shapes = [tuple(t[path].shape) if path in t else None for t in (want, have)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{what} is of another model: {path} is {shapes[1] or 'absent'} there, "
                f"{shapes[0] or 'absent'} here; take parameters of this model and "
                "variant, or give the settings they were trained with"
            )
