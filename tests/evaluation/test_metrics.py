"""Metrics say what the originals' published packages say, to the last decimal.

The numbers in tests/goldens/metrics.json come from rouge-score and scikit-learn
themselves (tests/goldens/metrics.py); S-NI's exact match and a few corners are computed
by hand here.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hypert5_jax.core.errors import UserError
from hypert5_jax.evaluation import metrics

GOLDEN = Path(__file__).parents[1] / "goldens" / "metrics.json"
EXPECTED = json.loads(GOLDEN.read_text())
ANSWERS = EXPECTED["answers"]


def test_rouge_l_is_what_rouge_score_gives_as_tk_instruct_calls_it():
    found = metrics.rouge_l(ANSWERS["targets"], ANSWERS["predictions"])
    assert found == {"rougeL": ANSWERS["rougeL"]}
    cases = zip(ANSWERS["targets"], ANSWERS["predictions"], ANSWERS["each"])
    for references, said, expected in cases:
        alone = metrics.rouge_l([references], [said])
        assert alone == {"rougeL": round(100.0 * expected, 4)}


@pytest.mark.parametrize("case", EXPECTED["labels"])
def test_macro_f1_and_accuracy_are_scikit_learn_s_over_the_gold_classes(case):
    found = metrics.macro_f1(case["targets"], case["predictions"])["macro_f1"]
    # In units of the last place: sums of a few floats in another order.
    assert found == pytest.approx(100 * case["macro_f1"], rel=4e-16, abs=0)
    found = metrics.accuracy(case["targets"], case["predictions"])["accuracy"]
    assert found == pytest.approx(100 * case["accuracy"], rel=4e-16, abs=0)


def test_known_numbers_of_rouge_l():
    """reference/protocols.md §3: measured with the original."""
    assert metrics.rouge_l([["cat"]], ["cats"]) == {"rougeL": 100.0}
    assert metrics.rouge_l([["yes no"]], ["Yes"]) == {"rougeL": 66.6667}
    assert metrics.rouge_l([["中文"]], ["中文"]) == {"rougeL": 0.0}


@pytest.mark.parametrize(
    ("references", "said", "expected"),
    [
        (["Yes."], "yes", 100.0),
        (["no", "Well, yes!"], " well  YES", 100.0),
        (["the cat"], "cat", 0.0),  # articles stay
        (["3.5"], "35", 100.0),  # punctuation goes, also inside of numbers
        (["co-op"], "coop", 100.0),
        (["“quoted”"], "quoted", 0.0),  # only ASCII punctuation goes
    ],
)
def test_sni_exact_match_by_hand(references, said, expected):
    found = metrics.sni_exact_match([references], [said])
    assert found == {"sni_exact_match": expected}


def test_sni_exact_match_is_rounded_to_four_decimals():
    found = metrics.sni_exact_match([["a"], ["a"], ["a"]], ["a", "b", "b"])
    assert found == {"sni_exact_match": 33.3333}


def test_exact_match_and_accuracy_forgive_outer_white_space_alone():
    targets = [["a", "b"], ["A"], [" x y "]]
    predictions = [" b\n", "a", "x y"]
    assert metrics.exact_match(targets, predictions) == {"exact_match": 200 / 3}
    assert metrics.accuracy(targets, predictions) == {"accuracy": 200 / 3}


def test_macro_f1_by_hand():
    """a: precision 1/2, recall 1/2; b: never said. c is no class of the gold labels."""
    found = metrics.macro_f1([["a"], ["a"], ["b"]], ["a", "c", "a"])
    assert found == {"macro_f1": 100 * (0.5 + 0.0) / 2}


def test_a_bare_text_is_one_reference():
    assert metrics.exact_match(["ab"], ["ab"]) == {"exact_match": 100.0}
    assert metrics.exact_match(["ab"], ["a"]) == {"exact_match": 0.0}


@pytest.mark.parametrize(
    ("targets", "predictions", "message"),
    [
        ([], [], "0 targets and 0 predictions"),
        ([["a"]], ["a", "b"], "1 targets and 2 predictions"),
        ([["a"], []], ["a", "b"], "example 1 has no reference"),
    ],
)
@pytest.mark.parametrize("metric", metrics.METRICS.values())
def test_what_cannot_be_compared_is_refused(metric, targets, predictions, message):
    with pytest.raises(UserError, match=message):
        metric(targets, predictions)


def test_the_module_loads_neither_nltk_nor_a_banned_package_until_asked():
    script = (
        "import sys; from hypert5_jax.evaluation import metrics as m; "
        "assert 'nltk' not in sys.modules; m.rouge_l([['a']], ['a']); "
        "banned = {'tensorflow', 'torch', 'gin', 'seqio', 'transformers', 'clu'}; "
        "assert not banned & set(sys.modules), banned & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
