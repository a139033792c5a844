"""Tables from results with numbers of our choice, compared with sums done by hand."""

import math

import pytest

from hypert5_jax.reporting.book import numbers_of
from hypert5_jax.reporting.document import Grid, Items, Paragraph
from hypert5_jax.reporting.judgement import FAILS, HOLDS, UNKNOWN, judge
from hypert5_jax.reporting.paper.claims import CLAIMS
from hypert5_jax.reporting.paper_report import compose
from hypert5_jax.reporting.result_files import read
from hypert5_jax.reporting.scores import Score, average, number, signed, spread
from tests.reporting.written import TRAINING, numbers, p3_context, write_result


def read_numbers(folder):
    return numbers_of(*read([str(folder)]))


def verdict(name, table, folder):
    claim = next(claim for claim in CLAIMS if claim.name == name)
    return judge(claim, table, read_numbers(folder).book)


def grids(folder):
    return [b for b in compose(read_numbers(folder)).blocks if isinstance(b, Grid)]


def lines_of(folder, system, column="CB"):
    """The lines of the first table that has the row and column: {kind: cells}."""
    for grid in grids(folder):
        names = [line[0] for line in grid.rows]
        if system in names and column in grid.head:
            at = names.index(system)
            return {line[1]: line[2:] for line in grid.rows[at : at + 3]}
    raise AssertionError(system)


def test_ours_stands_beside_the_papers_with_the_difference(tmp_path):
    # The paper: 33.4 32.3 60.1 73.9 71.5 51.1 63.0 51.1 | 54.6.
    write_result(tmp_path / "a", context=p3_context(34, 32, 60, 74, 72, 51, 63, 50))
    lines = lines_of(tmp_path, "HyperT5-Prefix")
    assert lines["paper"][-1] == "54.6"
    assert lines["ours"] == [
        *("34.0", "32.0", "60.0", "74.0", "72.0", "51.0", "63.0", "50.0"),
        "54.5",
    ]
    assert lines["difference"] == [
        *("+0.6", "−0.3", "−0.1", "+0.1", "+0.5", "−0.1", "0.0", "−1.1"),
        "−0.1",
    ]


def test_draws_give_a_spread(tmp_path):
    write_result(tmp_path / "a", context=[40, 42, 44], table="table_3", column="HR→LR")
    # Mean 42, squares of −2, 0, 2 over n − 1 = 2: sd 2.
    assert lines_of(tmp_path, "HyperT5-Prefix", "HR→LR")["ours"][0] == "42.0 ± 2.0"


def test_training_seeds_of_one_recipe_are_one_cell(tmp_path):
    for seed, score in ((0, 50.0), (1, 53.0)):
        write_result(
            tmp_path / str(seed),
            context=score,
            table="table_4",
            column="Def",
            parameters={"hypermodel": f"seed {seed}"},
            config=TRAINING.format(seed=seed),
        )
    score = read_numbers(tmp_path).book["table_4", "HyperT5-Prefix", "Def"]
    assert score == Score((50.0, 53.0), "seeds")
    # sd 3/√2.
    assert lines_of(tmp_path, "HyperT5-Prefix", "Def")["ours"][0] == "51.5 ± 2.1"


def test_an_empty_cell_names_the_command_that_fills_it(tmp_path):
    write_result(tmp_path / "a", context=50, table="table_3", column="HR→LR")
    report = compose(read_numbers(tmp_path))
    row = lines_of(tmp_path, "HyperT5-Prefix", "HR→LR")["ours"]
    assert row[0] == "50.0" and row[1] != row[2]
    listed = [i for b in report.blocks if isinstance(b, Items) for i in b.items]
    pairs = [item for item in listed if isinstance(item, tuple)]
    commands = {mark.strip(): code.text for mark, code in pairs}
    assert commands[row[1]].endswith("/metaicl_large/non_nli_to_nli/hypert5_prefix.gin")
    assert commands[row[2]].endswith(
        "/metaicl_large/non_class_to_class/hypert5_prefix.gin"
    )


def test_scaled_down_tables_have_the_columns_of_their_results(tmp_path):
    for name, values in (("T5-MTF", (10, 20)), ("HyperT5-Prefix", (30, 50))):
        columns = dict(zip(("pairs", "words"), map(numbers, values)))
        mean = columns | {"AVG": numbers(sum(values) / 2)}
        context = {"mean": mean, "headline": mean["AVG"]}
        write_result(tmp_path / name, name, context, table="small_p3")
    found = read_numbers(tmp_path).filled["small_p3"]
    assert found.columns == ("pairs", "words", "AVG")
    assert found.scores["HyperT5-Prefix", "AVG"].mean == 40


def test_scaled_down_columns_of_runs_of_their_own_get_an_average(tmp_path):
    for column, score in (("a", [10, 20]), ("b", [30, 50])):
        write_result(tmp_path / column, "T5-MTF", score, "small_real", column)
    write_result(tmp_path / "c", "HyperT5-LoRA", 5, "small_real", "a")
    found = read_numbers(tmp_path).filled["small_real"]
    # Draw by draw: (10 + 30) / 2, (20 + 50) / 2.
    assert found.scores["T5-MTF", "AVG"].values == (20, 35)
    assert ("HyperT5-LoRA", "AVG") not in found.scores


def test_other_contexts_stand_beside_the_real_one(tmp_path):
    write_result(
        tmp_path / "a",
        context=50,
        table="table_4",
        column="Def",
        contexts={"empty": {"headline": numbers(30)}},
    )
    assert any(
        grid.head == ["", "real", "empty"]
        and grid.rows == [["HyperT5-Prefix, Def", "50.0", "30.0"]]
        for grid in grids(tmp_path)
    )


@pytest.mark.parametrize("with_empty", [0, 1])
def test_a_context_that_only_one_seed_was_judged_under_has_no_number(
    tmp_path, with_empty
):
    for seed in (0, 1):
        empty = {"empty": {"headline": numbers(30)}} if seed == with_empty else {}
        write_result(
            tmp_path / str(seed),
            context=50 + seed,
            table="table_4",
            column="Def",
            config=TRAINING.format(seed=seed),
            contexts=empty,
            parameters={"hypermodel": str(seed)},
        )
    table = read_numbers(tmp_path).filled["table_4"]
    assert table.scores["HyperT5-Prefix", "Def"].values == (50.0, 51.0)
    assert [kind for _, kind in table.contexts] == ["real"]


def test_a_table_says_what_was_measured(tmp_path):
    write_result(tmp_path / "a", context=p3_context(*range(8)), limit=4)
    texts = [
        b.text
        for b in compose(read_numbers(tmp_path)).blocks
        if isinstance(b, Paragraph)
    ]
    assert (
        "Measured by protocol p3 on eval/test, only the first 4 examples of each task."
        in texts
    )


def test_columns_that_nobody_judged_stay_empty(tmp_path):
    context = p3_context({"CB": 50, "RTE": 60}, groups=["cola"])
    write_result(tmp_path / "a", context=context)
    row = lines_of(tmp_path, "HyperT5-Prefix")["ours"]
    assert (row[2], row[4]) == ("50.0", "60.0")
    assert row[0] == row[-1] == "(5)"


def test_a_result_without_a_number_is_named_and_not_refused(tmp_path):
    context = p3_context({"CB": 50}, groups=["copa"])
    file = write_result(tmp_path / "a", context=context, table="figure_4", steps=0)
    apart = read_numbers(tmp_path).apart
    assert len(apart) == 1 and str(file) in apart[0] and "no task of copa" in apart[0]


def test_a_claim_says_how_a_difference_compares_with_the_spread(tmp_path):
    kind = {"table": "table_4", "column": "Def"}
    write_result(tmp_path / "p", "HyperT5-Prefix", [40, 44], **kind)
    write_result(tmp_path / "l", "HyperT5-LoRA", [40, 42], **kind)
    found = verdict("prefix_above_lora", "table_4", tmp_path)
    assert found.outcome == UNKNOWN  # Def+2Pos is missing
    one = found.comparisons[0]
    # sd 2√2 and √2: √(8 + 2).
    assert (one.difference, one.outcome, one.within_spread) == (1, True, True)
    assert one.spread == pytest.approx(math.sqrt(10))
    write_result(tmp_path / "p2", "HyperT5-Prefix", 30, "table_4", "Def+2Pos")
    write_result(tmp_path / "l2", "HyperT5-LoRA", 31, "table_4", "Def+2Pos")
    found = verdict("prefix_above_lora", "table_4", tmp_path)
    assert (found.outcome, found.within_spread) == (FAILS, 1)


@pytest.mark.parametrize(
    "curve, claims",
    [
        ({0: 31, 50: 40, 100: 50}, (HOLDS, HOLDS, FAILS)),
        # Nearer to its own end than to PEFT-only (30), and highest half-way.
        ({0: 45, 50: 52, 100: 50}, (FAILS, FAILS, HOLDS)),
        ({0: 31, 100: 50}, (HOLDS, UNKNOWN, UNKNOWN)),
    ],
)
def test_claims_of_figure_4(tmp_path, curve, claims):
    for system in ("HyperT5-Prefix", "HyperT5-LoRA"):
        for steps, score in curve.items():
            place = tmp_path / system / str(steps)
            write_result(place, system, score, "small_figure_4", steps=steps)
    for kind in ("Prefix", "LoRA"):
        context = {"mean": {"AVG": numbers(30)}, "headline": numbers(30)}
        write_result(tmp_path / kind, f"T5-MTF ({kind})", context, "small_p3")
    names = ("hyperpretraining_needed", "prefix_keeps_rising", "lora_declines")
    outcomes = [verdict(n, "small_figure_4", tmp_path).outcome for n in names]
    assert tuple(outcomes) == claims


def test_figure_4_shows_its_points_and_peft_only_beside_them(tmp_path):
    for steps, score in ((0, [30, 32]), (100, [50, 54]), (20, 40)):
        place = tmp_path / str(steps)
        write_result(place, context=score, table="figure_4", steps=steps)
    write_result(tmp_path / "p", "T5-MTF (Prefix)", p3_context(*[30] * 8))
    (panel,) = compose(read_numbers(tmp_path)).pictures["figure_4.png"]
    (line,) = panel.lines
    assert (line.name, line.steps) == ("HyperT5-Prefix", [0, 20, 100])
    assert [score.mean for score in line.scores] == [31, 40, 52]
    assert [(n, s.mean, c) for n, s, c in panel.levels] == [
        ("T5-MTF (Prefix)", 30, line.colour)
    ]


def test_peft_only_that_was_measured_otherwise_is_not_compared(tmp_path):
    write_result(tmp_path / "f", context=50, table="figure_4", steps=0)
    write_result(tmp_path / "p", "T5-MTF (Prefix)", p3_context(*[30] * 8), limit=4)
    report = compose(read_numbers(tmp_path))
    assert report.pictures["figure_4.png"][0].levels == []
    texts = [b.text for b in report.blocks if isinstance(b, Paragraph)]
    assert any("not compared: limit is None and 4." in text for text in texts)


def test_numbers_are_printed_as_the_paper_prints_them():
    assert (number(54.649), number(-0.04), signed(0.04)) == ("54.6", "0.0", "0.0")
    assert (signed(1.25), signed(-3)) == ("+1.2", "−3.0")
    assert str(Score((1.0,))) == "1.0"


def test_averages_and_spreads_by_hand():
    one, other = Score((1.0, 3.0), "seeds"), Score((5.0,))
    assert average([one, other]) == Score((3.0, 4.0), "seeds")
    assert average([one, Score((1.0, 2.0, 3.0))]) == Score((2.0,))
    assert spread(one, other) == one.sd == pytest.approx(math.sqrt(2))
    assert spread(other, other) is None
