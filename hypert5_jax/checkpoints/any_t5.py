"""Any T5 that can be read, as T5X names it."""

from typing import Any

from hypert5_jax.checkpoints import store, t5x
from hypert5_jax.core import trees
from hypert5_jax.core.errors import UserError
from hypert5_jax.t5.config import T5Config

Tree = dict[str, Any]


def load_any_t5(path: str, config: T5Config | None = None) -> tuple[Tree, T5Config]:
    """A T5's parameters, as NumPy arrays in T5X's unstacked layout, and its sizes.

    Args:
      path: a T5X checkpoint, or a run that trained a T5.
      config: the sizes it must have; its other switches are kept.

    Raises:
      UserError: nothing there, damaged, or a T5 of other sizes.
    """
    if t5x.is_t5x(path):
        params = t5x.load_t5(path)
    else:
        groups, _ = store.load_params(path)
        if "downstream" not in groups:
            raise UserError(f"{path} holds no downstream T5, but {', '.join(groups)}")
        params = groups["downstream"]
    return params, config or sizes_of(trees.flatten(params))


def sizes_of(flat: dict[str, Any]) -> T5Config:
    """The sizes that the shapes of a T5's parameters, by path, tell."""
    vocab, emb = flat["token_embedder/embedding"].shape
    heads, buckets = flat["encoder/relpos_bias/rel_embedding"].shape
    depths = {
        stack: sum(
            path.startswith(f"{stack}/layers_") and path.endswith("mlp/wo/kernel")
            for path in flat
        )
        for stack in ("encoder", "decoder")
    }
    return T5Config(
        vocab_size=vocab,
        emb_dim=emb,
        num_heads=heads,
        head_dim=flat["encoder/layers_0/attention/query/kernel"].shape[1] // heads,
        mlp_dim=flat["encoder/layers_0/mlp/wo/kernel"].shape[0],
        num_encoder_layers=depths["encoder"],
        num_decoder_layers=depths["decoder"],
        relative_attention_num_buckets=buckets,
    )
