"""Super-NaturalInstructions: each file is a logical task of one seqio task.

    sni_{train,test}             shots drawn from the task
    sni_def_{train,test}         context `<x> Definition`
    sni_def_2pos_{train,test}    … and two fixed positive examples (Def + 2 Pos)
    sni_def_shots_{train,test}   … and drawn shots

The files are those of the public repository (`tasks/*.json`, `splits/default/*.txt`),
looked for in `$HYPERT5_DATA/sni`. Training takes 100 instances of a task, evaluation the
first 100. Another folder, another split, a named release: call `register`. See
docs/sni.md.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import seqio

from hypert5_jax.evaluation.metrics import rouge_l, sni_exact_match
from hypert5_jax.preparation.declare import add_task
from hypert5_jax.preparation.sni import CONTEXTS, INSTANCES, Repository, read_task
from hypert5_jax.preparation.sources import TEXT, TEXTS, FilesSource

_TEXTS = ("inputs", "targets", "task", "group", "skipped")


def register(
    prefix: str = "sni",
    folder: Path | None = None,
    vocabulary: seqio.Vocabulary | None = None,
    instances: int = INSTANCES,
    seed: int = 0,
    splits: Sequence[str] = ("train", "test"),
    lists: str = "default",
    missing: int = 0,
    release: str | None = None,
    english: bool = True,
) -> None:
    """Registers `{prefix}[_{context}]_{split}` for every kind of context.

    Args:
      prefix: of the names.
      folder: of the repository; `$HYPERT5_DATA/sni` by default, looked up when used.
      vocabulary: T5's by default.
      instances: most instances of a task.
      seed: which instances and which of several outputs training takes.
      splits: which of the lists.
      lists: folder below `splits/`: "default", "xlingual", your own.
      missing: how many tasks that a list names may have no file.
      release: recorded with the data; git's name of the checkout by default.
      english: leaves out tasks whose input or output is not English.
    """
    repository = Repository(folder, lists, missing, release, english)
    for split in splits:
        for context in CONTEXTS:
            signature = dict.fromkeys(_TEXTS, TEXT) | {"references": TEXTS}
            if context != "shots":
                signature["context"] = TEXT
            middle = "" if context == "shots" else f"_{context}"
            read = partial(
                read_task,
                context=context,
                instances=instances,
                seed=seed,
                english=english,
            )
            add_task(
                f"{prefix}{middle}_{split}",
                FilesSource(
                    repository.files,
                    read,
                    signature,
                    splits=[split],
                    about=partial(repository.about, split),
                ),
                vocabulary,
                metrics=[rouge_l, sni_exact_match],
            )


register()
