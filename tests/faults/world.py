"""A training that does everything once or more, small: held-out loss, checkpoints with
leftovers to drop, metrics, a judgement at its end, all through the front door.

A frozen T5 and a learned prefix: most of a life is Python that traces models, and a
hypermodel, which is one more T5, would double it.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from hypert5_jax.checkpoints import t5x
from hypert5_jax.config import gin_files
from hypert5_jax.config.train_run import TrainRun
from hypert5_jax.data.records import Example
from hypert5_jax.data.vocabulary import Vocabulary
from hypert5_jax.preparation.manifest import Source, write_manifest
from hypert5_jax.preparation.writer import Item, write_unit
from tests.config.tiny_run import SIZES

# Rows of metrics, evaluations and checkpoints fall on different steps on purpose.
SETTINGS = """
T5Config.scan_layers = False
TRAIN_STEPS = 14
DROPOUT_RATE = 0.1
TrainConfig.frozen_dtype = "float32"
TrainConfig.log_every = 4
TrainConfig.eval_every = 5
CheckpointConfig.every = 3
CheckpointConfig.keep = 2
CheckpointConfig.best_metric = "held_out/loss"
TrainRun.held_out_batches = 2
TrainRun.tensorboard = False
ScheduleConfig.learning_rate = 1e-2
HELD_OUT_SPLIT = "kept"
EVALUATION_MIXTURE = "toy"
PROTOCOL = "p3"
EVALUATION_BATCH_SIZE = 8
"""
RUN = "run"


def make(home: Path) -> None:
    """Prepared data, a base T5 at random and the run's settings, below `home`."""
    for number, split in enumerate(("train", "kept", "test")):
        _prepare(home / "prepared" / "toy" / split, split, number)
    (home / "sizes.gin").write_text(SIZES + SETTINGS)
    given = gin_files.read_arguments("train", "", arguments(home))
    run = gin_files.build(TrainRun, given)[0]
    rng = np.random.default_rng(0)

    def random(tree: Any) -> Any:
        if isinstance(tree, dict):
            return {name: random(below) for name, below in tree.items()}
        return rng.normal(0, 0.2, tree.shape).astype(np.float32)

    t5x.save_t5(str(home / "t5"), random(run.system.abstract_params()["downstream"]))


def _prepare(place: Path, split: str, seed: int) -> None:
    place.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    items = []
    for task in ("cb", "copa", "rte", "wic"):
        for _ in range(12):
            ids = [int(x) for x in rng.integers(3, 40, 4)]
            choices = ([ids[0], 1], [ids[1], ids[2], 1])
            example = Example(ids, [ids[0], 1], options=choices)
            items.append(Item(task, example, group=task))
    write_unit(place, "u-00000-of-00001", items, default_task="t")
    vocabulary = Vocabulary(kind="opaque", size=40, extra_ids=0, fingerprint="x")
    source = Source("toy", 1.0, (), ("u-00000-of-00001",), {})
    write_manifest(place, "toy", split, [source], vocabulary)


def arguments(home: Path) -> list[str]:
    """Of the front door `train`."""
    runs = ("multitask", "held_out", "judged")
    files = ["gin/variants/t5_mtf_prefix.gin", *(f"gin/runs/{r}.gin" for r in runs)]
    given = {
        "MODEL_DIR": home / RUN,
        "PREPARED_DIR": home / "prepared",
        "MIXTURE_OR_TASK_NAME": "toy",
        "INITIAL_CHECKPOINT_PATH": home / "t5",
    }
    return [
        *(f"--gin_file={file}" for file in (*files, home / "sizes.gin")),
        *(f"--gin.{name}={value}" for name, value in given.items()),
    ]


def outcome(run: Path) -> dict[str, str]:
    """Everything a finished run left, by name, to be compared bit by bit.

    Arrays of every checkpoint by their contents, since Orbax names its files at random;
    rows of metrics without how fast they were; all other files as they are.
    """
    import orbax.checkpoint as ocp

    found = {}
    for file in sorted(path for path in run.rglob("*") if path.is_file()):
        name = str(file.relative_to(run))
        if name.startswith("checkpoints/") and "/manifest.json" not in name:
            if name.count("/") == 1 or not name.split("/")[1].isdigit():
                found[name] = "left over"
            continue
        found[name] = _digest(_text(file))
    for step in sorted((run / "checkpoints").iterdir()):
        if not (step / "manifest.json").exists():
            found[f"checkpoint {step.name}"] = "unsealed"
            continue
        for item in ("params", "optimiser"):
            with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
                shapes = reader.metadata(step / item).item_metadata.tree
                empty = _map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
                tree = reader.restore(step / item, args=ocp.args.StandardRestore(empty))
            for path, leaf in _flat(tree, f"checkpoint {step.name} {item}"):
                array = np.asarray(leaf)
                found[path] = _digest(f"{array.dtype}{array.shape}", array.tobytes())
    return found


def _text(file: Path) -> str:
    """What a file says, less what may differ: speeds, and names Orbax draws."""
    text = file.read_text()
    if file.name == "metrics.jsonl":
        rows = [json.loads(line) for line in text.splitlines()]
        slow = [{k: v for k, v in r.items() if "speed/" not in k} for r in rows]
        return "\n".join(json.dumps(row) for row in slow)
    if file.name == "manifest.json":
        said = json.loads(text.rsplit("\n", 2)[0])
        said["metrics"] = {
            k: v for k, v in said["metrics"].items() if "speed/" not in k
        }
        del said["files"]
        return json.dumps(said)
    return text


def _digest(text: str, data: bytes = b"") -> str:
    return hashlib.sha256(text.encode() + data).hexdigest()


def _map(function: Any, tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _map(function, below) for name, below in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_map(function, below) for below in tree]
    return tree if tree is None else function(tree)


def _flat(tree: Any, path: str) -> list[tuple[str, Any]]:
    if isinstance(tree, dict):
        return [x for name, t in tree.items() for x in _flat(t, f"{path}/{name}")]
    if isinstance(tree, (list, tuple)):
        return [x for i, t in enumerate(tree) for x in _flat(t, f"{path}/{i}")]
    return [] if tree is None else [(path, tree)]
