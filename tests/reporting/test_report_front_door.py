"""python -m hypert5_jax.report: files, exit codes, pictures."""

import os
import struct

import pytest

from hypert5_jax import report
from hypert5_jax.config import cli
from tests.reporting.test_document import parsed
from tests.reporting.written import (
    numbers,
    p3_context,
    run_line,
    write_result,
    write_sweep,
)


def run(*arguments):
    return cli.exit_code(report.main, list(arguments))


def pixels(png):
    """(width, height) of a PNG, from its header."""
    data = png.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and data[-8:-4] == b"IEND"
    return struct.unpack(">II", data[16:24])


def test_no_results_give_all_commands(tmp_path, capsys):
    assert run(f"--output={tmp_path}/out") == 0
    text = (tmp_path / "out" / "report.md").read_text()
    commands = {line.split("`")[1] for line in text.splitlines() if "`python" in line}
    # 5 hyperpretrainings, 9 + 6 on P3, 18 MetaICL, 12 S-NI, Figure 4, tune.
    assert len(commands) == 5 + 15 + 18 + 12 + 1 + 1
    assert "There are no results yet" in text
    assert sorted(os.listdir(tmp_path / "out")) == ["report.html", "report.md"]
    assert capsys.readouterr().out.startswith("done: ")


def test_partial_results_give_tables_figures_and_verdicts(tmp_path, capsys):
    for system, scores in (("HyperT5-Prefix", (1, 3, 5)), ("HyperT5-LoRA", (1, 5, 3))):
        for i, score in enumerate(scores):
            place = tmp_path / "r" / f"{system}{i}"
            write_result(place, system, [score, score + 1], "figure_4", steps=i * 50)
    write_result(tmp_path / "r" / "t", "T5-MTF (LoRA)", p3_context(*range(8)))
    lines = [
        run_line("cb", start, rate, seed, (1, 2 + seed)) | {"method": method}
        for method in ("LoRA", "Prefix-Flat")
        for start in ("Rand", "Hyper")
        for rate in (1e-3, 1e-4)
        for seed in (0, 1)
    ]
    recipe = {"name": "peft/tune_large", "table": "tables_6_7"}
    methods = ["LoRA", "Prefix-Flat"]
    write_sweep(tmp_path / "r" / "s", lines, recipe=recipe, methods=methods)
    assert run(f"--results={tmp_path}/r", f"--output={tmp_path}/out") == 0
    said = capsys.readouterr().out
    assert (
        "HyperT5-LoRA declines after half of the hyperpretraining, Figure 4: " in said
    )
    figures = {"figure_4.png", "figure_5.png", "figure_9.png"}
    assert {p.name for p in (tmp_path / "out").glob("*.png")} == figures
    assert all(min(pixels(tmp_path / "out" / name)) > 300 for name in figures)
    reader = parsed((tmp_path / "out" / "report.html").read_text())
    assert {image["src"] for image in reader.images} == figures
    assert "4.5 ± 0.7" not in reader.texts and "5.5 ± 0.7" in reader.texts


def test_scaled_down_results_have_files_of_their_own(tmp_path):
    for steps in (0, 10):
        place = tmp_path / "r" / str(steps)
        write_result(place, context=[1, 2], table="small_figure_4", steps=steps)
    mean = {"mean": {"AVG": numbers(4)}, "headline": numbers(4)}
    write_result(tmp_path / "r" / "x", "T5-MTF", mean, "small_p3")
    assert run(f"--results={tmp_path}/r", f"--output={tmp_path}/out") == 0
    assert (tmp_path / "out" / "small_figure_4.png").is_file()
    text = (tmp_path / "out" / "report.md").read_text()
    assert text.index("## In small") < text.index("### Table 1")
    # Claims speak of what there is; the paper's own tables are for later.
    claims = text[: text.index("## In small")]
    assert "Figure 4 in small" in claims and "| Table 1 |" not in claims


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--results={0}/none"], "which is no folder"),
        (["--results={0}/r"], "is no JSON"),
        (["--output="], "--output is empty"),
        (["--output={0}/r/results.json/x"], "cannot write"),
    ],
)
def test_a_users_mistake_ends_with_2_and_writes_nothing(
    tmp_path, capsys, arguments, words
):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "results.json").write_text("{")
    given = [argument.format(tmp_path) for argument in arguments]
    if not any(argument.startswith("--output") for argument in given):
        given.append(f"--output={tmp_path}/out")
    assert run(*given) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
