"""What must not stand in one table is refused, with both files named."""

import json

import pytest

from hypert5_jax.core.errors import UserError
from hypert5_jax.reporting.book import numbers_of
from hypert5_jax.reporting.result_files import read
from tests.reporting.written import TRAINING, p3_context, write_result

EIGHT = tuple(range(30, 38))


def refusal(folder):
    with pytest.raises(UserError) as caught:
        numbers_of(*read([str(folder)]))
    return str(caught.value)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"protocol__name": "metaicl"}, "protocol.name is 'p3' and 'metaicl'"),
        ({"data__digest": "e"}, "data.digest is 'd' and 'e'"),
        ({"limit": 4}, "limit is None and 4"),
        ({"rows__lengths": {"inputs": 64}}, "rows.lengths.inputs is 384 and 64"),
        ({"rows__max_shots": 2}, "rows.max_shots is 16 and 2"),
        ({"decoding__beams": 4}, "decoding.beams is 1 and 4"),
    ],
)
def test_results_that_were_measured_differently(tmp_path, change, words):
    one = write_result(tmp_path / "a", "T5-MTF-Few-shot", p3_context(*EIGHT))
    other = write_result(tmp_path / "b", "T5-MTF", p3_context(*EIGHT), **change)
    said = refusal(tmp_path)
    assert words in said and str(one) in said and str(other) in said


def test_another_protocol_is_refused_also_where_it_has_no_number(tmp_path):
    kind = {"table": "table_4", "column": "Def"}
    write_result(tmp_path / "a", context=1, protocol__name="sni", **kind)
    context = p3_context({"CB": 1})
    write_result(tmp_path / "b", "T5-MTF", context, **kind)
    assert "protocol.name is 'sni' and 'p3'" in refusal(tmp_path)


def test_systems_without_a_context_need_not_share_its_settings(tmp_path):
    write_result(tmp_path / "a", "T5-MTF-Few-shot", p3_context(*EIGHT))
    more = {"rows__context": "none", "rows__max_shots": 0, "data__support": "x/y"}
    write_result(tmp_path / "b", "T5-MTF", p3_context(*EIGHT), **more)
    assert numbers_of(*read([str(tmp_path)])).filled["table_1"].left_out == ()


def test_columns_of_their_own_data_share_the_protocol_only(tmp_path):
    first = {"table": "table_3", "column": "HR→LR"}
    write_result(tmp_path / "a", context=1, **first)
    second = {"table": "table_3", "column": "Non-NLI→NLI", "data__mixture": "other"}
    write_result(tmp_path / "b", context=1, **second)
    numbers_of(*read([str(tmp_path)]))
    write_result(tmp_path / "c", "T5-MTF", 1, protocol__name="official", **second)
    assert "protocol.name" in refusal(tmp_path)


def test_other_versions_are_told_and_not_refused(tmp_path):
    write_result(tmp_path / "a", "T5-MTF", p3_context(*EIGHT))
    write_result(tmp_path / "b", context=p3_context(*EIGHT), versions={"jax": "0.12"})
    from hypert5_jax.reporting.comparable import told

    results, _ = read([str(tmp_path)])
    assert told(results) == ["versions.jax is '0.10.2' and '0.12'"]


def test_a_column_that_only_one_system_has(tmp_path):
    one = write_result(tmp_path / "a", "T5-MTF", p3_context(*EIGHT))
    context = p3_context({"CB": 1, "RTE": 2}, groups=["hellaswag", "wic"])
    other = write_result(tmp_path / "b", context=context)
    said = refusal(tmp_path)
    assert str(one) in said and str(other) in said
    assert "HSwag" in said and "no task of hellaswag, wic" in said


@pytest.mark.parametrize(
    "configs, parameters, words",
    [
        ((TRAINING.format(seed=0),) * 2, "same", "judged twice"),
        (("", ""), "differ", "seeds cannot be told"),
        ((TRAINING.format(seed=0),) * 2, "differ", "name the same seeds"),
        (
            (TRAINING.format(seed=0), TRAINING.format(seed=1) + "STEPS = 9\n"),
            "differ",
            "STEPS was None and 9",
        ),
        (
            tuple(
                TRAINING.format(seed=s) + f"INITIAL_CHECKPOINT_PATH = '{s}'\n"
                for s in "01"
            ),
            "differ",
            "INITIAL_CHECKPOINT_PATH was '0' and '1'",
        ),
    ],
)
def test_two_results_for_one_cell_that_are_no_seeds(
    tmp_path, configs, parameters, words
):
    files = []
    for i, config in enumerate(configs):
        marks = {"hypermodel": str(i) if parameters == "differ" else "one"}
        place = tmp_path / str(i) / "scores"
        context = p3_context(*EIGHT)
        files.append(
            write_result(place, context=context, config=config, parameters=marks)
        )
    said = refusal(tmp_path)
    assert words in said and all(str(file) in said for file in files)


def test_the_training_configuration_may_lie_above_the_scores(tmp_path):
    for seed in (0, 1):
        place = tmp_path / str(seed) / "scores"
        marks = {"hypermodel": str(seed)}
        write_result(place, context=p3_context(*EIGHT), parameters=marks)
        (tmp_path / str(seed) / "config.gin").write_text(TRAINING.format(seed=seed))
    book = numbers_of(*read([str(tmp_path)])).book
    assert len(book["table_1", "HyperT5-Prefix", "AVG"].values) == 2


@pytest.mark.parametrize(
    "text, words",
    [
        ("{", "is no JSON"),
        ("[1]", "holds list, expected an object"),
        ('{"scores": 1}', "is not a table of `python -m hypert5_jax.evaluate`"),
        ('{"contexts": {"real": 1}, "about": {"settings": {}}}', "is not a table"),
    ],
)
def test_a_file_of_something_else(tmp_path, text, words):
    file = tmp_path / "results.json"
    file.write_text(text)
    said = refusal(tmp_path)
    assert words in said and str(file) in said


@pytest.mark.parametrize(
    "change, words",
    [
        ({"table": "table_9"}, "names the table 'table_9'; expected one of table_1"),
        ({"table": "tables_6_7"}, "names the table 'tables_6_7'"),
        ({"table": "table_3", "column": "HR->LR"}, "column 'HR->LR' of table_3"),
        ({"table": "table_4"}, "column '' of table_4; expected one of Def, Def+2Pos"),
        ({"column": "ANLI"}, "column 'ANLI' of table_1; expected none"),
        ({"table": "figure_4"}, "hyperpretrained is None"),
        ({"system": ""}, "names table_1 but no system"),
        ({"system": 5}, "its recipe's system is 5; expected text"),
    ],
)
def test_a_recipe_that_fits_no_cell(tmp_path, change, words):
    file = write_result(tmp_path / "a", context=p3_context(*EIGHT), **change)
    said = refusal(tmp_path)
    assert words in said and str(file) in said


@pytest.mark.parametrize(
    "number", [{"mean": 3}, {"draws": []}, {"draws": [float("nan")]}, {"draws": "3"}, 3]
)
def test_a_number_that_is_none(tmp_path, number):
    file = write_result(tmp_path / "a", context={"mean": {"CB": number}})
    assert f"{file} has no score for CB" in refusal(tmp_path)


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "results.json").write_bytes(b"\xff\xfe")
    assert f"cannot read {tmp_path}/results.json" in refusal(tmp_path)


def test_links_in_a_circle_end(tmp_path):
    write_result(tmp_path / "a", context=p3_context(*EIGHT))
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    assert len(read([str(tmp_path)])[0]) == 1


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="which is no folder"):
        read([str(tmp_path / "nothing")])


def test_results_without_a_table_are_named_apart(tmp_path):
    file = write_result(tmp_path / "a", context=p3_context(*EIGHT))
    found = json.loads(file.read_text())
    file.write_text(json.dumps(found | {"recipe": None}))
    numbers = numbers_of(*read([str(tmp_path)]))
    assert numbers.apart == (f"{file}: its recipe names no table",)
    assert not numbers.book


def test_a_file_in_two_of_the_folders_is_read_once(tmp_path):
    write_result(tmp_path / "a" / "b", context=p3_context(*EIGHT))
    results, _ = read([str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a" / "b")])
    assert len(results) == 1
