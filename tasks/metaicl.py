"""MetaICL: three settings, each a seqio task to train on and one to be judged on.

    metaicl_{hr_to_lr,non_nli_to_nli,non_class_to_class}_train    split train
    metaicl_{hr_to_lr,non_nli_to_nli,non_class_to_class}_test     splits test, train_100,
                                             train_13, train_21, train_42, train_87

A MetaICL task is a logical task. Those to be judged on have their targets in `test`, and
in `train_{seed}` the 16 shots of each of the five official draws. Files:
`$HYPERT5_DATA/metaicl/{task}/{task}_{k}_{seed}_{split}.jsonl`, as MetaICL's scripts write
them. Other tasks, or a part of them: call `register`. See docs/metaicl.md.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import seqio

from hypert5_jax.evaluation.metrics import exact_match, rouge_l
from hypert5_jax.preparation.declare import add_task
from hypert5_jax.preparation.metaicl.files import SEEDS, TEST_K, TRAIN_K, Files
from hypert5_jax.preparation.metaicl.lists import SETTINGS, setting
from hypert5_jax.preparation.sources import TEXT, TEXTS, FilesSource

_SIGNATURE = dict.fromkeys(("inputs", "targets", "task", "group"), TEXT) | {
    "options": TEXTS,
    "references": TEXTS,
}


def register(
    name: str,
    tasks: Sequence[str],
    test: bool = False,
    folder: Path | None = None,
    vocabulary: seqio.Vocabulary | None = None,
    k: int | None = None,
    seeds: Sequence[int] = SEEDS,
    available: bool = False,
    kinds: Mapping[str, str] | None = None,
) -> None:
    """Registers one seqio task over files of MetaICL tasks.

    Args:
      name: of the seqio task.
      tasks: names of the MetaICL tasks.
      test: False gives the split `train`; True the splits `test` and `train_{seed}`.
      folder: above the tasks' folders; `$HYPERT5_DATA/metaicl` by default, looked up
        when used.
      vocabulary: T5's by default.
      k: the number in the files' names, by default 16384 to train on, 16 to be judged.
      seeds: of the draws; the training and test rows are those of the first.
      available: leaves out tasks without files instead of refusing.
      kinds: "classification", "multi-choice" or "free-form" for tasks that MetaICL does
        not list; told from their options by default.
    """
    number = k or (TEST_K if test else TRAIN_K)
    files = Files(tuple(tasks), folder, number, tuple(seeds), available, kinds or {})
    splits = ["test", *files.support_splits()] if test else ["train"]
    add_task(
        name,
        FilesSource(
            files.files,
            files.read,
            _SIGNATURE,
            splits=splits,
            about=partial(files.about, splits),
        ),
        vocabulary,
        metrics=[exact_match, rouge_l],
    )


for _name in SETTINGS:
    register(f"metaicl_{_name}_train", setting(_name).train)
    register(f"metaicl_{_name}_test", setting(_name).test, test=True)
