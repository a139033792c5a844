"""python -m hypert5_jax.generate --checkpoint=RUN --phi=phi.safetensors --inputs=in.jsonl
--output=out.jsonl

Answers inputs with the T5 that φ adapts; see docs/adapt.md. Inputs are JSONL (`input`,
perhaps `options`), CSV or TSV with a column `input`, or lines of text. With options the
likeliest one is chosen; else text is generated. Answers are written as they come, each
with the number of its input, and put in the inputs' order at the end; the same command
goes on where it was stopped.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from etils import epath

from hypert5_jax.adapting.examples import TextInput, read_inputs
from hypert5_jax.adapting.model import Model
from hypert5_jax.config import cli
from hypert5_jax.core.errors import UserError
from hypert5_jax.core.progress import ProgressLine, clock
from hypert5_jax.evaluation.appended import AppendedLines
from hypert5_jax.evaluation.results import Json, claim, write_whole
from hypert5_jax.inference.decoding import Decoding
from hypert5_jax.inference.options import RANKINGS
from hypert5_jax.phi.task_phi import TaskPhi
from hypert5_jax.training.state import fingerprints

_DECODING = {
    "max_tokens": int,
    "beams": int,
    "alpha": float,
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "seed": int,
}


def main(argv: Sequence[str]) -> None:
    """Runs the front door.

    Raises:
      UserError: a mistake of the user's; nothing is written then.
    """
    args = _arguments(argv)

    # 1. inputs, model, φ
    inputs = with_options(read_inputs(args.inputs), args.options)
    asked = {name: getattr(args, name) for name in _DECODING}
    given = {name: value for name, value in asked.items() if value is not None}
    ranked = bool(inputs[0].options)
    if ranked and given:
        raise UserError(
            f"--{', --'.join(given)} with options to choose from: nothing is "
            "generated then; leave out one of the two"
        )
    model = Model.load(args.checkpoint, base=args.base)
    phi = None
    if args.phi:
        sites = model.system.downstream.sites
        phi = TaskPhi.load(args.phi, sites, model.base_model)
    decoding = Decoding(**{"max_tokens": model.row.target_length, **given})
    for line in cut_report(model, inputs):
        print(line)

    # 2. what is asked, checked before anything is written; `done` is known later
    done: set[int] = set()
    answers = _answers(model, inputs, phi, decoding, args, done)

    # 3. the file: what is there was made with the same settings
    decides = _settings(model, inputs, decoding, args)
    output = Path(args.output)
    require_own(output)
    with AppendedLines(output) as file:
        claim_output(file, decides)

        # 4. answers, as they come
        done.update(line["number"] for line in file.lines)
        write(file, answers, len(inputs), args.batch_size)
        lines = sorted(file.lines, key=lambda line: line["number"])

    # 5. in the inputs' order
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_whole(epath.Path(output), text)
    print(f"done: {len(lines)} answers in {output}")


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = cli.command_line("generate", __doc__)
    cli.add_model(parser)
    parser.add_argument(
        "--phi", metavar="FILE", help="of hypert5_jax.adapt; the T5 as it is without"
    )
    parser.add_argument(
        "--inputs",
        required=True,
        metavar="FILE",
        help=".jsonl, .json, .csv, .tsv or lines",
    )
    parser.add_argument("--output", required=True, metavar="FILE", help=".jsonl")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument(
        "--options", metavar="A,B,…", help="choose from these instead of generating"
    )
    parser.add_argument(
        "--ranking",
        default="sum",
        choices=RANKINGS,
        help="of options: by the sum of log-probabilities, or their mean per token",
    )
    for name, kind in _DECODING.items():
        parser.add_argument(f"--{name}", type=kind, help="see Decoding, docs/adapt.md")
    return parser.parse_args(argv)


def with_options(inputs: list[TextInput], options: str | None) -> list[TextInput]:
    """The inputs with the options of the command line, if there are any.

    Raises:
      UserError: some inputs have options of their own and others none, or all have both.
    """
    own = sum(bool(one.options) for one in inputs)
    if options is None:
        if own not in (0, len(inputs)):
            raise UserError(
                f"{own} of {len(inputs)} inputs have options; give options to all of "
                "them, or to none"
            )
        return inputs
    if own:
        raise UserError(
            f"--options={options}, but the inputs have options of their own"
        )
    shared = tuple(option.strip() for option in options.split(","))
    if not all(shared):
        raise UserError(f"--options={options} has an empty option; expected a,b,c")
    return [TextInput(one.input, shared) for one in inputs]


def cut_report(model: Model, inputs: Sequence[TextInput]) -> list[str]:
    """A line that says how many inputs are cut, if any are."""
    room = int(model.row.lengths["inputs"]) - model.row.inputs_eos
    count = sum(model.tokens.is_cut(one.input) for one in inputs)
    if not count:
        return []
    return [f"{count:,} of {len(inputs):,} inputs are cut: longer than {room:,} tokens"]


def _settings(
    model: Model,
    inputs: Sequence[TextInput],
    decoding: Decoding,
    args: argparse.Namespace,
) -> Json:
    """What decides the answers."""
    phi = None
    if args.phi:
        phi = _digest(Path(args.phi).read_bytes())
    elif model.system.variant.source == "learned":
        phi = fingerprints({"phi": model.params["phi"]})["phi"]
    decides: Json = {
        "base_model": model.base_model,
        "phi": phi,
        "vocabulary": model.vocabulary.fingerprint,
        "lengths": dict(model.row.lengths),
        "inputs": _digest(repr(inputs).encode()),
        "batch_size": args.batch_size,
    }
    if inputs[0].options:
        return decides | {"ranking": args.ranking}
    # Where nothing is drawn the seed decides nothing.
    same = decoding if decoding.temperature else replace(decoding, seed=0)
    return decides | {f"decoding {name}": v for name, v in vars(same).items()}


def require_own(output: Path) -> None:
    """Refuses a file that this command did not write, before anything touches it.

    Raises:
      UserError: it has something in it, and no settings beside it.
    """
    if output.exists() and output.stat().st_size and not _note(output).exists():
        raise UserError(
            f"{output} is there and was not written by this command; choose another "
            "--output"
        )


def claim_output(file: AppendedLines, decides: Json) -> None:
    """Takes the file for these settings, or for going on with them.

    Args:
      file: held, so that the settings noted beside it are nobody else's.
      decides: the settings.

    Raises:
      UserError: it holds answers made otherwise.
    """
    settings = _note(file.path)
    if not file.lines:
        settings.unlink(missing_ok=True)
    claim(epath.Path(settings), decides, str(file.path), "--output")


def _note(output: Path) -> Path:
    return output.with_name(output.name + ".settings.json")


def write(
    file: AppendedLines, answers: Iterable[Json], total: int, at_a_time: int
) -> None:
    """Appends answers batch by batch and shows how far that is."""
    line, waiting = ProgressLine(), list[Json]()
    begun: tuple[float, int] | None = None
    try:
        for answer in answers:
            waiting.append(answer)
            if len(waiting) < at_a_time:
                continue
            file.append(waiting)
            waiting = []
            now, count = time.monotonic(), len(file.lines)
            if (
                begun is None
            ):  # the first batch is compiled: it says nothing of the rest
                begun = now, count
            elif line.due():
                rate = (count - begun[1]) / (now - begun[0])
                left = clock((total - count) / rate)
                text = f"{count:,}/{total:,} inputs  {rate:.1f}/s  {left} left"
                line.draw(text, count / total)
    finally:
        line.close()
    if waiting:
        file.append(waiting)


def _answers(
    model: Model,
    inputs: Sequence[TextInput],
    phi: TaskPhi | None,
    decoding: Decoding,
    args: argparse.Namespace,
    done: set[int],
) -> Iterator[Json]:
    """The line of every input that is not done; asks the model before the first."""
    texts = [one.input for one in inputs]
    size = args.batch_size
    if not inputs[0].options:
        said = model.answers(texts, phi, decoding, size, done)
        return (
            {"number": number, "input": texts[number], "output": text}
            for number, text in said
            if number not in done
        )
    options = [one.options for one in inputs]
    chosen = model.choices(texts, options, phi, args.ranking, size, done)
    return (
        {
            "number": number,
            "input": texts[number],
            "output": options[number][choice.option],
            "option": choice.option,
            "scores": list(choice.scores),
        }
        for number, choice in chosen
        if number not in done
    )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    cli.run(main)
