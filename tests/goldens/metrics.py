"""What the originals' published packages say of invented predictions.

rouge-score 0.1.2 is called as Tk-Instruct calls it; scikit-learn's f1_score is
restricted to the classes among the gold labels, as MetaICL computes Macro-F1.

    python -m venv /tmp/judges
    /tmp/judges/bin/pip install rouge-score==0.1.2 scikit-learn
    /tmp/judges/bin/python tests/goldens/metrics.py

rewrites metrics.json beside this file. It needs nothing of hypert5_jax, and is the one
place that needs scikit-learn.
"""

import importlib.metadata
import json
import random
from pathlib import Path

FILE = Path(__file__).with_suffix(".json")

# (references, prediction)
ANSWERS = [
    (["The cats are sleeping on the mat."], "A cat sleeps on the mat"),
    (["Yes"], "yes no"),
    (["yes", "no", "maybe"], "Maybe."),
    (["3.5 million people", "3,500,000"], "3.5"),
    (["It's 50% off!", "half price"], "half-price, it is"),
    (["\u4e2d\u6587"], "\u4e2d\u6587"),
    (["na\u00efve caf\u00e9 owners"], "naive cafe owner"),
    (["something"], ""),
    ([""], "something"),
    (["  spaced \n out  words "], "spaced out words"),
    (["running runners ran", "flies fly"], "run flying"),
    (["The answer is (B).", "(B)", "B"], "b"),
    (["a b c d e f g"], "g f e d c b a"),
    (["the the the cat"], "the cat the"),
]


def labels(classes: list[str], noise: list[str], count: int, seed: int) -> dict:
    """Gold labels and predictions, some of them of no class."""
    rng = random.Random(seed)
    gold = [rng.choice(classes) for _ in range(count)]
    said = [g if rng.random() < 0.5 else rng.choice(classes + noise) for g in gold]
    return {"targets": [[g] for g in gold], "predictions": said}


def label_cases() -> list[dict]:
    """Balanced and skewed classes, a class never said, one never right."""
    return [
        labels(["positive", "negative"], ["neutral", ""], 41, 0),
        labels(["entailment"] * 8 + ["neutral", "contradiction"], ["other"], 57, 1),
        labels([f"class {i}" for i in range(14)], ["class 99"], 83, 2),
        {"targets": [["a"], ["a"], ["b"]], "predictions": ["a", "c", "a"]},
        {"targets": [["a"], ["b"]], "predictions": ["b", "a"]},
        {"targets": [["a"], ["A"]], "predictions": ["a", "a"]},
        {"targets": [["only"]], "predictions": ["only"]},
    ]


def main() -> None:
    """Asks the packages and writes the file."""
    from rouge_score import rouge_scorer
    from sklearn.metrics import accuracy_score, f1_score

    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    each = [
        max(scorer.score(r, said)["rougeL"].fmeasure for r in references)
        for references, said in ANSWERS
    ]
    cases = label_cases()
    for case in cases:
        gold = [t[0] for t in case["targets"]]
        case["macro_f1"] = f1_score(
            gold,
            case["predictions"],
            labels=sorted(set(gold)),
            average="macro",
            zero_division=0,
        )
        case["accuracy"] = accuracy_score(gold, case["predictions"])
    content = {
        "made_with": {
            name: importlib.metadata.version(name)
            for name in ("rouge-score", "scikit-learn", "nltk")
        },
        "answers": {
            "targets": [references for references, _ in ANSWERS],
            "predictions": [said for _, said in ANSWERS],
            "each": each,
            "rougeL": round(100.0 * sum(each) / len(each), 4),
        },
        "labels": cases,
    }
    FILE.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
