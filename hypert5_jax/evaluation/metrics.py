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
    scorer = _rouge_scorer()
    return _sni_mean(
        "rougeL",
        targets,
        predictions,
        lambda target, text: scorer.score(target, text)["rougeL"].fmeasure,
    )


def sni_exact_match(targets: Targets, predictions: Sequence[str]) -> dict[str, float]:
    """Equality with any reference in lower case, without ASCII punctuation and with
    single spaces; articles stay. Source: Tk-Instruct's compute_metrics.py.

    Raises:
      UserError: as rouge_l.
    """
    return _sni_mean(
        "sni_exact_match",
        targets,
        predictions,
        lambda target, text: float(_normal(target) == _normal(text)),
    )


def exact_match(targets: Targets, predictions: Sequence[str]) -> dict[str, float]:
    """Equality with any reference, but for white space at the ends.

    Raises:
      UserError: as rouge_l.
    """
    return {"exact_match": _percent_equal(targets, predictions)}


def accuracy(targets: Targets, predictions: Sequence[str]) -> dict[str, float]:
    """`exact_match` by the name it has where predictions are chosen among options.

    Raises:
      UserError: as rouge_l.
    """
    return {"accuracy": _percent_equal(targets, predictions)}


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


def _percent_equal(targets: Targets, predictions: Sequence[str]) -> float:
    references = _checked(targets, predictions)
    right = sum(
        text.strip() in {reference.strip() for reference in texts}
        for texts, text in zip(references, predictions)
    )
    return 100.0 * right / len(references)


def _sni_mean(
    name: str,
    targets: Targets,
    predictions: Sequence[str],
    score: Callable[[str, str], float],
) -> dict[str, float]:
    """Best over references, mean over examples, percent, 4 decimals."""
    references = _checked(targets, predictions)
    best = [
        max(score(reference, text) for reference in texts)
        for texts, text in zip(references, predictions)
    ]
    return {name: round(100.0 * sum(best) / len(best), 4)}
