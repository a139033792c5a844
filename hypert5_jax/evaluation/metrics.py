"""Metrics of texts against reference texts, in the form that seqio calls them.

targets      for each example the list of its reference texts
predictions  for each example one text
"""

from collections.abc import Sequence

Targets = Sequence[Sequence[str]]


def exact_match(targets: Targets, predictions: Sequence[str]) -> dict[str, float]:
    """Per cent of predictions equal to a reference, but for white space at the ends."""
    return {"exact_match": _percent_equal(targets, predictions)}


def accuracy(targets: Targets, predictions: Sequence[str]) -> dict[str, float]:
    """`exact_match` by the name it has where predictions are chosen among options."""
    return {"accuracy": _percent_equal(targets, predictions)}


def rouge_l(targets: Targets, predictions: Sequence[str]) -> dict[str, float]:
    """ROUGE-L F-measure with stemming, the best over the references, in per cent."""
    from rouge_score import rouge_scorer  # here: it imports nltk, which takes seconds

    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    best = [
        max(scorer.score(reference, text)["rougeL"].fmeasure for reference in texts)
        for texts, text in zip(targets, predictions, strict=True)
    ]
    return {"rougeL": 100.0 * sum(best) / len(best)}


def _percent_equal(targets: Targets, predictions: Sequence[str]) -> float:
    equal = [
        text.strip() in [reference.strip() for reference in texts]
        for texts, text in zip(targets, predictions, strict=True)
    ]
    return 100.0 * sum(equal) / len(equal)
