"""The table's writer."""

import json

from hypert5_jax.reporting.quickstart_report import markdown, write_report


def table(shift=0.0):
    scores = {"loss": 1.0 + shift, "exact_match": 0.5, "option_accuracy": 0.75}
    plain = {"loss": 2.0, "exact_match": 0.25}
    return {
        "documents": {"right": plain, "none": plain},
        "heldout": {"right": scores, "none": scores},
    }


def test_one_seed_shows_plain_numbers():
    text = markdown([table()])
    assert "| loss | 1.00 | 1.00 |" in text
    assert "| option accuracy | 0.75 | 0.75 |" in text
    assert "±" not in text


def test_several_seeds_show_mean_and_deviation():
    assert "| loss | 1.10 ± 0.14 |" in markdown([table(), table(0.2)])


def test_the_report_is_written_as_markdown_json_and_a_figure(tmp_path):
    write_report(tmp_path / "run", [table()], {"seeds": [0]})
    assert (tmp_path / "run" / "table.md").read_text() == markdown([table()])
    found = json.loads((tmp_path / "run" / "table.json").read_text())
    assert found["tables"] == [table()] and found["about"] == {"seeds": [0]}
    assert (tmp_path / "run" / "table.png").read_bytes().startswith(b"\x89PNG")
