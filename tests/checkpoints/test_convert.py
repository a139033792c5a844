"""`convert`: what it says, what it refuses with exit code 2, and what a kill leaves."""

import dataclasses
import json
import tracemalloc
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import serialization
from safetensors.numpy import load_file

from hypert5_jax import convert
from hypert5_jax.checkpoints import store, t5x, whole_files
from hypert5_jax.checkpoints.any_t5 import load_any_t5
from hypert5_jax.config import cli
from hypert5_jax.core import trees
from tests.checkpoints.written_by_hand import OURS, WEIGHTS, hf_folder, t5x_directory
from tests.killed import contents, kill_when
from tests.t5 import hf_weights
from tests.t5.parity import TINY


def run(*arguments: str) -> int:
    return cli.exit_code(convert.main, arguments)


def arguments(source, to, output, *more):
    return (f"--input={source}", f"--to={to}", f"--output={output}", *more)


def same(path, flat=OURS):
    found = trees.flatten(load_any_t5(str(path))[0])
    assert set(found) == set(flat)
    for name, x in flat.items():
        assert found[name].dtype == x.dtype, name
        np.testing.assert_array_equal(found[name], x, name)


def test_there_and_back_is_the_identity_in_every_format(tmp_path, capsys):
    start = hf_folder(tmp_path / "start")
    steps = ("t5x", "huggingface", "t5x-file", "t5x", "t5x-file", "huggingface")
    for i, to in enumerate(steps):
        output = tmp_path / f"{i}"
        assert run(*arguments(start, to, output)) == 0
        said = capsys.readouterr().out
        assert f"done: {output}" in said
        assert said.count("0 unused") == 1
        same(output)
        start = output
    found = load_file(start / "model.safetensors")
    assert all(np.array_equal(found[name], x) for name, x in WEIGHTS.items())
    assert len(found) == len(WEIGHTS)


def test_the_account_has_a_line_for_every_array(tmp_path, capsys):
    state = {"step": np.int32(3), "param_states": {"a": {"v": np.ones((4, 4))}}}
    source = t5x_directory(tmp_path / "in", state=state)
    assert run(*arguments(source, "huggingface", tmp_path / "hf")) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"T5X directory: {source}"
    # Norms and the embeddings lie as they did; the rest is turned round.
    copied = sum("norm" in path or "token_embedder" in path for path in OURS)
    assert (
        f"{copied} copied, {len(OURS) - copied} reshaped, 0 made new, 1 unused" in said
    )
    assert any(
        line.split()
        == [
            "reshaped",
            "decoder/layers_*/mlp/wo/kernel",
            "->",
            "decoder.block.*.layer.2.DenseReluDense.wo.weight",
            "float32",
            "[40,",
            "24],",
            "*",
            "=",
            "0-2",
        ]
        for line in said
    )
    assert any(line.startswith("  unused  state/…  1 arrays") for line in said)


def test_the_optimiser_and_the_step_are_kept_when_asked(tmp_path, capsys):
    v = np.arange(600, dtype=np.float32).reshape(20, 30)
    state = {"step": np.int32(8), "param_states": {"a": {"v": v, "m": np.ones(1)}}}
    source = t5x_directory(tmp_path / "in", state=state)
    for to in ("t5x", "t5x-file"):
        assert run(*arguments(source, to, tmp_path / to, "--keep_optimiser")) == 0
        opened = t5x.open_t5x(str(tmp_path / to))
        assert opened.step == 8 and set(opened.optimiser) == {
            "param_states/a/v",
            "param_states/a/m",
        }
        np.testing.assert_array_equal(opened.optimiser["param_states/a/v"].read(), v)
        assert run(*arguments(tmp_path / to, "t5x", tmp_path / f"{to} without")) == 0
        without = t5x.open_t5x(str(tmp_path / f"{to} without"))
        assert without.step == 8 and not without.optimiser
    refused(
        capsys,
        arguments(tmp_path / "t5x without", "t5x", tmp_path / "x", "--keep_optimiser"),
        "has no optimiser state",
    )


def test_our_own_run_is_an_input(tmp_path):
    kept = store.CheckpointStore(tmp_path / "run/checkpoints", store.CheckpointConfig())
    params = {"downstream": trees.unflatten(OURS)}
    (tmp_path / "run/vocabulary.model").parent.mkdir()
    (tmp_path / "run/vocabulary.model").write_bytes(b"pieces")
    about = {"vocabulary": {"extra_ids": 7}}
    (tmp_path / "run/model.json").write_text(json.dumps(about))
    kept.save(4, params, {"count": np.zeros(())}, about={})
    kept.close()
    assert run(*arguments(tmp_path / "run", "huggingface", tmp_path / "hf")) == 0
    same(tmp_path / "hf")
    same(tmp_path / "run/checkpoints/4")
    assert (tmp_path / "hf/spiece.model").read_bytes() == b"pieces"
    tokenizer = json.loads((tmp_path / "hf/tokenizer_config.json").read_text())
    assert tokenizer["extra_ids"] == 7


def test_dtypes_are_kept_or_changed_as_told(tmp_path, capsys):
    half = {name: x.astype(np.float16) for name, x in WEIGHTS.items()}
    source = hf_folder(tmp_path / "hf", half)
    assert run(*arguments(source, "t5x", tmp_path / "same")) == 0
    as_half = {path: x.astype(np.float16) for path, x in OURS.items()}
    same(tmp_path / "same", as_half)
    assert run(*arguments(source, "t5x", tmp_path / "f32", "--dtype=float32")) == 0
    same(tmp_path / "f32", {path: x.astype(np.float32) for path, x in as_half.items()})
    large = {**WEIGHTS, "lm_head.weight": WEIGHTS["lm_head.weight"] * 1e6}
    hf_folder(tmp_path / "large", large)
    refused(
        capsys,
        arguments(tmp_path / "large", "t5x", tmp_path / "x", "--dtype=float16"),
        "holds NaN or infinity as float16",
    )


def test_tokenizer_files_come_along(tmp_path):
    source = hf_folder(tmp_path / "hf")
    (source / "spiece.model").write_bytes(b"pieces")
    (source / "tokenizer_config.json").write_text("{}")
    (source / "README.md").write_text("other")
    assert run(*arguments(source, "huggingface", tmp_path / "out")) == 0
    assert (tmp_path / "out/spiece.model").read_bytes() == b"pieces"
    assert (tmp_path / "out/tokenizer_config.json").exists()
    assert not (tmp_path / "out/README.md").exists()


def refused(capsys, command, said):
    before = set(Path(command[2].removeprefix("--output=")).parent.iterdir())
    assert run(*command) == 2
    out = capsys.readouterr()
    assert said in out.err, out.err
    assert len(out.err.strip().splitlines()) == 1
    assert set(Path(command[2].removeprefix("--output=")).parent.iterdir()) == before


def test_bad_input_is_one_message_and_nothing_is_written(tmp_path, capsys):
    here = tmp_path / "in"
    here.mkdir()
    prompt = here / "prompt.npy"
    np.save(prompt, np.ones((5, 256), np.float32))
    pickled = here / "pickled.npy"
    np.save(pickled, np.array([{"a": 1}], object), allow_pickle=True)
    archive = here / "weights.npz"
    np.savez(archive, a=np.ones(3))
    array = here / "prompt.msgpack"
    array.write_bytes(serialization.msgpack_serialize(np.ones((5, 256), np.float32)))
    tree = here / "tree.msgpack"
    tree.write_bytes(serialization.msgpack_serialize({"a": np.ones(3)}))
    pickle = here / "weights.pkl"
    pickle.write_bytes(b"\x80\x04cos\nsystem\n(S'touch ran'\ntR.")
    with zipfile.ZipFile(here / "pytorch_model.bin", "w") as file:
        file.writestr("archive/data.pkl", pickle.read_bytes())
    nan = {**WEIGHTS, "lm_head.weight": WEIGHTS["lm_head.weight"] * np.nan}
    text = here / "notes.txt"
    text.write_text("words")
    (here / "empty").mkdir()
    within = here / "model_dir"
    t5x_directory(within / "checkpoint_5")
    adapter = here / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    cases = {
        prompt: "a soft prompt of prompt-tuning, perhaps",
        pickled: "is one NumPy array",
        archive: "zip archive",
        array: "is one msgpack array: a soft prompt",
        tree: "neither a T5X checkpoint nor",
        pickle: "is a pickle, which could run any program",
        here / "pytorch_model.bin": "zip archive",
        hf_folder(here / "nan", nan): "holds NaN or infinity as float32",
        hf_folder(here / "v1.0", feed_forward_proj="relu"): "T5 v1.0",
        text: "neither a T5X checkpoint nor",
        here / "empty": "no T5 in the folder",
        within: "holds checkpoints of T5X; name one of them: checkpoint_5",
        here / "none": "nothing at",
        adapter: "an adapter of peft",
        "google/t5-large-lm-adapt": "hf download",
    }
    for source, said in cases.items():
        for to in ("t5x", "t5x-file", "huggingface"):
            refused(capsys, arguments(source, to, tmp_path / "out"), said)
    assert not Path("ran").exists()


def test_wrong_arguments_are_refused(tmp_path, capsys):
    source = hf_folder(tmp_path / "hf")
    out = tmp_path / "out"
    refused(capsys, arguments(source, "onnx", out), "--to is 'onnx'; expected one of")
    refused(capsys, arguments(source, "t5x", out, "--size=large"), "of other sizes")
    refused(capsys, arguments(source, "t5x", out, "--size=huge"), "--size is 'huge'")
    refused(capsys, arguments(source, "t5x", out, "--dtype=int8"), "--dtype is 'int8'")
    refused(
        capsys,
        arguments(source, "huggingface", out, "--keep_optimiser"),
        "only T5X's formats",
    )
    refused(
        capsys,
        arguments(source, "huggingface", source, "--overwrite"),
        "would replace --input",
    )
    refused(capsys, arguments(source, "t5x", out, "--base=x"), "--base=x is for a φ")
    assert run(*arguments(source, "t5x", "gs://bucket/out")) == 2
    assert "local path" in capsys.readouterr().err


def test_an_output_is_replaced_only_when_told_and_only_if_it_is_one(tmp_path, capsys):
    source, out = hf_folder(tmp_path / "hf"), tmp_path / "out"
    assert run(*arguments(source, "huggingface", out)) == 0
    refused(capsys, arguments(source, "huggingface", out), "--overwrite")
    assert run(*arguments(source, "huggingface", out, "--overwrite")) == 0
    same(out)
    (out / "thesis.tex").write_text("years of work")
    before = contents(out)
    refused(
        capsys,
        arguments(source, "huggingface", out, "--overwrite"),
        "holds what no earlier output of this format would (thesis.tex)",
    )
    refused(capsys, arguments(source, "t5x", out, "--overwrite"), "config.json")
    refused(capsys, arguments(source, "t5x-file", out, "--overwrite"), "is a folder")
    file = out / "thesis.tex"
    refused(capsys, arguments(source, "t5x", file, "--overwrite"), "is a file, but")
    refused(
        capsys,
        arguments(source, "t5x-file", file, "--overwrite"),
        "does not look like an earlier output",
    )
    assert contents(out) == before
    single = tmp_path / "single"
    for more in ((), ("--overwrite",)):
        assert run(*arguments(source, "t5x-file", single, *more)) == 0
        same(single)


def test_a_failure_half_way_leaves_the_old_output_as_it_was(tmp_path, capsys):
    out = tmp_path / "out"
    assert run(*arguments(hf_folder(tmp_path / "hf"), "huggingface", out)) == 0
    before = contents(out)
    nan = {**WEIGHTS, "shared.weight": WEIGHTS["shared.weight"] * np.nan}
    bad = hf_folder(tmp_path / "nan", nan)
    refused(capsys, arguments(bad, "huggingface", out, "--overwrite"), "NaN")
    assert contents(out) == before


@pytest.mark.parametrize("to", ["huggingface", "t5x-file"])
def test_a_kill_half_way_leaves_nothing_that_looks_finished(tmp_path, to):
    rng = np.random.default_rng(0)
    rows = 60_000
    large = {
        "shared.weight": rng.standard_normal((rows, 24)).astype(np.float32),
        "lm_head.weight": rng.standard_normal((rows, 24)).astype(np.float32),
    }
    source = hf_folder(tmp_path / "hf", {**WEIGHTS, **large}, vocab_size=rows)
    out = tmp_path / "out"
    partial = tmp_path / f"out{whole_files.PARTIAL}"
    command = arguments(source, to, out)
    kill_when(partial.exists, "hypert5_jax.convert", command)
    assert not out.exists()
    if partial.is_dir():
        assert not (partial / "config.json").exists()
    assert run(*command) == 0
    assert not partial.exists()
    params, _ = load_any_t5(str(out))
    np.testing.assert_array_equal(
        params["token_embedder"]["embedding"], large["shared.weight"]
    )
    assert len(jax.tree.leaves(params)) == len(OURS)


def test_settings_of_a_written_folder_read_as_the_same_sizes(tmp_path):
    source = hf_folder(tmp_path / "hf", relative_attention_max_distance=64)
    assert run(*arguments(source, "huggingface", tmp_path / "out")) == 0
    about = json.loads((tmp_path / "out/config.json").read_text())
    assert about["relative_attention_max_distance"] == 64
    assert load_any_t5(str(tmp_path / "out"))[1] == load_any_t5(str(source))[1]


@pytest.mark.parametrize("to", ["huggingface", "t5x-file"])
def test_a_conversion_holds_one_array_at_a_time(tmp_path, to):
    """NumPy reports its memory to tracemalloc; the peak is bounded by a few arrays, not
    by the model (benchmarks/convert_memory.py measures whole processes)."""
    config = dataclasses.replace(TINY, mlp_dim=1500, num_encoder_layers=40)
    weights = hf_weights.random_hf_weights(config)
    source = hf_folder(tmp_path / "hf", weights, d_ff=1500, num_layers=40)
    total = sum(x.nbytes for x in weights.values())
    largest = max(x.nbytes for x in weights.values())
    assert total > 100 * largest
    del weights
    assert run(*arguments(source, "t5x-file", tmp_path / "warm")) == 0  # imports
    start = {"huggingface": tmp_path / "warm", "t5x-file": source}[to]
    tracemalloc.start()
    try:
        assert run(*arguments(start, to, tmp_path / "out")) == 0
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The tenth is what is known of 560 arrays: names, sizes, the account.
    assert peak < 3 * largest + total / 10
