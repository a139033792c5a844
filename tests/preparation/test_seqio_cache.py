"""seqio's cache, as its Beam pipeline writes it: what it changes, which is nothing."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from hypert5_jax.core.errors import UserError
from hypert5_jax.data.prepared import PreparedMixture, open_mixture

seqio = pytest.importorskip(
    "seqio", reason="seqio, of the extra `data`, is not installed"
)
import tensorflow as tf

from hypert5_jax import prepare
from hypert5_jax.data.rows import RowFormat
from hypert5_jax.preparation.mixture import prepare_mixture
from hypert5_jax.preparation.plain_seqio import RowConverter, register_rows
from tests.preparation import toy_tasks

MODULE = "tests.preparation.toy_tasks"
ROOT = Path(__file__).resolve().parents[2]


def prepared(name: str, output_dir: Path, **kwargs) -> PreparedMixture:
    return open_mixture(
        prepare_mixture(name, "train", output_dir, [MODULE], **kwargs), "train"
    )


def examples_of(mixture: PreparedMixture) -> dict[str, Counter[bytes]]:
    """The records of each logical task; Beam shuffles, so their order says nothing."""
    return {
        task.name: Counter(example.to_bytes() for example in mixture.examples(task))
        for task in mixture.tasks
    }


def write_cache(name: str, cache_dir: Path, shards: int) -> None:
    """What seqio_cache_tasks leaves, written down from its format."""
    task = seqio.TaskRegistry.get(name)
    examples = list(task.source.get_dataset("train", shuffle=False))
    folder = cache_dir / name
    folder.mkdir(parents=True)
    features = {
        key: {"shape": [None] if value.shape.rank else [], "dtype": value.dtype.name}
        for key, value in examples[0].items()
    }
    info = {"num_shards": shards, "features": features, "seqio_version": "0.0.20"}
    (folder / "info.train.json").write_text(json.dumps(info))
    (folder / "stats.train.json").write_text(json.dumps({"examples": len(examples)}))
    for shard in range(shards):
        path = folder / f"train.tfrecord-{shard:05d}-of-{shards:05d}"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for example in examples[shard::shards]:
                writer.write(seqio.dict_to_tfexample(example).SerializeToString())
    (folder / "COMPLETED").write_text("")


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("cache")
    for name in ("toy_cached", "toy_cached_ids"):
        write_cache(name, path, shards=3)
    return path


def test_the_place_of_the_cache_changes_no_byte(tmp_path):
    def contents(name: str) -> dict[str, bytes]:
        folder = prepare_mixture(name, "train", tmp_path, [MODULE])
        return {
            path.name.replace(name, "NAME"): path.read_bytes().replace(
                name.encode(), b"NAME"
            )
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    plain, placed = contents("toy_groups"), contents("toy_cached")
    assert len(plain) >= 3 and placed == plain


@pytest.mark.parametrize("name", ["toy_cached", "toy_cached_ids"])
def test_a_cached_task_is_prepared_to_the_same_ids(name, cache_dir, tmp_path):
    straight = prepared(name, tmp_path / "straight")
    cached = prepared(name, tmp_path / "cached", cache_dir=str(cache_dir))
    assert examples_of(cached) == examples_of(straight)
    assert len(cached.manifest["shards"]) == 3  # read from the cache, not the source
    skipped = {"toy_cached_ids": {"odd one": 1}} if name == "toy_cached_ids" else {}
    assert cached.manifest["skipped"] == straight.manifest["skipped"] == skipped


def test_processes_read_a_cache_too(cache_dir, tmp_path):
    arguments = ["--mixture=toy_cached", f"--module={MODULE}", "--num_workers=2"]
    prepare.main(
        [*arguments, f"--output_dir={tmp_path / 'cached'}", f"--cache_dir={cache_dir}"]
    )
    cached = open_mixture(tmp_path / "cached" / "toy_cached", "train")
    straight = prepared("toy_cached", tmp_path / "straight")
    assert examples_of(cached) == examples_of(straight)
    assert cached.manifest["settings"]["cache_dir"] == str(cache_dir)


def test_a_cache_that_is_not_there_is_told(cache_dir, tmp_path):
    with pytest.raises(
        UserError, match="'toy_text' has no complete cache in .*toy_tex"
    ):
        prepared("toy_text", tmp_path, cache_dir=str(cache_dir))
    (cache_dir / "toy_many").mkdir()  # begun, not completed
    with pytest.raises(UserError, match="seqio_cache_tasks --tasks=toy_many"):
        prepared("toy_many", tmp_path, cache_dir=str(cache_dir))


def test_rows_of_a_cached_task_are_made_of_its_cache(cache_dir):
    lengths = {"hyper_inputs": 200, "inputs": 40, "targets": 16}
    name = register_rows(
        "toy_cached", RowFormat(max_shots=4), window=8, suffix="cached"
    )
    before = seqio.utils.get_global_cache_dirs()
    seqio.set_global_cache_dirs([str(cache_dir)])
    try:
        rows = seqio.get_dataset(name, lengths, RowConverter(), use_cached=True)
        inputs = Counter(bytes(row["inputs"]) for row in rows.as_numpy_iterator())
    finally:
        seqio.set_global_cache_dirs(before)
    straight = seqio.get_dataset(name, lengths, RowConverter())
    direct = Counter(bytes(row["inputs"]) for row in straight.as_numpy_iterator())
    assert inputs == direct and inputs.total() == toy_tasks.COUNT


@pytest.mark.beam
def test_what_beam_caches_is_prepared_to_the_same_ids(tmp_path):
    pytest.importorskip(
        "apache_beam", reason="apache-beam is not installed; see docs/seqio.md"
    )
    names = ["toy_cached", "toy_cached_ids", "toy_many"]
    subprocess.run(
        [
            *(sys.executable, "-m", "seqio.scripts.cache_tasks_main"),
            f"--tasks={','.join(names)}",
            f"--module_import={MODULE}",
            f"--output_cache_dir={tmp_path / 'beam'}",
            "--min_shards=2",
            "--pipeline_options=--runner=DirectRunner",
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    for name in names:
        straight = prepared(name, tmp_path / "straight")
        cached = prepared(name, tmp_path / "cached", cache_dir=str(tmp_path / "beam"))
        assert examples_of(cached) == examples_of(straight)
        assert cached.manifest["skipped"] == straight.manifest["skipped"]
