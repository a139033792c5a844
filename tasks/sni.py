"""Super-NaturalInstructions: each file is a logical task of one seqio task.

    sni_{train,test}             shots drawn from the task
    sni_def_{train,test}         context `<x> Definition`
    sni_def_pos_{train,test}     … and two fixed positive examples (Def + 2 Pos)
    sni_def_shots_{train,test}   … and drawn shots

The files are those of the public repository (`tasks/*.json`, `splits/default/*.txt`),
looked for in `$HYPERT5_DATA/sni`. Training takes 100 instances of a task, evaluation the
first 100 (Tk-Instruct; inventory A24). Another folder: call `register`.
"""

import random
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import seqio

from hypert5_jax.core.errors import UserError
from hypert5_jax.evaluation.metrics import exact_match, rouge_l
from hypert5_jax.preparation.declare import add_task
from hypert5_jax.preparation.json_files import read_json
from hypert5_jax.preparation.locations import data_folder, vocabulary_model
from hypert5_jax.preparation.sources import TEXT, FilesSource

CONTEXTS = ("shots", "def", "def_pos", "def_shots")
INSTANCES = 100
POSITIVES = 2


def task_files(folder: Path | None, split: str) -> list[Path]:
    """The files of the official split that are there, in the order of its list.

    Raises:
      UserError: no list, or none of its files.
    """
    folder = folder or data_folder() / "sni"
    names = folder / "splits" / "default" / f"{split}_tasks.txt"
    if not names.exists():
        raise UserError(
            f"{names} is missing; set HYPERT5_DATA to the folder above `sni`, a copy of "
            "the natural-instructions repository"
        )
    listed = [folder / "tasks" / f"{name}.json" for name in names.read_text().split()]
    found = [path for path in listed if path.exists()]
    if not found:
        raise UserError(
            f"none of the {len(listed)} tasks of {names} is in {folder / 'tasks'}"
        )
    return found


def read_task(
    split: str,
    path: Path,
    context: str = "shots",
    instances: int = INSTANCES,
    seed: int = 0,
) -> Iterator[dict[str, str]]:
    """Yields a task's examples as text.

    Raises:
      UserError: malformed JSON (file and line), or a field that is missing.
    """
    task = read_json(path)
    try:
        chosen = list(task["Instances"])
        # A task's own generator: its draw does not depend on the tasks before it.
        draw = random.Random(f"{seed}:{path.stem}")
        if split == "train" and len(chosen) > instances:
            chosen = draw.sample(chosen, instances)
        fixed = _context(task, context)
        shown = [p["input"] for p in _positives(task)] if context == "def_pos" else []
        for instance in chosen[:instances]:
            if split == "train" and instance["input"] in shown:
                continue  # a target is never among its own fixed examples
            outputs = instance["output"]
            outputs = [outputs] if isinstance(outputs, str) else list(outputs)
            output = draw.choice(outputs) if split == "train" else outputs[0]
            example = {"inputs": instance["input"], "targets": output}
            example |= {"task": path.stem}
            yield example | ({} if context == "shots" else {"context": fixed})
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(
            f"{path}: not a Super-NaturalInstructions task "
            f"({type(error).__name__}: {error}); expected Definition, Positive Examples "
            "and Instances with input and output"
        ) from error


def _positives(task: dict[str, Any]) -> list[dict[str, str]]:
    return list(task["Positive Examples"][:POSITIVES])


def _context(task: dict[str, Any], context: str) -> str:
    definition = task["Definition"]
    definition = definition if isinstance(definition, str) else definition[0]
    # The definition comes first, so that cutting never loses it (protocols §3).
    text = f"<x> {definition.strip()}"
    if context == "def_pos":
        for positive in _positives(task):
            text += f" <x> {positive['input']} <y> {positive['output']}"
    return text + (" <shots>" if context == "def_shots" else "")


def register(
    prefix: str = "sni",
    folder: Path | None = None,
    vocabulary: seqio.Vocabulary | None = None,
    instances: int = INSTANCES,
    seed: int = 0,
    splits: Sequence[str] = ("train", "test"),
) -> None:
    """Registers `{prefix}[_{context}]_{split}` for every kind of context.

    Args:
      prefix: of the names.
      folder: of the repository; `$HYPERT5_DATA/sni` by default, looked up when used.
      vocabulary: T5's by default.
      instances: most instances of a task.
      seed: which instances and which of several outputs training takes.
      splits: which of the official lists.
    """
    vocabulary = vocabulary or seqio.SentencePieceVocabulary(
        vocabulary_model(), extra_ids=100
    )
    for split in splits:
        for context in CONTEXTS:
            signature = {"inputs": TEXT, "targets": TEXT, "task": TEXT}
            if context != "shots":
                signature["context"] = TEXT
            middle = "" if context == "shots" else f"_{context}"
            add_task(
                f"{prefix}{middle}_{split}",
                FilesSource(
                    partial(task_files, folder),
                    partial(read_task, context=context, instances=instances, seed=seed),
                    signature,
                    splits=[split],
                ),
                vocabulary,
                metrics=[rouge_l, exact_match],
            )


register()
