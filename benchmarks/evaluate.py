"""Ranking options with one φ and one encoder pass, beside doing everything per option.

    python -m benchmarks.evaluate [--examples 16 --context 512 --options 4 --repeats 3]

A HyperT5-Prefix of T5-small's widths (fewer layers, so that it takes minutes on two
cores) ranks 4 options of each example under one context of 512 tokens:

    shared        φ once for all examples, the encoder once per example
    per option    a row per option, φ made again from the context for every row
    one φ a call  the same rows, φ made again for every batch
    Hugging Face  a T5 of the same sizes reads context and input, a row per option

The first three give the same scores, which is checked. Hugging Face's line needs torch
and transformers (make parity installs them) and is left out without. It is a T5 without
a hypermodel, so its scores are others.
"""

import argparse
import dataclasses
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hypert5_jax.core import trees
from hypert5_jax.core.batch import Batch
from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.inference.answering import Answerer, Question
from hypert5_jax.inference.scoring import score_targets
from hypert5_jax.phi.spec import PrefixSpec
from hypert5_jax.t5.config import SIZES, T5Config
from hypert5_jax.t5.stacking import stack_layers
from tests.t5 import hf_weights

SHARED, PER_ROW, PER_CALL = "shared", "per option", "one φ a call"
HUGGING_FACE = "Hugging Face"


@dataclasses.dataclass(frozen=True)
class Examples:
    """The same questions for everybody: ids without padding.

    Attributes:
      context: int32 [context tokens].
      inputs: int32 [n, input tokens].
      options: int32 [n, o, option tokens].
    """

    context: np.ndarray
    inputs: np.ndarray
    options: np.ndarray

    @property
    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """(inputs, options) with a row per option."""
        n, o, length = self.options.shape
        return np.repeat(self.inputs, o, axis=0), self.options.reshape(n * o, length)


def draw(cfg: T5Config, args: argparse.Namespace) -> Examples:
    """Random ids."""
    rng = np.random.default_rng(0)

    def ids(*shape: int) -> np.ndarray:
        return rng.integers(3, cfg.vocab_size - 200, shape, dtype=np.int32)

    return Examples(
        ids(args.context),
        ids(args.examples, args.inputs),
        ids(args.examples, args.options, args.targets),
    )


def make_system(cfg: T5Config) -> tuple[System, dict[str, Any]]:
    """A HyperT5-Prefix around random weights of a trained model's magnitude."""
    system = System(cfg, Variant(prefix=PrefixSpec(length=32)))
    flat = hf_weights.to_ours(hf_weights.random_hf_weights(cfg))
    t5 = stack_layers(trees.unflatten(flat))
    return system, system.init_from_t5(jax.random.key(0), t5)


def shared(system: System, params: Any, given: Examples, batch: int) -> Callable:
    """φ once, the encoder once per example."""
    answerer = Answerer(
        system,
        params,
        batch_size=batch,
        hyper_length=len(given.context),
        input_length=given.inputs.shape[1],
        target_length=given.options.shape[2],
    )
    questions = [
        Question(ids, options)
        for ids, options in zip(given.inputs.tolist(), given.options.tolist())
    ]
    context = given.context.tolist()

    def run() -> np.ndarray:
        found = dict(answerer.rank(questions, [context], "sum"))
        return np.array([found[i].scores for i in range(len(questions))])

    return run


def separately(
    system: System, params: Any, given: Examples, batch: int, contexts: int
) -> Callable:
    """A row per option; φ from `contexts` copies of the context in every batch."""
    inputs, targets = given.rows
    score = jax.jit(lambda params, batch: score_targets(system, params, batch).log_prob)
    weights = np.ones((batch, targets.shape[1]), np.float32)
    hyper = np.tile(given.context, (contexts, 1))

    def run() -> np.ndarray:
        parts = []
        for start in range(0, len(inputs), batch):
            here = slice(start, start + batch)
            rows = Batch(hyper, inputs[here], targets[here], weights)
            parts.append(np.asarray(score(params, rows)))
        return np.concatenate(parts).reshape(given.options.shape[:2])

    return run


def hugging_face(cfg: T5Config, given: Examples, batch: int) -> Callable:
    """Context and input concatenated, a row per option."""
    import torch

    from tests.t5 import huggingface

    with tempfile.TemporaryDirectory() as folder:
        weights = hf_weights.random_hf_weights(cfg)
        model = huggingface.load(cfg, weights, Path(folder)).eval()
    inputs, targets = given.rows
    context = np.tile(given.context, (len(inputs), 1))
    read = torch.from_numpy(np.concatenate([context, inputs], 1)).long()
    said = torch.from_numpy(targets).long()

    def run() -> np.ndarray:
        parts = []
        with torch.no_grad():
            for start in range(0, len(read), batch):
                here = slice(start, start + batch)
                logits = model(input_ids=read[here], labels=said[here]).logits
                log_probs = torch.log_softmax(logits, -1)
                picked = log_probs.gather(-1, said[here][..., None])[..., 0]
                parts.append(picked.sum(-1).numpy())
        return np.concatenate(parts).reshape(given.options.shape[:2])

    return run


def main() -> None:
    """Prints seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--examples", type=int, default=16)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--inputs", type=int, default=128)
    parser.add_argument("--targets", type=int, default=16)
    parser.add_argument("--options", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    cfg = dataclasses.replace(
        SIZES["small"],
        dtype="float32",
        remat="none",
        num_encoder_layers=args.layers,
        num_decoder_layers=args.layers,
    )
    given = draw(cfg, args)
    system, params = make_system(cfg)
    runs = {
        SHARED: shared(system, params, given, args.batch),
        PER_ROW: separately(system, params, given, args.batch, args.batch),
        PER_CALL: separately(system, params, given, args.batch, 1),
    }
    if importlib.util.find_spec("torch") and importlib.util.find_spec("transformers"):
        runs[HUGGING_FACE] = hugging_face(cfg, given, args.batch)
    print(
        f"T5-small's widths, {args.layers} + {args.layers} layers, float32: "
        f"{args.examples} examples x {args.options} options of {args.targets} tokens, "
        f"inputs {args.inputs}, context {args.context}, batch {args.batch}"
    )
    scores = {name: run() for name, run in runs.items()}  # compiles
    for name in (PER_ROW, PER_CALL):
        np.testing.assert_allclose(scores[name], scores[SHARED], rtol=1e-3)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(args.repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(t) for name, t in times.items()}
    for name, elapsed in medians.items():
        print(
            f"{name:13s} median {elapsed:6.2f} s  ({min(times[name]):.2f} … "
            f"{max(times[name]):.2f})  {elapsed / medians[SHARED]:6.2f} times `shared`"
        )
    if HUGGING_FACE not in runs:
        print(f"{HUGGING_FACE}: torch or transformers is not installed, left out")


if __name__ == "__main__":
    main()
