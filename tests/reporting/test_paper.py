"""The paper's constants: as its text prints them, and consistent among themselves."""

import re

import pytest

from hypert5_jax.reporting.judgement import FAILS, HOLDS, UNKNOWN, judge
from hypert5_jax.reporting.paper import recipes
from hypert5_jax.reporting.paper.claims import CLAIMS
from hypert5_jax.reporting.paper.tables import CURVES, SMALL, SWEEPS, TABLES, printed
from tests.conftest import ROOT

PRINTED = [table for table in TABLES.values() if table.rows]


@pytest.mark.parametrize("table", PRINTED, ids=lambda table: table.name)
def test_every_average_is_the_plain_mean_of_its_columns(table):
    for row in table.rows:
        if "AVG" in row.scores:
            columns = [v for c, v in row.scores.items() if c != "AVG"]
            assert len(columns) == 8
            # Columns and AVG are each rounded to 0.1.
            assert abs(sum(columns) / 8 - row.scores["AVG"]) < 0.1, row


def test_every_row_is_in_the_papers_text(shared):
    """The text's tables have their cells between tabs, S-NI's one column for both."""
    text = (shared / "paper" / "hypertuning.txt").read_text()
    lines = [line.split("\t") for line in text.splitlines() if "\t" in line]
    rows = {(cells[0], tuple(cells[1:])) for cells in lines}
    for table in PRINTED:
        for row in table.rows:
            numbers = tuple(f"{value:.1f}" for value in row.scores.values())
            if table.name in ("table_4", "table_5"):
                for column, value in row.scores.items():
                    assert (f"{row.system} ({column})", (f"{value:.1f}",)) in rows
            else:
                assert any(row.system in name and numbers == n for name, n in rows), row


def test_the_papers_own_numbers_support_its_claims_but_for_two():
    """On S-NI XL, Prefix and LoRA are level with the definition alone, and LoRA with
    both examples stays below T5-MTF."""
    verdicts = {
        (claim.name, table): judge(claim, table, printed()).outcome
        for claim in CLAIMS
        for table in claim.tables
        if table not in SMALL
    }
    known = {key: v for key, v in verdicts.items() if v != UNKNOWN}
    assert {key for key, v in known.items() if v == FAILS} == {
        ("prefix_above_lora", "table_5"),
        ("sni_above_definition", "table_5"),
    }
    # 3 + 3 + 4 + 1 + 1 + 2 + 1 tables, claim by claim.
    assert sum(v == HOLDS for v in known.values()) == 15
    # What the text gives no numbers for: Figure 4, and where the curves of 5 and 9 run.
    assert {name for (name, _), v in verdicts.items() if v == UNKNOWN} == {
        "hyperpretraining_needed",
        "prefix_keeps_rising",
        "lora_declines",
        "hyper_starts_higher",
        "hyper_stays_higher",
    }


def test_every_cell_that_is_not_quoted_has_a_recipe():
    for table in PRINTED:
        for row in table.rows:
            for column in row.scores:
                recipe = recipes.recipe_of(table.name, row.system, column)
                assert (recipe is None) == row.quoted, (table.name, row.system)


def test_cells_have_the_recipes_of_their_rows_and_columns():
    assert recipes.recipe_of("table_1", "HyperT5-LoRA+", "CB") == (
        "p3_large/hypert5_lora_plus"
    )
    assert recipes.recipe_of("table_3", "T5-MTF (LoRA)", "Non-NLI→NLI") == (
        "metaicl_large/non_nli_to_nli/t5_mtf_lora"
    )
    assert recipes.recipe_of("table_5", "HyperT5-Prefix", "Def+2Pos") == (
        "sni_xl/hypert5_prefix_def_2pos"
    )
    assert recipes.command("peft/tune_large") == (
        "python -m hypert5_jax.tune --gin_file=gin/recipes/peft/tune_large.gin"
    )


def test_what_a_recipe_starts_from_comes_before_it():
    assert recipes.before(["sni_xl/hypert5_lora_def"]) == ["hyperpretraining/lora_xl"]
    assert recipes.before(["p3_large/hypert5_prefix_mlp"]) == [
        "hyperpretraining/prefix_mlp_large"
    ]
    assert recipes.before(["p3_large/t5_mtf"]) == []
    assert recipes.before(["small/p3_t5_mtf", "small/tune"]) == ["small/sweep"]
    tune = recipes.before(["peft/tune_large"])
    assert tune.index("hyperpretraining/lora_large") < tune.index(
        "p3_large/hypert5_lora"
    )
    assert len(tune) == 8


def test_every_recipe_that_is_named_is_there():
    folder = ROOT / "gin" / "recipes"
    named = {r for cells in recipes.RECIPES.values() for r in cells.values()}
    named |= set(recipes.before(named))
    here = {recipe for recipe in named if (folder / recipe).parent.is_dir()}
    assert {r for r in here if not (folder / f"{r}.gin").is_file()} == set()
    assert len(here) >= 51


@pytest.mark.parametrize("table", [t for t in recipes.RECIPES if t not in SWEEPS])
def test_a_cells_recipe_says_that_it_fills_this_cell(table):
    """Read as text: what a recipe binds, its own includes taken in."""
    folder = ROOT / "gin" / "recipes"
    for (system, column), recipe in recipes.RECIPES[table].items():
        if table in CURVES or not (folder / recipe).parent.is_dir():
            continue
        bound = bindings(folder / f"{recipe}.gin")
        assert bound.get("Recipe.name") == recipe
        assert bound.get("Recipe.table") == table
        assert bound.get("Recipe.system") == system
        assert bound.get("Recipe.column", "") == column


def bindings(file):
    """{name: text} of what a gin file binds to texts, with what it includes."""
    found = {}
    for line in file.read_text().splitlines():
        if included := re.match(r'include "(.*)"', line):
            found |= bindings(ROOT / included[1])
        elif bound := re.match(r'([\w.]+) = "(.*)"', line):
            found[bound[1]] = bound[2]
    return found
