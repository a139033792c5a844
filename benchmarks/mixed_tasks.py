"""Inputs of 8 tasks as one batch, beside 8 batches with peft swapping adapters.

    python -m benchmarks.mixed_tasks [--tasks 8 --rows 8 --tokens 16 --repeats 3]

T5-small, float32, the same random weights and the same random LoRA (rank 8 on every
query and value map) for each task; greedy, nobody ever says EOS:

    mixed         one batch, shuffled, every row with its own φ
    by task       one batch, the rows of a task side by side and sharing its φ
    one by one    a batch for each task, its φ shared
    peft          a batch for each task, `set_adapter` and Hugging Face's `generate`

All must give the same answers. They alternate; medians count. Needs the extra `parity`.
"""

import argparse
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import side_by_side
from benchmarks.side_by_side import SMALL
from hypert5_jax.inference import decoding
from hypert5_jax.phi.spec import LoRASpec, phi_shapes
from hypert5_jax.phi.types import Phi, named_arrays

SPEC = LoRASpec(rank=8, alpha=16.0)
BLOCKS = {
    "encoder/self_attention": "encoder.block.{}.layer.0.SelfAttention",
    "decoder/self_attention": "decoder.block.{}.layer.0.SelfAttention",
    "decoder/cross_attention": "decoder.block.{}.layer.1.EncDecAttention",
}
MAPS = {"query": "q", "value": "v"}


@dataclasses.dataclass(frozen=True)
class Work:
    """What everybody answers.

    Attributes:
      inputs: int32 [tasks, rows, k].
      phi: LoRA of batch `tasks`.
      tokens: of an answer.
    """

    inputs: np.ndarray
    phi: Phi
    tokens: int


def random_phi(tasks: int) -> Phi:
    """LoRA large enough that every task has other answers."""
    rng = np.random.default_rng(3)

    def fill(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        noise = rng.standard_normal(leaf.shape, np.float32)
        return jnp.asarray(0.5 * noise / np.sqrt(leaf.shape[-2]))

    return jax.tree.map(fill, phi_shapes(SPEC, SMALL.sites, tasks))


def rows_of(phi: Phi, rows: np.ndarray) -> Phi:
    """φ of batch len(rows)."""
    return jax.tree.map(lambda leaf: leaf[:, rows], phi)


def answering(work: Work, params: Any) -> dict[str, Callable[[], np.ndarray]]:
    """Our three ways; each gives int32 [tasks, rows, tokens]."""
    settings = decoding.Decoding(work.tokens)
    run = jax.jit(lambda p, i, f: decoding.decode(SMALL, p, i, settings, f))
    tasks, rows, length = work.inputs.shape
    flat = work.inputs.reshape(-1, length)
    order = np.random.default_rng(4).permutation(len(flat))
    own = rows_of(work.phi, order // rows)
    apart = [rows_of(work.phi, np.array([task])) for task in range(tasks)]

    def mixed() -> np.ndarray:
        said = np.empty((len(flat), work.tokens), np.int32)
        said[order] = run(params, flat[order], own)
        return said.reshape(tasks, rows, -1)

    def by_task() -> np.ndarray:
        return np.asarray(run(params, flat, work.phi)).reshape(tasks, rows, -1)

    def one_by_one() -> np.ndarray:
        pairs = zip(work.inputs, apart, strict=True)
        return np.stack([np.asarray(run(params, here, phi)) for here, phi in pairs])

    return {"mixed": mixed, "by task": by_task, "one by one": one_by_one}


def swapping(work: Work, model: Any) -> Callable[[], np.ndarray]:
    """peft: an adapter for each task, made active in its turn."""
    import peft
    import torch

    tasks = len(work.inputs)
    config = peft.LoraConfig(
        r=SPEC.rank,
        lora_alpha=SPEC.scale * SPEC.rank,
        lora_dropout=0.0,
        target_modules=list(MAPS.values()),
        task_type="SEQ_2_SEQ_LM",
    )
    adapted = peft.get_peft_model(model, config, adapter_name="0").eval()
    for task in range(1, tasks):
        adapted.add_adapter(str(task), config)
    held = dict(adapted.named_parameters())
    written = 0
    for path, array in named_arrays(work.phi):
        site, name, factor = path.rsplit("/", 2)
        # peft's factors are [out, in] and scaled when they are used, ours when made.
        array = np.asarray(array) / (SPEC.scale if factor == "b" else 1.0)
        for layer, task in np.ndindex(array.shape[:2]):
            block = f"base_model.model.{BLOCKS[site].format(layer)}.{MAPS[name]}"
            place = held[f"{block}.lora_{factor.upper()}.{task}.weight"]
            with torch.no_grad():
                place.copy_(torch.from_numpy(array[layer, task].T.copy()))
            written += 1
    assert written == sum("lora_" in name for name in held)

    def run() -> np.ndarray:
        said = []
        for task in range(tasks):
            adapted.set_adapter(str(task))
            said.append(side_by_side.answers(adapted, work.inputs[task], work.tokens))
        return np.stack(said)

    return run


def main() -> None:
    """Prints seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--inputs", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    print(
        f"T5-small, float32, {args.tasks} tasks x {args.rows} inputs of {args.inputs} "
        f"tokens, {args.tokens} tokens greedily; {side_by_side.machine()}"
    )
    made = side_by_side.weights()
    inputs = side_by_side.draw(5, args.tasks, args.rows, args.inputs)
    work = Work(inputs, random_phi(args.tasks), args.tokens)
    runs = answering(work, side_by_side.ours(made))
    runs["peft"] = swapping(work, side_by_side.hugging_face(made))
    said = {name: run() for name, run in runs.items()}
    expected = said["peft"]
    for name, found in said.items():
        if not np.array_equal(found, expected):
            raise SystemExit(
                f"{name}: {(found != expected).mean():.1%} of tokens differ"
            )
    distinct = len(np.unique(expected.reshape(-1, args.tokens), axis=0))
    print(f"all say the same {distinct} different answers")
    medians = side_by_side.report(side_by_side.alternate(runs, args.repeats), "mixed")
    for name in ("peft", "one by one"):
        ratio = medians[name] / medians["mixed"]
        print(f"one mixed batch has {ratio:.2f} times the throughput of `{name}`")


if __name__ == "__main__":
    main()
