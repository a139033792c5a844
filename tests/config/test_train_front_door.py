"""python -m hypert5_jax.train in process: base run, hypertuning from it, and mistakes."""

import json
import re
import shutil

import jax
import numpy as np
import pytest

from hypert5_jax import train
from hypert5_jax.adapting.model import Model
from hypert5_jax.checkpoints import run_lock
from hypert5_jax.checkpoints.run_lock import only_run
from hypert5_jax.checkpoints.store import load_params
from hypert5_jax.config import cli, gin_files
from hypert5_jax.config.train_run import TrainRun
from hypert5_jax.core import trees
from hypert5_jax.core.errors import UserError
from hypert5_jax.data.prepared import open_mixture
from hypert5_jax.data.records import Example
from hypert5_jax.data.stream import batches
from hypert5_jax.data.vocabulary import Vocabulary
from hypert5_jax.preparation.manifest import Source, write_manifest
from hypert5_jax.preparation.writer import Item, write_unit
from hypert5_jax.t5.stacking import stack_layers, unstack_layers
from hypert5_jax.training.initial import InitialConfig, initial_params
from tests.config.tiny_run import SIZES, TRAIN


def prepare(home, fingerprint="x", size=40):
    """A mixture "toy" of one task, as prepared files."""
    place = home / "toy" / "train"
    place.mkdir(parents=True)
    rng = np.random.default_rng(0)
    items = []
    for _ in range(20):
        ids = [int(i) for i in rng.integers(2, 40, 4)]
        items.append(Item("t", Example(inputs=ids, targets=[ids[0], 1])))
    write_unit(place, "u-00000-of-00001", items, default_task="t")
    vocabulary = Vocabulary(
        kind="opaque", size=size, extra_ids=0, fingerprint=fingerprint
    )
    source = Source("toy", 1.0, (), ("u-00000-of-00001",))
    write_manifest(place, "toy", "train", [source], vocabulary)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Prepared data and a base T5, trained for two steps from chance."""
    home = tmp_path_factory.mktemp("front_door")
    prepare(home / "prepared")
    (home / "sizes.gin").write_text(SIZES + TRAIN)
    assert run(home, "t5_mtf", "base", None, "InitialConfig.allow_random=True") == 0
    return home


def arguments(home, variant, name, initial, *settings):
    files = (f"gin/variants/{variant}.gin", "gin/runs/multitask.gin")
    given = {
        "MODEL_DIR": home / name,
        "PREPARED_DIR": home / "prepared",
        "MIXTURE_OR_TASK_NAME": "toy",
        "INITIAL_CHECKPOINT_PATH": initial,
    }
    return [
        *(f"--gin_file={file}" for file in (*files, home / "sizes.gin")),
        *(f"--gin.{key}={value}" for key, value in given.items()),
        *(f"--gin.{setting}" for setting in settings),
    ]


def run(*args):
    return cli.exit_code(train.main, arguments(*args))


def built(home, variant, name, initial, *settings):
    argv = arguments(home, variant, name, initial, *settings)
    return gin_files.build(TrainRun, gin_files.read_arguments("train", "", argv))[0]


def test_hypertuning_starts_from_a_base_run_and_says_all_of_it(home, capsys):
    setting = "RowFormat.shot_length=6"
    assert run(home, "hypert5_prefix", "hyper", home / "base", setting) == 0
    printed = capsys.readouterr().out
    # <x>, four ids, <y> and one of the target; inputs and targets fit.
    cut = "20 of 20 examples are cut: as a shot longer than 6 tokens\n"
    assert cut in printed and printed.count("are cut") == 1
    assert "done: 2 of 2 steps" in printed and "hypermodel" in printed
    folder = home / "hyper"
    assert {"config.gin", "metrics.jsonl", "checkpoints"} <= {
        path.name for path in folder.iterdir()
    }
    row = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert row["step"] == 2 and row["train/loss"] > 0
    params, _ = load_params(folder)
    assert list(params) == ["hypermodel"]
    # The very same configuration, from the file beside the checkpoints: nothing to do.
    again = [f"--gin_file={folder / 'config.gin'}"]
    assert cli.exit_code(train.main, again) == 0
    assert "done: 2 of 2 steps" in capsys.readouterr().out

    # A further stage: the hypermodel is that run's, the downstream T5 the base.
    stage = built(home, "hypert5_prefix", "next", home / "base")
    config = InitialConfig(str(home / "base"), str(folder))
    begin = initial_params(stage.system, config, seed=0)
    kernel = begin.params["hypermodel"]["slots"]["embedding"]
    np.testing.assert_array_equal(kernel, params["hypermodel"]["slots"]["embedding"])
    with pytest.raises(UserError, match="trained with vocabulary x, the data .* y"):
        initial_params(stage.system, config, 0, vocabulary="y")
    other = InitialConfig(None, str(folder), allow_random=True)
    with pytest.raises(UserError, match="trained beside another downstream T5"):
        initial_params(stage.system, other, seed=3)


def test_a_run_is_a_model_also_where_its_t5_has_moved(home, tmp_path, capsys):
    setting = "RowFormat.shot_length=6"  # the run of the first test, if it was before
    assert run(home, "hypert5_prefix", "hyper", home / "base", setting) == 0
    folder, base = home / "hyper", home / "base"
    tiny = Model.load(folder)
    assert tiny.system == built(home, "hypert5_prefix", "x", base).system
    assert tiny.vocabulary.size == 40 and tiny.row.max_shots == 2
    assert tiny.name.endswith("hyper at step 2")
    saved = load_params(folder)[0]["hypermodel"]
    jax.tree.map(
        np.testing.assert_array_equal, unstack_layers(tiny.params["hypermodel"]), saved
    )
    t5 = load_params(base)[0]["downstream"]
    assert tiny.base_model == trees.fingerprint(t5)
    with pytest.raises(UserError, match="'opaque' cannot tokenise"):
        tiny.adapt([("a", "b")])
    step = Model.load(folder / "checkpoints" / "2")
    assert step.base_model == tiny.base_model

    # A run from before model.json: the command that trained it writes it.
    (folder / "model.json").unlink()
    with pytest.raises(UserError, match="train --gin_file=.*hyper/config.gin"):
        Model.load(folder)
    assert cli.exit_code(train.main, [f"--gin_file={folder / 'config.gin'}"]) == 0
    assert "is done" in capsys.readouterr().out

    # Carried alone to another machine.
    elsewhere = tmp_path / "model"
    shutil.copytree(folder, elsewhere)
    shutil.move(base, tmp_path / "t5")
    try:
        with pytest.raises(UserError, match="trained beside the T5 at .*base.*--base"):
            Model.load(elsewhere)
        moved = Model.load(elsewhere, base=str(tmp_path / "t5"))
        assert moved.base_model == tiny.base_model
    finally:
        shutil.move(tmp_path / "t5", base)
    with pytest.raises(UserError, match="no downstream|beside another downstream T5"):
        Model.load(folder, base=str(folder))
    (elsewhere / "checkpoints" / "2" / "manifest.json").unlink()
    with pytest.raises(UserError, match="no checkpoint at"):
        Model.load(elsewhere)


def test_the_held_out_loss_is_that_of_rows_nobody_trains_on(home):
    shutil.copytree(home / "prepared/toy/train", home / "prepared/toy/kept")
    settings = (
        *("HELD_OUT_SPLIT='kept'", "TrainConfig.eval_every=1"),
        "TrainRun.held_out_batches=3",
    )
    argv = arguments(home, "hypert5_prefix", "held", home / "base", *settings)
    argv.insert(2, "--gin_file=gin/runs/held_out.gin")
    assert cli.exit_code(train.main, argv) == 0
    rows = (home / "held" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(r).get("held_out/loss") for r in rows]
    losses = [loss for loss in losses if loss is not None]
    assert len(losses) == 2 and losses[0] != losses[1]

    # The last one by hand: the same batches, the parameters the checkpoint holds.
    given = gin_files.read_arguments("train", "", argv)
    stage = gin_files.build(TrainRun, given)[0]
    begin = initial_params(stage.system, stage.initial, 0).params
    params = begin | load_params(home / "held")[0]
    params = {
        group: stack_layers(tree) if "layers" not in tree["encoder"] else tree
        for group, tree in params.items()
    }
    mixture = open_mixture(home / "prepared/toy", "kept")
    stream = batches(mixture, stage.data.row_format, 8, seed=0)
    loss_of = jax.jit(stage.system.loss)
    sums = [loss_of(params, next(stream)) for _ in range(3)]
    loss = sum(float(s.loss) for s in sums) / sum(float(s.weight) for s in sums)
    assert losses[1] == pytest.approx(loss, rel=1e-5)


def test_two_runs_do_not_train_in_one_folder(home, capsys, monkeypatch):
    monkeypatch.setattr(run_lock, "_PATIENCE", 0.0)
    with only_run(home / "taken"):
        assert run(home, "hypert5_prefix", "taken", home / "base") == 2
    assert "another process is training in" in capsys.readouterr().err
    assert [path.name for path in (home / "taken").iterdir()] == [run_lock.NAME]


def test_a_run_with_another_stream_is_refused_and_its_folder_left_alone(home, capsys):
    assert run(home, "hypert5_prefix", "halted", home / "base") == 0
    config = (home / "halted" / "config.gin").read_text()
    capsys.readouterr()
    again = ("hypert5_prefix", "halted", home / "base", "BATCH_SIZE=16")
    assert run(home, *again, "TRAIN_STEPS=3") == 2
    said = capsys.readouterr().err
    assert "was trained with batch size 8, this run has 16" in said
    assert (home / "halted" / "config.gin").read_text() == config


def test_the_hypermodel_starts_as_the_same_t5_except_for_what_is_new(home):
    system = built(home, "hypert5_prefix", "x", home / "base").system
    begin = initial_params(system, InitialConfig(str(home / "base")), seed=0)
    base = load_params(home / "base")[0]["downstream"]
    assert str(home / "base") in begin.origins["downstream"]
    for group in ("downstream", "hypermodel"):
        np.testing.assert_array_equal(
            begin.params[group]["token_embedder"]["embedding"],
            base["token_embedder"]["embedding"],
        )
    names = set(begin.params["hypermodel"]) - set(begin.params["downstream"])
    assert names == {"slots", "heads"}


def test_a_dry_run_prints_configuration_and_parameters_and_makes_nothing(home, capsys):
    argv = [*arguments(home, "t5_mtf_lora", "dry", home / "base"), "--dry_run"]
    assert cli.exit_code(train.main, argv) == 0
    printed = capsys.readouterr().out
    assert "TRAIN_STEPS = 2" in printed and "1 tasks and fits" in printed
    rows = {line.split()[0]: line for line in printed.splitlines() if line.strip()}
    assert rows["phi"].endswith("yes") and rows["downstream"].endswith("no")
    assert not (home / "dry").exists()


def test_compressed_optimisers_are_settings_of_the_same_command(home, capsys):
    small = "OptimiserConfig.min_compressed_size=64"
    eight = (small, "OptimiserConfig.name='adam8bit'")
    begin = (home, "hypert5_prefix", "eight", home / "base")
    assert cli.exit_code(train.main, [*arguments(*begin, *eight), "--dry_run"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    held = {row[0]: row for row in rows if len(row) > 2}
    assert held["(optimiser)"][3:] == ["float32,", "int32,", "uint8"]
    trained, state = (
        int(held[name][2].replace(",", "")) for name in ("hypermodel", "(optimiser)")
    )
    assert state < 1.6 * trained  # adam's is twice what it trains

    one = (small, "OptimiserConfig.name='adam1bit'")
    one = (*one, "OptimiserConfig.full_precision_steps=1")
    begin = (home, "hypert5_prefix", "one", home / "base")
    assert run(*begin, *one) == 0
    assert "done: 2 of 2 steps" in capsys.readouterr().out
    more = (*begin, *one, "TRAIN_STEPS=3")
    assert run(*more, "OptimiserConfig.block_size=64") == 2
    assert "this run uses adam1bit (block_size 64" in capsys.readouterr().err
    assert run(*more, "MeshConfig.fsdp=2") == 2
    assert "set MeshConfig.fsdp to 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("initial", "settings", "message"),
    [
        (None, (), "no initial checkpoint"),
        ("/nowhere", (), "no checkpoint at /nowhere"),
        ("base", ("T5Config.emb_dim=32",), "is of another model"),
        ("base", ("T5Config.vocab_size=40",), "40 embedding rows"),
        ("base", ("MeshConfig.model=16",), "model 16, needs at least"),
        ("base", ("MeshConfig.model=4",), "num_heads|axis 'heads' has size 2"),
        ("base", ("TrainConfig.microbatches=3",), "3 microbatches"),
        ("base", ("TASK_FEATURE_LENGTHS={'inputs': 4}",), "hyper_inputs"),
    ],
)
def test_mistakes_end_with_code_2_and_one_message(
    home, initial, settings, message, capsys
):
    initial = home / "base" if initial == "base" else initial
    argv = arguments(home, "hypert5_prefix", "mistake", initial, *settings)
    for more in ([], ["--dry_run"]):
        assert cli.exit_code(train.main, [*argv, *more]) == 2
        printed = capsys.readouterr().err
        assert re.search(message, printed) and "Traceback" not in printed
        assert not (home / "mistake" / "checkpoints").exists()


def test_a_dry_run_notes_what_it_cannot_see_and_what_a_recipe_makes(home, capsys):
    def dry(*settings, initial=home / "base"):
        argv = arguments(home, "hypert5_prefix", "dry", initial, *settings)
        return cli.exit_code(train.main, [*argv, "--dry_run"])

    bucket = "gs://no-such-bucket/t5/checkpoint_1"
    hyper = ("INITIAL_ADAPTATION_PATH='runs/none'", "TrainRun.recipe=@Recipe()")
    hyper = (*hyper, "Recipe.name='mine'")
    assert dry(*hyper, "Recipe.adaptation_recipe='h'", initial=bucket) == 0
    printed = capsys.readouterr().out
    assert f"note: {bucket} (INITIAL_CHECKPOINT_PATH) is not looked at" in printed
    assert "note: no checkpoint at runs/none" in printed and "recipe h makes" in printed
    assert dry(*hyper) == 2
    assert "no checkpoint at runs/none, which mine starts" in capsys.readouterr().err

    absent = "MIXTURE_OR_TASK_NAME='toyy'"
    assert dry(absent, "TASK_MODULES=('tasks.p3',)", initial="t5_1_1_large") == 0
    printed = capsys.readouterr().out
    assert "nor that 'toyy' is the name of a task" in printed
    assert "note: t5_1_1_large (INITIAL_CHECKPOINT_PATH) is not looked" in printed
    assert dry(absent, "TASK_MODULES=('nope.py',)") == 2
    assert "--module=nope.py: there is none" in capsys.readouterr().err
    assert dry("TASK_MODULES=('nope.py',)") == 0  # what is prepared needs none
    assert not (home / "dry").exists()
