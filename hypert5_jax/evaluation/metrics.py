"""Metrics of texts against reference texts, as the original projects compute them.

All are percentages and have the arguments that seqio gives a metric function:

    targets      for each example the list of its reference texts
    predictions  for each example one text

    metric            whose                                 how texts are compared
    rouge_l           Super-NaturalInstructions             rouge-score, stemmed
    sni_exact_match   Super-NaturalInstructions             lower case, no punctuation
    exact_match       ours                                  less outer white space
    accuracy          P3 / T0, MetaICL                      less outer white space
    macro_f1          MetaICL                               less outer white space

Means are over examples. The first two are rounded to 4 decimals, as S-NI prints them.
"""

import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from hypert5_jax.core.errors import UserError

Targets = Sequence[Sequence[str] | str]
Metric = Callable[[Targets, Sequence[str]], dict[str, float]]

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def rouge_l(targets: Targets, predictions: Sequence[str]) -> dict[str, float]:
    """ROUGE-L F-measure with stemming, the best over an example's references.

    rouge-score keeps the letters a-z and digits alone: text in other scripts scores 0,
    also against itself. Source: Tk-Instruct's compute_metrics.py.

    Raises:
      UserError: no example, unequal counts, or an example without references.
    """
    return {"rougeL": _rounded_mean(each("rouge_l", targets, predictions))}


def sni_exact_match(targets: Targets, predictions: Sequence[str]) -> dict[str, float]:
    """Equality with any reference in lower case, without ASCII punctuation and with
    single spaces; articles stay. Source: Tk-Instruct's compute_metrics.py.

    Raises:
      UserError: as rouge_l.
    """
    values = each("sni_exact_match", targets, predictions)
    return {"sni_exact_match": _rounded_mean(values)}


def exact_match(targets: Targets, predictions: Sequence[str]) -> dict[str, float]:
    """Equality with any reference, but for white space at the ends.

    Raises:
      UserError: as rouge_l.
    """
    return {"exact_match": _mean(each("exact_match", targets, predictions))}


def accuracy(targets: Targets, predictions: Sequence[str]) -> dict[str, float]:
    """`exact_match` by the name it has where predictions are chosen among options.

    Raises:
      UserError: as rouge_l.
    """
    return {"accuracy": _mean(each("accuracy", targets, predictions))}


def macro_f1(targets: Targets, predictions: Sequence[str]) -> dict[str, float]:
    """The mean of F1 over the classes that occur among the targets.

    A prediction outside those classes is a miss and nothing else. Equals scikit-learn's
    f1_score(average="macro") with `labels` set to the targets' classes.

    Args:
      targets: the class is the first reference.
      predictions: compared exactly, less outer white space.

    Raises:
      UserError: as rouge_l.
    """
    references = _checked(targets, predictions)
    gold = [texts[0].strip() for texts in references]
    said = [text.strip() for text in predictions]
    of_gold, of_said = Counter(gold), Counter(said)
    hits = Counter(g for g, s in zip(gold, said) if g == s)
    scores = [2 * hits[c] / (of_gold[c] + of_said[c]) for c in of_gold]
    return {"macro_f1": 100.0 * sum(scores) / len(scores)}


METRICS: Mapping[str, Metric] = {
    metric.__name__: metric
    for metric in (rouge_l, sni_exact_match, exact_match, accuracy, macro_f1)
}


@cache
def _rouge_scorer() -> Any:
    # Here, not above: it imports nltk, which takes seconds.
    from rouge_score import rouge_scorer

    return rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)


# Of one reference and one prediction; the metrics take the best over references.
_SCORES: Mapping[str, Callable[[str, str], float]] = {
    "rouge_l": lambda target, text: (
        _rouge_scorer().score(target, text)["rougeL"].fmeasure
    ),
    "sni_exact_match": lambda target, text: float(_normal(target) == _normal(text)),
    "exact_match": lambda target, text: float(target.strip() == text.strip()),
    "accuracy": lambda target, text: float(target.strip() == text.strip()),
}


def each(name: str, targets: Targets, predictions: Sequence[str]) -> list[float]:
    """0 … 1 for every example, of the metrics that are means over examples.

    Args:
      name: one of PER_EXAMPLE.
      targets, predictions: as the metrics take them.

    Raises:
      UserError: as rouge_l.
    """
    score = _SCORES[name]
    return [
        max(score(reference, text) for reference in texts)
        for texts, text in zip(_checked(targets, predictions), predictions)
    ]


PER_EXAMPLE = tuple(_SCORES)


def _normal(text: str) -> str:
    return " ".join(text.lower().translate(_PUNCTUATION).split())


def _checked(targets: Targets, predictions: Sequence[str]) -> list[list[str]]:
    """The references of every example, a bare text taken for a list of one."""
    if not len(predictions) or len(targets) != len(predictions):
        raise UserError(
            f"a metric was given {len(targets)} targets and {len(predictions)} "
            "predictions; expected as many of both, and at least one"
        )
    references = [[t] if isinstance(t, str) else list(t) for t in targets]
    empty = next((i for i, texts in enumerate(references) if not texts), None)
    if empty is not None:
        raise UserError(
            f"example {empty} has no reference to compare its prediction with; expected "
            "at least one text"
        )
    return references


def _mean(values: Sequence[float]) -> float:
    return 100.0 * sum(values) / len(values)


def _rounded_mean(values: Sequence[float]) -> float:
    """Percent with 4 decimals, as S-NI prints it."""
    return round(_mean(values), 4)
