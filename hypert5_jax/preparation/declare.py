"""Registering a task so that everything works on it: `prepare`, seqio's own cache,
`seqio.Evaluator`, and complete rows (plain_seqio.py)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import seqio

from hypert5_jax.preparation.sources import output_features

MetricFn = Callable[[Any, Any], Mapping[str, float]]


def add_task(
    name: str,
    source: seqio.DataSource,
    vocabulary: seqio.Vocabulary | None = None,
    metrics: Sequence[MetricFn] = (),
    targets_eos: bool = True,
) -> seqio.Task:
    """Registers a task whose examples its source gives as they are to be prepared.

    The place where seqio's Beam caching cuts comes right after the source, so that
    reading and whatever the source does is what Beam distributes, one job per shard.

    Args:
      name: of the task.
      source: of examples with the features of docs/data.md.
      vocabulary: of inputs and targets; T5's by default.
      metrics: functions (targets, predictions), such as those of evaluation/metrics.py;
        they get, for each example, the list of its references.
      targets_eos: whether targets end with EOS.

    Raises:
      ValueError: seqio's, where the name is taken or has another character than
        letters, digits and `._:#`.
    """
    return seqio.TaskRegistry.add(
        name,
        source,
        output_features=output_features(vocabulary, targets_eos),
        preprocessors=[seqio.CacheDatasetPlaceholder()],
        postprocess_fn=references_of,
        metric_fns=list(metrics),
    )


def references_of(
    output: str,
    example: Mapping[str, Any] | None = None,
    is_target: bool = False,
    **unused: Any,
) -> str | list[str]:
    """What a metric compares: a prediction as it is, a target as its references.

    Args:
      output: decoded text, of a prediction or of the row's targets.
      example: the example's features, `references` among them where it has some.
      is_target: whether `output` is the target's.
    """
    if not is_target:
        return output
    references = (example or {}).get("references", ())
    return [r.decode() if isinstance(r, bytes) else str(r) for r in references] or [
        output
    ]
