"""python -m hypert5_jax.adapt --checkpoint=RUN --examples=few.jsonl --output=phi.safetensors

Reads examples of one task and writes its φ, by one forward pass of the run's hypermodel;
see docs/adapt.md. Examples are JSONL (`input`, `target`), CSV or TSV with a header, or a
task file of Super-NaturalInstructions, whose definition is then the instruction.
"""

import argparse
import dataclasses
from collections.abc import Sequence

from hypert5_jax.adapting.contexts import COMBINE, Contexts
from hypert5_jax.adapting.examples import TextExample, read_examples
from hypert5_jax.adapting.model import Model
from hypert5_jax.config import cli
from hypert5_jax.core.errors import UserError
from hypert5_jax.phi.files import require_phi_or_nothing
from hypert5_jax.phi.task_phi import TaskPhi

_SHOWN = 8


def main(argv: Sequence[str]) -> None:
    """Runs the front door.

    Raises:
      UserError: a mistake of the user's; nothing is written then.
    """
    args = _arguments(argv)
    if not args.output:
        raise UserError("--output is empty; expected a file for φ")
    require_phi_or_nothing(args.output)

    # 1. the examples, then the model: a mistake in a small file is said at once
    read = read_examples(args.examples) if args.examples else None
    examples = list(read.examples) if read else []
    instruction = args.instruction or (read.instruction if read else "")
    if args.score and not examples:
        raise UserError("--score needs examples to take the loss of; give --examples")
    model = Model.load(args.checkpoint, base=args.base)

    # 2. what the hypermodel reads
    plan = model.contexts(examples, instruction, args.combine)
    print(f"model: {model.name}")
    for line in described(plan, examples, bool(instruction), model):
        print(line)

    # 3. φ
    phi = model.adapt(examples, instruction, args.combine)
    phi.save(args.output)
    print(f"φ: {args.output}, {phi.header.adaptation}, for T5 {model.base_model[:12]}")
    if args.score:
        for line in scored(model, examples, phi):
            print(line)


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = cli.command_line("adapt", __doc__)
    cli.add_model(parser)
    parser.add_argument(
        "--examples",
        metavar="FILE",
        help=".jsonl, .json, .csv, .tsv, or an S-NI task (.json)",
    )
    parser.add_argument(
        "--instruction",
        default="",
        help="what the task is, in words (S-NI's definition)",
    )
    parser.add_argument(
        "--combine",
        default="none",
        choices=COMBINE,
        help="what happens to examples beyond one context: left out, or read in further "
        "contexts whose φ are averaged or joined",
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="the φ file")
    parser.add_argument(
        "--score",
        action="store_true",
        help="print the loss of the examples with φ, without, and with the φ of nothing",
    )
    return parser.parse_args(argv)


def described(
    plan: Contexts, examples: Sequence[TextExample], instruction: bool, model: Model
) -> list[str]:
    """Lines that say what is read and what is not."""
    room = model.row.context_length
    lines = []
    for number, (ids, used) in enumerate(
        zip(plan.ids, plan.used, strict=True), start=1
    ):
        place = "context" if len(plan.ids) == 1 else f"context {number}"
        parts = ["the instruction"] if instruction else []
        parts += [f"{len(used)} of {len(examples)} examples"] if examples else []
        lines.append(f"{place}: {' and '.join(parts)}, {len(ids):,} of {room:,} tokens")
    if plan.left_out:
        places = [examples[i].where for i in plan.left_out]
        names = ", ".join(places[:_SHOWN]) + (", …" if len(places) > _SHOWN else "")
        count = "1 example" if len(places) == 1 else f"{len(places)} examples"
        lines.append(f"left out: {count}, for want of room ({names})")
        if len(plan.ids) == 1:
            lines.append(
                "  --combine=mean or --combine=concatenate reads them in further contexts"
            )
    lines += [f"cut: {what} is too long for its context" for what in plan.cut]
    most = model.row.max_shots
    if most and max(map(len, plan.used)) > most:
        lines.append(f"note: in training a context had at most {most} examples")
    if len(examples) == 1:
        lines.append("note: one example shows little of a task; give more if there are")
    return lines


def scored(model: Model, examples: Sequence[TextExample], phi: TaskPhi) -> list[str]:
    """Lines with the loss of the examples under three φ, in nats per target token."""
    spec = model.system.variant.spec
    assert spec is not None
    header = dataclasses.replace(phi.header, spec=spec)
    empty = TaskPhi(model.make_phi([[]]), header)
    losses = {
        "with φ": model.loss(examples, phi),
        "without φ": model.loss(examples),
        "with φ of an empty context": model.loss(examples, empty),
    }
    return [
        "loss of these examples, nats per target token:",
        *(f"  {name}: {loss:.4f}" for name, loss in losses.items()),
    ]


if __name__ == "__main__":
    cli.run(main)
