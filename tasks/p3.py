"""P3: the paper's 241 training prompts and T0's 111 held-out prompts.

    p3_train     the prompts of Figure 6 with T0's mixing rates; split train
    p3_eval      ANLI r1-r3, HellaSwag, CB, COPA, RTE, WiC, WSC, Winogrande, with options;
                 splits train (for shots) and validation
    p3_peft      the 8 prompts of Appendix B.1; splits train and validation
    …_available  those of them whose data are there

Each prompt is a seqio task under its own name, such as `super_glue_cb_can_we_infer`. Data
lie in `$HYPERT5_DATA/p3`, as published (TFRecord or Parquet), as JSON lines, or as raw
data sets with promptsource's templates: see docs/p3.md. Elsewhere: call `register`.
"""

from functools import partial
from pathlib import Path

import seqio

from hypert5_jax.evaluation.metrics import accuracy, exact_match
from hypert5_jax.preparation.declare import add_task
from hypert5_jax.preparation.locations import data_folder
from hypert5_jax.preparation.p3.catalogue import MIXTURES, Prompt, read_prompts
from hypert5_jax.preparation.p3.examples import Reading
from hypert5_jax.preparation.p3.layouts import LAYOUTS, Layout
from hypert5_jax.preparation.p3.source import AvailableMixture, PromptSource
from hypert5_jax.preparation.sources import output_features


def register(
    prefix: str = "",
    folder: Path | None = None,
    layouts: tuple[str, ...] = LAYOUTS,
    vocabulary: seqio.Vocabulary | None = None,
    reading: Reading = Reading(),
) -> None:
    """Registers a task for each prompt and the mixtures, all named with the prefix.

    Args:
      prefix: of the names of tasks and mixtures.
      folder: of the data; `$HYPERT5_DATA/p3` by default, looked up when used.
      layouts: what to look for there, best first: tfrecord, parquet, jsonl, raw.
      vocabulary: T5's by default.
      reading: how rows become examples.

    Raises:
      UserError: an unknown layout.
    """
    # One object for all tasks: its file is then read once.
    vocabulary = vocabulary or output_features()["targets"].vocabulary
    Layout(Path(), layouts)  # a misspelt layout is told here
    prompts = read_prompts()

    def layout() -> Layout:
        return Layout(folder or data_folder() / "p3", layouts)

    def advice(mixture: str, split: str) -> str:
        wanted = [p for p in prompts if mixture in p.uses and split in p.splits]
        there = sum(1 for prompt in wanted if layout().find(prompt, split))
        return (
            f"{there} of the {len(wanted)} prompts of {prefix}{mixture} have data there"
            f"; {prefix}{mixture}_available takes those. Set HYPERT5_DATA to the folder "
            "above `p3`, or name one with tasks.p3.register; docs/p3.md says what to "
            "fetch"
        )

    def add(prompt: Prompt) -> None:
        add_task(
            prefix + prompt.name,
            PromptSource(prompt, layout, reading, partial(advice, prompt.uses[0])),
            vocabulary,
            metrics=[accuracy if prompt.held_out else exact_match],
        )

    for prompt in prompts:
        add(prompt)
    for mixture in MIXTURES:
        rated = [(prefix + p.name, p.rate) for p in prompts if mixture in p.uses]
        seqio.MixtureRegistry.add(prefix + mixture, rated)
        seqio.MixtureRegistry.add(
            f"{prefix}{mixture}_available", rated, mixture_cls=AvailableMixture
        )


register()
