"""Every recipe, as listed by the folder: parsed, built full-size without memory, counted."""

import functools

import pytest

from benchmarks import plans
from hypert5_jax.config.train_run import TrainRun
from tests.recipes import described
from tests.recipes.described import FOLDER

NAMES = described.names()
SWEEPS = described.sweeps()
RUNS = [name for name in NAMES if name not in SWEEPS]
PAPER = [name for name in RUNS if not name.startswith("small/")]
REWRITE = "python -m tests.recipes.described writes it again"


@functools.cache
def stored():
    return described.stored()


def one_per(key, names):
    """The first recipe of each kind."""
    found: dict = {}
    for name in names:
        found.setdefault(key(described.run_of(name)), name)
    return list(found.values())


def test_the_goldens_are_of_all_recipes_and_no_others():
    assert sorted(stored()) == RUNS, REWRITE


@pytest.mark.parametrize("name", RUNS)
def test_a_recipe_is_whole_and_has_its_number_of_parameters(name):
    run = described.run_of(name)
    assert isinstance(run, TrainRun) and run.recipe is not None
    assert run.recipe.name == name
    assert run.model_dir == f"runs/{name}"
    golden = stored()[name]
    assert described.parameters_of(run) == golden["parameters"], REWRITE
    assert sorted(run.system.variant.trainable) == golden["trained"]
    if run.recipe.table:
        assert run.evaluation is not None
        assert run.evaluation.output_dir == f"runs/{name}/scores"
        assert run.evaluation.recipe == run.recipe
        assert run.recipe.system
    for setting, maker in (
        (run.initial.adaptation_path, run.recipe.adaptation_recipe),
        (run.initial.checkpoint_path, run.recipe.checkpoint_recipe),
    ):
        if maker:
            assert maker in RUNS and setting == f"runs/{maker}"


@pytest.mark.parametrize("name", NAMES)
def test_a_header_has_the_command_and_what_it_takes(name):
    text = (FOLDER / f"{name}.gin").read_text()
    header = text.split("\n\n")[0]
    assert f"python -m hypert5_jax.train --gin_file=gin/recipes/{name}.gin" in header
    for begin, line in described.header_lines(name, stored()).items():
        absent = f"\n{begin}" not in header and name.startswith("small/")
        assert f"\n{line}\n" in header + "\n" or absent, REWRITE


def test_the_documentation_lists_every_recipe():
    text = described.DOCS.read_text()
    assert described.with_table(text, stored()) == text, REWRITE


def test_the_table_of_plans_has_the_step_of_every_recipe():
    planned = {row.recipe for row in plans.rows()}
    alike = plans.alike()  # a step that no row has is an error
    same = {name for names in alike.values() for name in names}
    assert alike.keys() <= planned
    assert planned | same == set(plans.paper_recipes())


@pytest.mark.parametrize("name", SWEEPS)
def test_the_cells_of_a_sweep_are_runs_with_folders_of_their_own(name):
    cells = described.cells_of(name)
    assert len({cell.run.model_dir for cell in cells}) == len(cells) > 1
    for cell in cells:
        assert cell.run.recipe is not None
        assert (cell.run.evaluation is not None) == bool(cell.run.recipe.table)


def agrees(name):
    """Traces the step and compares state and layout with the goldens."""
    golden = dict(stored()[name])
    del golden["kept_bytes"]
    assert described.described(name) == golden, REWRITE


def form(run):
    """What φ is and where it comes from; what is trained changes a step little."""
    variant = run.system.variant
    return variant.adaptation, variant.source, variant.parametrisation


# One of each form here, the others among the slow tests.
FEW = one_per(form, [name for name in RUNS if "xl" not in name])


@pytest.mark.parametrize("name", FEW)
def test_a_full_size_run_of_each_form_builds_without_memory(name):
    agrees(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_full_size_run_builds_without_memory(name):
    agrees(name)
    assert described.kept_of(name) == stored()[name]["kept_bytes"], REWRITE


# T5 1.1 as published: all parameters, those of the output layer, width, layers.
SIZES = {
    "large": (783_150_080, 32_899_072, 1024, 24),
    "xl": (2_849_757_184, 65_798_144, 2048, 24),
}


@pytest.mark.parametrize(
    ("size", "prefix_millions", "lora_millions"),
    [("large", 105.0, 107.1), ("xl", 419.7, 428.1)],
)
def test_hypermodels_are_a_t5_and_heads_counted_by_hand(
    size, prefix_millions, lora_millions
):
    """Inventory A11: 105.0M and 107.1M, 420M and 428M; a head is
    LayerNorm -> Linear(H) -> tanh -> Linear(out)."""
    total, logits, width, layers = SIZES[size]

    def head(out):
        return 2 * width + (width + 1) * width + (width + 1) * out

    prefix = 4 * head(layers * width)  # P = 32: 2P slots
    lora = 6 * head(2 * 8 * width)  # R = 8: 3L slots, and a gate of each layer
    assert round(prefix / 1e6, 1) == prefix_millions
    assert round(lora / 1e6, 1) == lora_millions
    body = total - logits
    p3 = stored()[f"p3_{size}/hypert5_prefix"]["parameters"]
    assert p3 == {"hypermodel": body + prefix + 64 * width, "downstream": total}
    p3 = stored()[f"p3_{size}/hypert5_lora"]["parameters"]
    gates = 6 * layers
    slots = 3 * layers * width
    assert p3["hypermodel"] == body + lora + gates + slots


def test_every_row_of_the_papers_tables_has_its_recipe():
    zero_shot = {"T5-MTF", "T5-MTF-Few-shot", "T5-MTF (Prefix)", "T5-MTF (LoRA)"}
    six = zero_shot | {"HyperT5-Prefix", "HyperT5-LoRA"}
    nine = six | {"HyperT5-Prefix-MLP", "HyperT5-Prefix+", "HyperT5-LoRA+"}
    splits = ("HR→LR", "Non-NLI→NLI", "Non-Class→Class")
    sni = ("T5-MTF", "HyperT5-Prefix", "HyperT5-LoRA")
    expected = {("table_1", system, "") for system in nine}
    expected |= {("table_2", system, "") for system in six}
    expected |= {("table_3", system, split) for system in six for split in splits}
    for table in ("table_4", "table_5"):
        expected |= {(table, s, c) for s in sni for c in ("Def", "Def+2Pos")}
    expected |= {("figure_4", f"HyperT5-{kind}", "") for kind in ("Prefix", "LoRA")}
    recipes = [described.run_of(name).recipe for name in PAPER]
    found = [(r.table, r.system, r.column) for r in recipes if r.table]
    assert set(found) == expected and len(found) == len(expected)


def test_the_papers_settings_hold_in_every_recipe():
    """Batch 256, 10,000 steps of 5e-5 falling to nothing, 1024 + 384 + 128 tokens."""
    for name in PAPER:
        run = described.run_of(name)
        hyper = name.startswith("hyperpretraining")
        assert run.data.batch_size == 256
        assert run.train.steps == (100_000 if hyper else 10_000)
        schedule = run.train.schedule
        assert (schedule.name, schedule.learning_rate) == ("linear", 5e-5)
        assert run.train.optimiser.name == "adam"
        assert run.system.downstream.dropout_rate == (0.0 if hyper else 0.1)
        lengths = dict(run.data.row_format.lengths)
        context = 384 if hyper else 1024
        inputs = 32 if hyper else 384
        assert lengths == {"hyper_inputs": context, "inputs": inputs, "targets": 128}
        size = "xl" if "_xl" in name else "large"
        assert f"lm100k_{size}" in run.initial.checkpoint_path
        if run.evaluation is not None:
            judged = run.evaluation.data.row_format
            assert dict(judged.lengths) == lengths and judged.max_shots == 16


def test_figure_4_starts_from_checkpoints_that_hyperpretraining_keeps():
    cells = described.cells_of("figure_4/sweep")
    steps: dict[str, list[int]] = {}
    for cell in cells:
        recipe, initial = cell.run.recipe, cell.run.initial
        assert recipe.hyperpretrained == initial.adaptation_step
        steps.setdefault(recipe.system, []).append(initial.adaptation_step)
        if initial.adaptation_step == 0:
            assert initial.adaptation is None
            continue
        maker = described.run_of(recipe.adaptation_recipe).train
        assert initial.adaptation.endswith(f"/checkpoints/{initial.adaptation_step}")
        assert initial.adaptation_step % maker.checkpoints.every == 0
        assert maker.checkpoints.keep * maker.checkpoints.every >= maker.steps
    grid = list(range(0, 100_001, 10_000))
    assert steps == {"HyperT5-Prefix": grid, "HyperT5-LoRA": grid}
