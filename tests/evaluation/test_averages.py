"""Protocols average as their projects do: cases computed by hand."""

import pytest

from hypert5_jax.core.errors import UserError
from hypert5_jax.evaluation import averages, metrics, protocols
from hypert5_jax.evaluation.averages import TaskScores

P3, METAICL, SNI = (protocols.find(name) for name in ("p3", "metaicl", "sni"))


def prompt(name, group, accuracy, examples=10):
    return TaskScores(name, group, examples, {"accuracy": accuracy}, {})


def p3_tasks(leave_out=()):
    """Three rounds of ANLI (30, 40, 50 on average), then 10, 20, … 70."""
    groups = {"anli_r1": [20.0, 40.0], "anli_r2": [40.0], "anli_r3": [50.0]}
    others = ("hellaswag", "cb", "copa", "rte", "wic", "wsc", "winogrande")
    groups |= {g: [10.0 * (i + 1)] for i, g in enumerate(others)}
    # CB's mean is 20, its median 10.
    groups["cb"] = [10.0, 10.0, 40.0]
    return [
        prompt(f"{group}_{i}", group, value)
        for group, values in groups.items()
        if group not in leave_out
        for i, value in enumerate(values)
    ]


def test_p3_is_prompts_then_rounds_then_eight_columns():
    found = averages.table(P3, p3_tasks())
    expected = {"ANLI": 40, "HSwag": 10, "CB": 20, "COPA": 30, "RTE": 40, "WiC": 50}
    expected |= {"WSC": 60, "WGD": 70}
    assert found["mean"] == pytest.approx({**expected, "AVG": 320 / 8})
    assert found["headline"] == pytest.approx(40.0)
    assert found["median"]["CB"] == 10 and found["max"]["CB"] == 40
    # Least over prompts, then the mean over rounds: (20 + 40 + 50) / 3.
    assert found["min"]["ANLI"] == pytest.approx(110 / 3)
    assert found["groups"]["anli_r1"] == 30 and found["missing_groups"] == []


def test_p3_has_no_average_before_all_columns_are_there():
    found = averages.table(P3, p3_tasks(leave_out=("anli_r2", "wsc")))
    assert found["headline"] is None and "AVG" not in found["mean"]
    assert "ANLI" not in found["mean"] and found["mean"]["COPA"] == 30
    assert found["missing_groups"] == ["anli_r2", "wsc"]


def test_options_has_a_column_for_every_group_there_is():
    tasks = [
        prompt("a", "tell", 90.0),
        prompt("b", "tell", 70.0),
        prompt("c", "sort", 10),
    ]
    found = averages.table(protocols.find("options"), tasks)
    assert found["mean"] == {"sort": 10.0, "tell": 80.0, "AVG": 45.0}
    assert found["headline"] == 45.0 and found["missing_groups"] == []


def test_metaicl_takes_macro_f1_for_classification_and_rouge_for_the_rest():
    tasks = [
        TaskScores("a", "classification", 5, {"macro_f1": 10.0, "rouge_l": 99.0}, {}),
        TaskScores("b", "classification", 500, {"macro_f1": 20.0, "rouge_l": 99.0}, {}),
        TaskScores("c", "qa", 5, {"macro_f1": 99.0, "rouge_l": 60.0}, {}),
    ]
    found = averages.table(METAICL, tasks)
    assert found["headline"] == 30.0  # tasks count alike, whatever their size
    assert found["by_metric"] == {"macro_f1": 15.0, "rouge_l": 60.0}
    assert found["tasks"] == {"a": 10.0, "b": 20.0, "c": 60.0}
    official = protocols.find("metaicl_official")
    assert official.metric("classification") == "macro_f1"
    assert official.metric("multi-choice") == "accuracy"


def test_the_worst_draw_of_each_task_is_averaged():
    draws = [
        [TaskScores("a", "", 1, {"rouge_l": 10.0}, {}), prompt_of("b", 50.0)],
        [TaskScores("a", "", 1, {"rouge_l": 30.0}, {}), prompt_of("b", 20.0)],
    ]
    assert averages.worst_draws(METAICL, draws) == 15.0


def prompt_of(name, rouge):
    return TaskScores(name, "", 1, {"rouge_l": rouge}, {})


def sni_task(name, group, texts):
    """(reference, prediction) pairs -> what a task of them scores."""
    targets, said = [[t] for t, _ in texts], [s for _, s in texts]
    sums = {m: 100 * sum(metrics.each(m, targets, said)) for m in SNI.metrics}
    return TaskScores(name, group, len(texts), {}, sums)


def test_sni_is_a_mean_over_instances_not_over_tasks():
    """1 of 1 right in one task, 0 of 2 in another: 33.3333, not 50; categories report
    what Tk-Instruct reports for them."""
    tasks = [
        sni_task("a", "Textual Entailment", [("yes", "Yes.")]),
        sni_task("b", "Title Generation", [("a b", "c d"), ("a b", "a c")]),
    ]
    found = averages.table(SNI, tasks)
    # ROUGE-L: 1, 0, 1/2; exact match: 1, 0, 0.
    assert found["all"] == {"rouge_l": 50.0, "sni_exact_match": 33.3333}
    assert found["headline"] == 50.0 and found["instances"] == 3
    entailment = found["categories"]["textual_entailment"]
    assert entailment["reported"] == entailment["sni_exact_match"] == 100.0
    assert found["categories"]["title_generation"]["reported"] == 25.0


def test_draws_become_mean_and_sample_deviation():
    found = averages.over_draws(
        [
            {"headline": 1.0, "x": {"y": 4.0, "z": 1.0}, "names": ["a"]},
            {"headline": 3.0, "x": {"y": 4.0}, "names": ["a"]},
        ]
    )
    assert found["headline"] == {
        "mean": 2.0,
        "sd": pytest.approx(2**0.5),
        "draws": [1.0, 3.0],
    }
    assert found["x"] == {"y": {"mean": 4.0, "sd": 0.0, "draws": [4.0, 4.0]}}
    assert averages.over_draws([{"headline": 5.0}])["headline"]["sd"] is None


def test_an_unknown_protocol_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="'p4'; expected one of p3, metaicl"):
        protocols.find("p4")
