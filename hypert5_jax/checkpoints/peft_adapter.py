"""peft's LoRA adapters for T5: adapter_config.json + adapter_model.safetensors <-> φ.

    …encoder.block.0.layer.0.SelfAttention.q.lora_A.weight  [rank, in]   <->  a [in, rank]
    …encoder.block.0.layer.0.SelfAttention.q.lora_B.weight  [out, rank]  <->  b [rank, out]

φ has its scale folded into b, so an adapter written here has lora_alpha = r; one that is
read has alpha / r (or alpha / sqrt(r), use_rslora) folded in. A map that an adapter does
not touch is a zero pair in φ, and a zero pair is not written.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from hypert5_jax.checkpoints import hf_names, safetensors_files
from hypert5_jax.checkpoints.huggingface import TorchReader
from hypert5_jax.checkpoints.lazy import finite
from hypert5_jax.core.errors import UserError
from hypert5_jax.phi import types
from hypert5_jax.phi.spec import SITES, LoRASpec, Site, phi_shapes

CONFIG, WEIGHTS, PICKLED = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
)
_PREFIX = "base_model.model."
# Settings of LoraConfig that make an adapter more, or other, than W + scale * B A.
_REFUSED = {
    "use_dora": "DoRA rescales the base weights",
    "lora_bias": "φ has no biases",
    "modules_to_save": "whole modules were trained beside LoRA",
    "trainable_token_indices": "word embeddings were trained beside LoRA",
    "target_parameters": "parameters outside of linear maps were adapted",
    "layer_replication": "the T5's layers were multiplied",
    "fan_in_fan_out": "a T5's maps are not stored that way",
    "megatron_config": "its maps are split over devices",
    "alora_invocation_tokens": "it acts on some tokens only",
    "use_qalora": "QALoRA pools its inputs",
    "use_bdlora": "its factors are block-diagonal",
    "arrow_config": "it routes between adapters",
    "kasa_config": "KaSA changes the base weights",
    "monteclora_config": "its factors are random",
}
# Initialisations that leave the base weights as they are.
_KEEPS_BASE = (True, False, None, "gaussian", "eva", "orthogonal")


def save_adapter(
    folder: str, phi: types.Phi, rank: int, base_name: str | None = None
) -> list[str]:
    """Writes φ as an adapter that peft loads on the Hugging Face T5, in float32.

    Args:
      folder: to write into; made if absent.
      phi: LoRA of batch 1; sites and maps may differ in what they hold.
      rank: of its factors.
      base_name: the folder or hub name of that T5, for peft's auto classes.

    Returns:
      Names of the modules it adapts.

    Raises:
      UserError: φ is a prefix, holds several φ, or changes nothing.
    """
    arrays = {name: np.asarray(x, np.float32) for name, x in types.named_arrays(phi)}
    _refuse_prefix(arrays)
    batch = types.batch_size(phi) if arrays else 1
    if batch != 1:
        raise UserError(
            f"φ holds {batch} adaptations, a peft adapter is one: export each task's φ "
            "by itself"
        )
    out: dict[str, np.ndarray] = {}
    patterns, modules = [], []
    for site in SITES:
        layers_of: dict[tuple[int, ...], list[str]] = {}
        for name in types.MAPS:
            if f"{site}/{name}/a" not in arrays:
                continue
            a, b = (arrays[f"{site}/{name}/{part}"][:, 0] for part in "ab")
            touched = [i for i in range(len(a)) if a[i].any() and b[i].any()]
            for i in touched:
                module = hf_names.module_name(site, i, name)
                modules.append(module)
                path = f"{_PREFIX}{module}"
                out[f"{path}.lora_A.weight"] = np.ascontiguousarray(a[i].T)
                out[f"{path}.lora_B.weight"] = np.ascontiguousarray(b[i].T)
            if touched:
                layers_of.setdefault(tuple(touched), []).append(name)
        for layers, maps in layers_of.items():
            depth = len(arrays[f"{site}/{maps[0]}/a"])
            patterns.append(hf_names.pattern(site, list(layers), depth, tuple(maps)))
    if not out:
        raise UserError("φ is zero everywhere: an adapter of it would change nothing")
    config = {
        "peft_type": "LORA",
        "task_type": "SEQ_2_SEQ_LM",
        "base_model_name_or_path": base_name,
        "r": rank,
        "lora_alpha": rank,
        "target_modules": "|".join(patterns),
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    save_file(out, str(target / WEIGHTS), metadata={"format": "pt"})
    (target / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    return modules


def _refuse_prefix(arrays: Mapping[str, Any]) -> None:
    if any("/prefix/" in name for name in arrays):
        raise UserError(
            "peft cannot hold this φ: it is a prefix, and peft's prefix tuning for T5 "
            "feeds the decoder only, its encoder never sees a prefix. Use "
            "--to=hf-runtime: the same φ with a small file that runs it on a Hugging "
            "Face T5"
        )


def is_adapter(path: str) -> bool:
    """Whether `path` is a folder that holds an adapter, or half of one."""
    folder = Path(path)
    return folder.is_dir() and any(
        (folder / name).is_file() for name in (CONFIG, WEIGHTS, PICKLED)
    )


def load_adapter(
    path: str, sites: Mapping[str, Site], torch_reader: TorchReader | None = None
) -> tuple[types.Phi, LoRASpec]:
    """A peft LoRA adapter as φ of batch 1, float32.

    Args:
      path: the folder that peft's save_pretrained wrote.
      sites: of the T5 that it adapts.
      torch_reader: for adapter_model.bin.

    Returns:
      φ, and its sizes: the largest rank of the adapter (smaller ones are padded with
      zeros) and every map that it touches anywhere.

    Raises:
      UserError: half a folder, a damaged file, an adapter that is more than LoRA on
        attention maps, or one for another T5.
    """
    folder = Path(path)
    config = _read_config(folder)
    arrays = _read_weights(folder, torch_reader)
    pairs: dict[tuple[str, int, str], tuple[np.ndarray, np.ndarray]] = {}
    for module, halves in _by_module(arrays, path).items():
        place = _place(module, sites, path)
        pairs[place] = _pair(module, halves, config, sites[place[0]], place[2], path)
    maps = tuple(name for name in types.MAPS if any(p[2] == name for p in pairs))
    spec = LoRASpec(rank=max(a.shape[1] for a, _ in pairs.values()), maps=maps)
    shapes = dict(types.named_arrays(phi_shapes(spec, sites, batch=1)))
    filled: dict[str, Any] = {
        name: np.zeros(s.shape, np.float32) for name, s in shapes.items()
    }
    for (site, layer, name), (a, b) in pairs.items():
        filled[f"{site}/{name}/a"][layer, 0, :, : a.shape[1]] = a
        filled[f"{site}/{name}/b"][layer, 0, : b.shape[0]] = b
    return types.from_named_arrays(filled), spec


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    if not file.is_file():
        raise UserError(f"{folder} is half an adapter: it has no {CONFIG}")
    try:
        config = json.loads(file.read_text())
        kind = config["peft_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not a peft configuration: {error!r}") from error
    if kind != "LORA":
        raise UserError(
            f"{folder} is a peft adapter of type {kind}; of peft's types φ has a place "
            "for LORA only"
        )
    for name, reason in _REFUSED.items():
        if config.get(name):
            raise UserError(
                f"{folder}: {name} = {config[name]!r}; {reason}, which φ cannot hold. "
                "Merge the adapter into its T5 with peft (merge_and_unload) instead"
            )
    if config.get("bias", "none") != "none":
        raise UserError(f"{folder}: bias = {config['bias']!r}; a T5 and φ have none")
    start = config.get("init_lora_weights", True)
    if start not in _KEEPS_BASE:
        raise UserError(
            f"{folder}: init_lora_weights = {start!r} changed the base weights beside "
            "the adapter; save it with peft's path_initial_model_for_weight_conversion"
        )
    return config


def _read_weights(
    folder: Path, torch_reader: TorchReader | None
) -> dict[str, np.ndarray]:
    file, pickled = folder / WEIGHTS, folder / PICKLED
    if file.is_file():
        found, _ = safetensors_files.read_arrays(lambda: file.open("rb"), str(file))
    elif not pickled.is_file():
        raise UserError(f"{folder} is half an adapter: it has no {WEIGHTS}")
    elif torch_reader is None:
        raise UserError(
            f"{folder} holds {PICKLED}, PyTorch's; load the adapter with peft and save "
            f"it again, which writes {WEIGHTS}"
        )
    else:
        found = dict(torch_reader(pickled))
    if not found:
        raise UserError(f"{folder}: the adapter holds no arrays")
    return {
        name: finite(f"{folder}: {name}", lazy.read()).astype(np.float32)
        for name, lazy in found.items()
    }


def _by_module(
    arrays: Mapping[str, np.ndarray], path: str
) -> dict[str, dict[str, np.ndarray]]:
    """{module: {"A": [rank, in], "B": [out, rank]}}."""
    modules: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        found = re.fullmatch(r"(?:base_model\.model\.)?(.+)\.lora_([AB])\.weight", name)
        if found is None:
            raise UserError(
                f"{path}: {name} is not a LoRA factor of a linear map; φ has a place "
                "for nothing else"
            )
        modules.setdefault(found[1], {})[found[2]] = array
    return modules


def _place(module: str, sites: Mapping[str, Site], path: str) -> tuple[str, int, str]:
    place = hf_names.place_of(module)
    if place is None:
        raise UserError(
            f"{path} adapts {module}; φ has a place for the maps q, k, v, o of a T5's "
            "attention blocks only. Merge the adapter into its T5 with peft "
            "(merge_and_unload) instead"
        )
    site, layer, _ = place
    if layer >= sites[site].layers:
        raise UserError(
            f"{path} adapts {module}, but this T5 has {sites[site].layers} layers "
            "there: the adapter is for another T5"
        )
    return place


def _pair(
    module: str,
    halves: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    site: Site,
    map_name: str,
    path: str,
) -> tuple[np.ndarray, np.ndarray]:
    """(a [in, rank], b [rank, out]) of one module, scale folded into b."""
    if set(halves) != {"A", "B"}:
        raise UserError(f"{path}: {module} has only one of its factors, {set(halves)}")
    a, b = halves["A"].T, halves["B"].T
    rank = _setting(config, "rank_pattern", "r", module)
    width_in, width_out = site.map_dims(map_name)
    if a.shape != (width_in, rank) or b.shape != (rank, width_out):
        raise UserError(
            f"{path}: {module} maps {a.shape[0]} to {b.shape[-1]} with rank "
            f"{a.shape[-1]}; this T5 maps {width_in} to {width_out} there, and {CONFIG} "
            f"says rank {rank}"
        )
    alpha = _setting(config, "alpha_pattern", "lora_alpha", module)
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return a, b * np.float32(scale)


def _setting(config: Mapping[str, Any], patterns: str, name: str, module: str) -> Any:
    """A module's own rank or alpha if a pattern matches the end of its name, as in peft;
    else the adapter's. peft's own default of both is 8."""
    for pattern, value in (config.get(patterns) or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            return value
    return config.get(name, 8)
