"""A prompt as a seqio source, and a mixture of those prompts whose data are there."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

from hypert5_jax.core.errors import UserError
from hypert5_jax.preparation.bad_lines import Bad, refuse
from hypert5_jax.preparation.p3.catalogue import Prompt
from hypert5_jax.preparation.p3.examples import Reading, read_examples
from hypert5_jax.preparation.p3.files import WHOLE
from hypert5_jax.preparation.p3.layouts import Found, Layout
from hypert5_jax.preparation.sources import TEXT, TEXTS, PythonSource


class PromptSource(PythonSource):
    """The examples of one prompt, from whichever layout its data lie in.

    Args:
      prompt: which one.
      layout: says where the data are; called when they are needed, so that a prompt can
        be registered where its data are absent.
      reading: how rows become examples.
      advice: what to do about missing data, for messages.
      splits: those of the prompt by default.
    """

    takes_bad_lines = True

    def __init__(
        self,
        prompt: Prompt,
        layout: Callable[[], Layout],
        reading: Reading,
        advice: Callable[[str], str],
        splits: Sequence[str] | None = None,
    ):
        super().__init__(prompt.splits if splits is None else splits)
        self.prompt = prompt
        self._layout = layout
        self._reading = reading
        self._advice = advice

    def find(self, split: str) -> Found | None:
        """The files of a split, if they are there."""
        return self._layout().find(self.prompt, split)

    def of_splits_there(self) -> "PromptSource":
        """The same prompt with those splits whose data are there."""
        there = [split for split in self.prompt.splits if self.find(split)]
        return PromptSource(
            *(self.prompt, self._layout, self._reading, self._advice, there)
        )

    @property
    def about(self) -> dict[str, str]:
        """The layout of each split and which templates rendered it."""
        told = {}
        for split in self.splits:
            if found := self.find(split):
                told[split] = found.layout + (" (scored)" if found.scored else "")
                if found.templates is not None:
                    content = found.templates.read_bytes()
                    told["templates_sha256"] = hashlib.sha256(content).hexdigest()
        return told

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """A file can be shared, unless every row must be compared with every other."""
        return not self._reading.skip_repeated

    def list_shards(self, split: str) -> Sequence[str]:
        """The files; one for all where the rows of an example or repeats are apart."""
        found = self._found(split)
        names = [str(path) for path in found.files]
        together = found.scored or self._reading.skip_repeated
        return names[:1] if together else names

    def num_input_examples(self, split: str) -> int | None:
        """At most so many: the published number, or fewer where the files are small."""
        found = self.find(split)
        if found is None:
            return 0
        if self._reading.skip_repeated:
            return None  # one unit, whatever its size
        return found.most_rows(self.prompt.rows(split))

    def signature(self, split: str) -> Mapping[str, tf.TensorSpec]:
        """The features of an example; refuses a split without data."""
        self._found(split)
        names = ("inputs", "targets", "task", "group", "skipped")
        kinds = dict.fromkeys(names, TEXT)
        return kinds | ({"options": TEXTS} if self.prompt.held_out else {})

    def python_examples(
        self,
        split: str,
        shard: tuple[int, int] = WHOLE,
        bad_lines: Bad | None = None,
    ) -> Iterator[Mapping[str, Any]]:
        """As PythonSource, the prompt's."""
        found = self._found(split)
        files, part = found.files, shard
        if 1 < shard[1] <= len(self.list_shards(split)):
            files, part = files[shard[0] :: shard[1]], WHOLE
        return read_examples(
            self.prompt, split, found, files, part, self._reading, bad_lines or refuse
        )

    def _found(self, split: str) -> Found:
        found = self.find(split)
        if found is None:
            layout = self._layout()
            raise UserError(
                f"no data of {self.prompt.name}, split {split}, in {layout.folder}; "
                f"looked for {layout.looked_for(self.prompt, split)}. "
                f"{self._advice(split)}"
            )
        return found


class AvailableMixture(seqio.Mixture):
    """Those tasks of a mixture, and those of their splits, whose data are there.

    What is there is looked up each time, never at registration.
    """

    _complete = False

    def __init__(self, *arguments: Any, **keywords: Any):
        super().__init__(*arguments, **keywords)
        self._complete = True

    @property
    def tasks(self) -> list[seqio.Task]:
        """The tasks that have data, by name.

        Raises:
          UserError: none has.
        """
        tasks = super().tasks
        if not self._complete:
            return tasks
        found = []
        for task in tasks:
            source = task.source.of_splits_there()
            if source.splits:
                found.append(_with_source(task, source))
        if not found:
            # Tells where it looked.
            tasks[0].source.list_shards(tasks[0].source.prompt.splits[-1])
        return found


def _with_source(task: seqio.Task, source: seqio.DataSource) -> seqio.Task:
    return seqio.Task(
        task.name,
        source,
        output_features=task.output_features,
        preprocessors=task.preprocessors,
        postprocess_fn=task.postprocessor,
        metric_fns=task.metric_fns,
    )
