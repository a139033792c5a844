"""What tests of tuning start from: prepared tasks, a frozen T5, five trained systems.

Parameters are random and written as checkpoints directly: nothing is trained.
"""

import jax
import numpy as np

from hypert5_jax.checkpoints.store import CheckpointConfig, CheckpointStore
from hypert5_jax.config import gin_files
from hypert5_jax.config.train_run import TrainRun
from hypert5_jax.data.records import Example
from hypert5_jax.data.vocabulary import Vocabulary
from hypert5_jax.preparation.manifest import Source, write_manifest
from hypert5_jax.preparation.writer import Item, write_unit
from hypert5_jax.t5.stacking import unstack_layers
from hypert5_jax.training.state import fingerprints
from tests.config.tiny_run import SIZES, TRAIN
from tests.models import random_params

# Field of Starts -> the variant's gin file.
SOURCES = {
    "shared_prefix": "t5_mtf_prefix",
    "shared_lora": "t5_mtf_lora",
    "hyper_prefix": "hypert5_prefix",
    "hyper_prefix_mlp": "hypert5_prefix_mlp",
    "hyper_lora": "hypert5_lora",
}
GROUPS = ("rte", "winogrande_debiased")


def prepare(home, split, groups=GROUPS, name="toy", options=True, count=12):
    """A task t0, t1, … for each group; the answer is one of the input's ids."""
    place = home / "prepared" / name / split
    place.mkdir(parents=True)
    rng = np.random.default_rng(len(split))
    items = []
    for number, group in enumerate(groups):
        for _ in range(count):
            ids = [int(i) for i in rng.integers(3, 40, 4)]
            choices = ([ids[1], 1], [ids[0], 1]) if options else ()
            example = Example(ids, [ids[0], 1], options=choices)
            items.append(Item(f"t{number}", example, group=group))
    write_unit(place, "u-00000-of-00001", items, default_task="t")
    vocabulary = Vocabulary(kind="opaque", size=40, extra_ids=0, fingerprint="x")
    source = Source(name, 1.0, (), ("u-00000-of-00001",))
    write_manifest(place, name, split, [source], vocabulary)


def write_run(home, variant, name, *settings, base=None):
    """A run's folder with one checkpoint of random parameters, trained beside `base`.

    Returns:
      its downstream T5.
    """
    files = (f"gin/variants/{variant}.gin", "gin/runs/multitask.gin")
    bindings = [
        f"MODEL_DIR = '{home / name}'",
        "MIXTURE_OR_TASK_NAME = 'toy'",
        "INITIAL_CHECKPOINT_PATH = None",
        *settings,
    ]
    paths = (*files, str(home / "sizes.gin"), str(home / "train.gin"))
    given = gin_files.GinArguments(paths, tuple(bindings))
    run, text = gin_files.build(TrainRun, given)
    params = random_params(run.system, seed=len(name))
    downstream = params["downstream"] if base is None else base
    frozen = {} if base is None else {"downstream": downstream}
    about = {
        "data": {"start_step": 1, "seed": 0},
        "optimiser": "adam",
        "vocabulary": "x",
        "frozen": {
            group: {"origin": "base", "sha256": digest}
            for group, digest in fingerprints(frozen).items()
        },
        "origins": {},
        "parameters": {},
        "config": text,
    }
    groups = [g for g in params if base is None or g != "downstream"]
    kept = {group: unstack_layers(params[group]) for group in groups}
    store = CheckpointStore(home / name / "checkpoints", CheckpointConfig())
    store.save(1, jax.tree.map(np.asarray, kept), {"count": np.zeros(1)}, about)
    store.close()
    return downstream


def make(home):
    """Everything, below `home`."""
    prepare(home, "train")
    prepare(home, "validation", groups=("rte", "winogrande_debiased", ""))
    prepare(home, "train", name="bare")
    prepare(home, "validation", name="bare", options=False)
    (home / "sizes.gin").write_text(SIZES)
    (home / "train.gin").write_text(TRAIN)
    base = write_run(home, "t5_mtf", "base")
    for name, variant in SOURCES.items():
        write_run(home, variant, name, base=base)


TUNE = """
OUTPUT_DIR = "out"
MIXTURE_OR_TASK_NAME = "toy"
EvaluationData.tasks = ("t0", "t1")
TRAIN_STEPS = 3
BATCH_SIZE = 8
EVAL_EVERY = 2
LEARNING_RATES = (1e-2, 1e-3)
SEEDS = (0, 1)
TuneRun.frozen_dtype = "float32"
TuneRun.init_std = 0.5
"""


def arguments(home, out, *settings, starts=tuple(SOURCES)):
    """The command line of a sweep."""
    (home / "tune.gin").write_text(TUNE)
    given = {
        "OUTPUT_DIR": out,
        "PREPARED_DIR": home / "prepared",
        "INITIAL_CHECKPOINT_PATH": home / "base",
        **{f"Starts.{name}": home / name for name in starts},
    }
    files = ("gin/runs/tune.gin", home / "sizes.gin", home / "tune.gin")
    return [
        *(f"--gin_file={file}" for file in files),
        *(f"--gin.{key}={value}" for key, value in given.items()),
        *(f"--gin.{setting}" for setting in settings),
    ]
