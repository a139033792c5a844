"""python -m hypert5_jax.convert for φ: what is written, and that mistakes write nothing."""

import dataclasses
import json
import re
import struct

import numpy as np
import pytest
from flax import serialization

from hypert5_jax import convert
from hypert5_jax.checkpoints import peft_adapter, t5x
from hypert5_jax.checkpoints.any_t5 import load_any_t5
from hypert5_jax.checkpoints.store import about, load_params
from hypert5_jax.config import cli
from hypert5_jax.config.phi_sources import find_phi
from hypert5_jax.core import trees
from hypert5_jax.phi import types
from hypert5_jax.phi.files import PhiHeader, load_phi, save_phi
from hypert5_jax.phi.spec import LoRASpec, PrefixSpec, phi_shapes
from tests.config import tune_world
from tests.config.tiny_run import SIZES, TRAIN
from tests.models import TINY, random_tree
from tests.t5 import hf_weights

LORA, PREFIX = LoRASpec(2, maps=("query", "out")), PrefixSpec(3)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two T5s of one size in T5X files, and φ made for the first."""
    home = tmp_path_factory.mktemp("convert")
    for seed, name in enumerate(("t5", "other")):
        weights = hf_weights.random_hf_weights(TINY, seed)
        params = trees.unflatten(hf_weights.to_ours(weights))
        t5x.save_t5(str(home / name), params)
        if name == "t5":
            base = trees.fingerprint(params)
    for name, spec, batch in (
        ("lora", LORA, 1),
        ("prefix", PREFIX, 1),
        ("several", LORA, 3),
    ):
        phi = random_tree(phi_shapes(spec, TINY.sites, batch), 0)
        header = PhiHeader(spec, TINY.sites, base, "a test")
        save_phi(str(home / f"{name}.safetensors"), phi, header)
    return home


def call(home, given, to, output, *rest):
    argv = [f"--input={home / given}", f"--to={to}", f"--output={output}", *rest]
    return cli.exit_code(convert.main, argv)


def arrays_of(path):
    phi, header = load_phi(str(path))
    return dict(types.named_arrays(phi)), header


def test_lora_to_peft_and_back_is_the_same_phi(home, tmp_path, capsys):
    base = f"--base={home / 't5'}"
    assert call(home, "lora.safetensors", "peft", tmp_path / "adapter", base) == 0
    assert {f.name for f in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    again = tmp_path / "again.safetensors"
    assert call(tmp_path, "adapter", "phi", again, base) == 0
    said = capsys.readouterr().out
    assert "16 modules, rank 2" in said and "encoder/self_attention/query/a" in said
    (found, header), (expected, first) = (
        arrays_of(again),
        arrays_of(home / "lora.safetensors"),
    )
    assert (header.spec, header.base_model) == (first.spec, first.base_model)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_the_runtime_folder_has_phi_and_all_it_takes(home, tmp_path):
    out = tmp_path / "out"
    assert call(home, "prefix.safetensors", "hf-runtime", out) == 0
    assert {f.name for f in out.iterdir()} == {
        "README.md",
        "hf_runtime.py",
        "phi.safetensors",
    }
    found, header = arrays_of(out / "phi.safetensors")
    expected, _ = arrays_of(home / "prefix.safetensors")
    np.testing.assert_equal(
        {k: np.asarray(v) for k, v in found.items()},
        {k: np.asarray(v) for k, v in expected.items()},
    )
    assert header.base_model in (out / "README.md").read_text()


@pytest.mark.parametrize("to", ["merged-t5x", "merged-huggingface"])
def test_merged_kernels_are_the_sum_and_the_rest_is_the_same(home, tmp_path, to):
    base = f"--base={home / 't5'}"
    assert call(home, "lora.safetensors", to, tmp_path / "out", base) == 0
    params, config = load_any_t5(str(tmp_path / "out"))
    assert config.sites == TINY.sites
    before, _ = load_any_t5(str(home / "t5"))
    found, expected = trees.flatten(params), trees.flatten(before)
    phi, _ = arrays_of(home / "lora.safetensors")
    places = {
        "encoder/self_attention": ("encoder", "attention", 2),
        "decoder/self_attention": ("decoder", "self_attention", 3),
        "decoder/cross_attention": ("decoder", "encoder_decoder_attention", 3),
    }
    changed = set()
    for site, (stack, block, layers) in places.items():
        for name in ("query", "out"):
            for i in range(layers):
                path = f"{stack}/layers_{i}/{block}/{name}/kernel"
                a, b = (np.asarray(phi[f"{site}/{name}/{part}"][i, 0]) for part in "ab")
                total = expected[path].astype(np.float64) + a @ b.astype(np.float64)
                np.testing.assert_allclose(found[path], total, rtol=1e-5, atol=1e-6)
                changed.add(path)
    assert found.keys() == expected.keys()
    for path in expected.keys() - changed:
        np.testing.assert_array_equal(found[path], expected[path])


def test_a_run_that_learned_phi_becomes_a_phi_file(tmp_path):
    (tmp_path / "sizes.gin").write_text(SIZES + "LoRASpec.rank = 2\n")
    (tmp_path / "train.gin").write_text(TRAIN + "LoRASpec.alpha = 6.0\n")
    base = tune_world.write_run(tmp_path, "t5_mtf", "base")
    tune_world.write_run(tmp_path, "t5_mtf_lora", "run", base=base)
    out = tmp_path / "phi.safetensors"
    assert call(tmp_path, "run", "phi", out, f"--base={tmp_path}/base") == 0
    found, header = arrays_of(out)
    params, place = load_params(tmp_path / "run")
    stored = trees.flatten(params["phi"])
    assert found.keys() == stored.keys()
    for name, array in stored.items():
        scale = 3.0 if name.endswith("/b") else 1.0
        np.testing.assert_allclose(found[name], scale * array, rtol=1e-6)
    assert header.base_model == about(place)["frozen"]["downstream"]["sha256"]


def test_runs_that_hold_no_phi_are_refused_with_what_to_do(tmp_path, capsys):
    (tmp_path / "sizes.gin").write_text(SIZES)
    (tmp_path / "train.gin").write_text(TRAIN)
    base = tune_world.write_run(tmp_path, "t5_mtf", "base")
    tune_world.write_run(tmp_path, "hypert5_lora", "hyper", base=base)
    for name, said in (
        ("base", "trained a T5 and no φ"),
        ("hyper", "hypert5_jax.adapt"),
    ):
        assert call(tmp_path, name, "phi", tmp_path / "out") == 2
        assert said in capsys.readouterr().err


def poisoned(home, name, change):
    """A copy of lora.safetensors with its header's JSON changed."""
    raw = (home / "lora.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    rest = change(header, raw[8 + length :])
    text = json.dumps(header).encode()
    (home / name).write_bytes(struct.pack("<Q", len(text)) + text + rest)


def lies(header, data):
    header["encoder/self_attention/query/a"]["shape"][0] *= 1000
    return data


def not_a_number(header, data):
    return np.full(1, np.nan, np.float32).tobytes() + data[4:]


def make_bad_inputs(home):
    poisoned(home, "lies", lies)
    poisoned(home, "nan", not_a_number)
    np.save(home / "prompt.npy", np.zeros((100, 32), np.float32))
    prompt = serialization.msgpack_serialize(np.zeros((4, 32), np.float32))
    (home / "prompt.msgpack").write_bytes(prompt)
    np.savez(home / "zip.npz", a=np.zeros(3))
    (home / "empty").mkdir()
    half = home / "half"
    half.mkdir()
    (half / peft_adapter.CONFIG).write_text('{"peft_type": "LORA"}')


@pytest.mark.parametrize(
    ("given", "to", "base", "said"),
    [
        ("prefix.safetensors", "peft", "", "its encoder never sees a prefix"),
        ("prefix.safetensors", "merged-t5x", "t5", "only LoRA merges"),
        ("several.safetensors", "peft", "", "holds 3 adaptations"),
        ("several.safetensors", "merged-t5x", "t5", "holds 3 adaptations"),
        ("lora.safetensors", "peft", "other", "same sizes, other weights"),
        ("lora.safetensors", "merged-huggingface", "", "needs a T5|name the T5"),
        ("lies", "peft", "", "not a whole safetensors file"),
        ("nan", "peft", "", "NaN"),
        ("prompt.npy", "phi", "", "soft prompt.*no site of φ"),
        ("prompt.msgpack", "phi", "", "soft prompt.*no site of φ"),
        ("zip.npz", "phi", "", "never opened"),
        ("empty", "phi", "", "neither a peft adapter"),
        ("absent", "phi", "", "nothing at"),
        ("t5", "phi", "", "is a whole T5"),
        ("half", "phi", "t5", "half an adapter"),
        ("half", "phi", "", "name that T5 with --base"),
    ],
)
def test_a_mistake_is_one_message_and_writes_nothing(
    home, tmp_path, capsys, given, to, base, said
):
    if not (home / "half").exists():
        make_bad_inputs(home)
    more = [f"--base={home / base}"] if base else []
    assert call(home, given, to, tmp_path / "deep" / "out", *more) == 2
    message = capsys.readouterr().err
    assert message.count("error: ") == 1 and "Traceback" not in message
    assert re.search(said, message), message
    left = [f for f in tmp_path.rglob("*") if f.is_file() or "out" in f.name]
    assert not left


def test_an_output_that_is_there_is_not_replaced_unasked(home, tmp_path, capsys):
    out = tmp_path / "out"
    assert call(home, "lora.safetensors", "peft", out) == 0
    assert call(home, "lora.safetensors", "peft", out) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert call(home, "lora.safetensors", "peft", out, "--overwrite") == 0
    (out / "mine.txt").write_text("kept")
    assert call(home, "lora.safetensors", "peft", out, "--overwrite") == 2
    assert (out / "mine.txt").read_text() == "kept"
    file = tmp_path / "phi.safetensors"
    base = f"--base={home / 't5'}"
    source, _ = arrays_of(home / "lora.safetensors")
    for more, code in (((), 0), ((), 2), (("--overwrite",), 0)):
        assert call(home, "lora.safetensors", "phi", file, base, *more) == code
        assert arrays_of(file)[0].keys() == source.keys()
    mine = tmp_path / "thesis.tex"
    mine.write_text("years of work")
    assert call(home, "lora.safetensors", "phi", mine, "--overwrite") == 2
    assert "does not look like an earlier output" in capsys.readouterr().err
    assert mine.read_text() == "years of work"


def test_an_output_never_replaces_what_is_read(home, tmp_path, capsys):
    base = tmp_path / "t5" / "checkpoint_0"
    t5x.save_t5(str(tmp_path / "file"), load_any_t5(str(home / "t5"))[0])
    argv = [f"--input={tmp_path}/file", "--to=t5x", f"--output={base}"]
    assert cli.exit_code(convert.main, argv) == 0
    more = (f"--base={base}", "--overwrite")
    assert call(home, "lora.safetensors", "merged-t5x", base, *more) == 2
    assert f"would replace --base={base}" in capsys.readouterr().err
    before, after = (load_any_t5(str(p))[0] for p in (home / "t5", base))
    assert trees.fingerprint(before) == trees.fingerprint(after)
    phi = home / "lora.safetensors"
    assert call(home, "lora.safetensors", "phi", phi, "--overwrite") == 2
    assert f"would replace --input={phi}" in capsys.readouterr().err


def test_a_phi_file_is_one_whatever_the_length_of_its_header(home, tmp_path):
    """The length comes first, and looks like the mark of any other kind of file."""
    spec = LoRASpec(1, maps=("query",))
    phi = random_tree(phi_shapes(spec, TINY.sites, 1), 0)
    header = PhiHeader(spec, TINY.sites, "a" * 64, "")
    path, lengths = tmp_path / "phi", set()
    for more in range(0, 2048, 8):
        save_phi(str(path), phi, dataclasses.replace(header, origin="x" * more))
        lengths.add(int.from_bytes(path.read_bytes()[:2], "little"))
        assert find_phi(str(path), None).header.spec == spec
    # msgpack's extension types, and pickles of the protocols 4 and 5.
    assert {length & 0xFF for length in lengths} >= {0xC8, 0x80}
    assert len(lengths) == 256
