"""A T5, φ for it, and what our T5 says with φ: what other programs are compared with."""

from pathlib import Path

import jax
import numpy as np

from hypert5_jax.core import trees
from hypert5_jax.inference import decoding
from hypert5_jax.phi import types
from hypert5_jax.phi.files import PhiHeader, save_phi
from hypert5_jax.phi.spec import PrefixSpec, Spec, phi_shapes, share_decoder_prefix
from hypert5_jax.t5 import network, stacking
from hypert5_jax.t5.config import T5Config
from tests.models import random_tree
from tests.t5 import hf_weights, parity

CASE = parity.CASES["tiny"]
CONFIG = CASE.config
ANSWER = 10


def header(spec: Spec, weights: dict[str, np.ndarray], config: T5Config = CONFIG):
    """Of a φ made for the T5 with these weights, by Hugging Face's names."""
    base = trees.fingerprint(trees.unflatten(hf_weights.to_ours(weights)))
    return PhiHeader(spec, config.sites, base, "a test")


def random_phi(spec: Spec, seed: int = 0, batch: int = 1, config: T5Config = CONFIG):
    """A φ far from a no-op."""
    scale = 0.5 if isinstance(spec, PrefixSpec) else 0.2
    return random_tree(phi_shapes(spec, config.sites, batch), seed, scale)


def written(path: Path, phi: types.Phi, about: PhiHeader) -> str:
    """φ in a file of its own."""
    save_phi(str(path), phi, about)
    return str(path)


def joined(phis: list[types.Phi]) -> types.Phi:
    """φ of several tasks as one of batch len(phis)."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves, 1), *phis)


def in_use(phi: types.Phi, spec: Spec) -> types.Phi:
    """φ as a downstream T5 is given it."""
    if isinstance(spec, PrefixSpec) and spec.cross_attention == "share_decoder":
        return share_decoder_prefix(phi)
    return phi


def inputs_in_front() -> np.ndarray:
    """int32 [6, k]: the case's inputs, and the same reversed; no padding leads."""
    inputs = CASE.batch()[0]
    both = np.concatenate([inputs, inputs[:, ::-1]])
    return np.stack([np.concatenate([row[row != 0], row[row == 0]]) for row in both])


def our_params(weights: dict[str, np.ndarray]) -> dict:
    """Our T5's parameters, layers stacked."""
    return stacking.stack_layers(trees.unflatten(hf_weights.to_ours(weights)))


def our_logits(params: dict, phi: types.Phi | None, config: T5Config = CONFIG):
    """float32 [b, q, vocab] of the case's batch."""
    inputs, targets = CASE.batch()
    model = network.T5(config)
    return np.asarray(
        jax.jit(lambda p, f: model.apply({"params": p}, inputs, targets, f))(
            params, phi
        )
    )


def our_answers(params: dict, phi: types.Phi | None, inputs: np.ndarray, config):
    """int32 [b, ANSWER], greedy."""
    decode = jax.jit(lambda p, f: decoding.greedy(config, p, inputs, ANSWER, f))
    return np.asarray(decode(params, phi))


def their_logits(model) -> np.ndarray:
    """Hugging Face's, of the same batch."""
    import torch

    inputs, targets = (torch.from_numpy(x).long() for x in CASE.batch())
    with torch.no_grad():
        return model(
            input_ids=inputs,
            attention_mask=(inputs != 0).long(),
            labels=targets.masked_fill(targets == 0, -100),
        ).logits.numpy()


def their_answers(model, inputs: np.ndarray, **settings) -> np.ndarray:
    """int64 [b, ANSWER] of `generate`, greedy unless told otherwise."""
    import torch

    ids = torch.from_numpy(np.ascontiguousarray(inputs)).long()
    with torch.no_grad():
        said = model.generate(
            input_ids=ids,
            attention_mask=(ids != 0).long(),
            max_new_tokens=ANSWER,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=decoding.EOS,
            **settings,
        ).numpy()[:, 1:]
    answers = np.zeros((len(inputs), ANSWER), np.int64)
    answers[:, : said.shape[1]] = said
    return answers
