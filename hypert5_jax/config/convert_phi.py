"""φ from one format to another, and into a whole T5."""

import shutil
from collections.abc import Callable
from importlib import resources

import numpy as np

from hypert5_jax.checkpoints import huggingface, merged, peft_adapter, t5x
from hypert5_jax.checkpoints.any_t5 import open_any_t5
from hypert5_jax.checkpoints.lazy import FLOATS
from hypert5_jax.checkpoints.opened import OpenT5
from hypert5_jax.checkpoints.t5_arrays import require_same_sizes
from hypert5_jax.checkpoints.whole_files import (
    EarlierOutput,
    require_free,
    whole_folder,
)
from hypert5_jax.config.convert_arguments import Conversion
from hypert5_jax.config.phi_sources import FoundPhi, find_phi
from hypert5_jax.config.pytorch_files import read_pytorch
from hypert5_jax.core.errors import UserError
from hypert5_jax.phi import types
from hypert5_jax.phi.files import is_phi, save_phi
from hypert5_jax.phi.spec import LoRASpec
from hypert5_jax.t5.config import SIZES

Say = Callable[[str], None]
PHI_FILE, RUNTIME, README = "phi.safetensors", "hf_runtime.py", "README.md"
_WRITES: dict[str, EarlierOutput] = {
    "phi": is_phi,
    "peft": (peft_adapter.CONFIG, peft_adapter.WEIGHTS),
    "hf-runtime": (PHI_FILE, RUNTIME, README),
    "merged-t5x": t5x.WRITES,
    "merged-huggingface": huggingface.WRITES,
}


def convert_phi(conversion: Conversion, say: Say = print) -> None:
    """Converts the φ that the conversion names, and says what became of it.

    Raises:
      UserError: see `find_phi`; a format that cannot hold this φ; or the output cannot
        be written. Then nothing is.
    """
    _check_arguments(conversion)
    require_free(conversion.output, conversion.overwrite, _WRITES[conversion.to])
    conversion.require_apart()
    base = None
    if conversion.base:
        base = open_any_t5(conversion.base, read_pytorch)
        if conversion.size:
            require_same_sizes(base.config, SIZES[conversion.size], base.place)
    found = find_phi(conversion.input, base)
    count = types.batch_size(found.phi)
    several = "" if count == 1 else f", {count} φ"
    say(f"{found.kind}: {conversion.input}{several}")
    say(f"made for the T5 with fingerprint {found.header.base_model[:16]}…")
    if conversion.to == "phi":
        _write_phi(conversion, found, say)
    elif conversion.to == "peft":
        _write_adapter(conversion, found, say)
    elif conversion.to == "hf-runtime":
        _write_runtime(conversion, found, say)
    else:
        assert base is not None
        _write_merged(conversion, found, base, say)
    say(f"done: {conversion.output}")


def _check_arguments(conversion: Conversion) -> None:
    merging = conversion.to.startswith("merged-")
    if merging and not conversion.base:
        raise UserError(
            f"--to={conversion.to} adds φ to a T5's weights, and φ does not hold them; "
            "name the T5 it was made for with --base"
        )
    if not merging and conversion.dtype != "same":
        raise UserError(
            f"--dtype={conversion.dtype} is for the weights of a T5; --to="
            f"{conversion.to} writes φ as it is"
        )
    if conversion.size and not conversion.base:
        raise UserError(
            f"--size={conversion.size} is what --base must be, and there is no --base"
        )


def _write_phi(conversion: Conversion, found: FoundPhi, say: Say) -> None:
    say(_account(found))
    save_phi(conversion.output, found.phi, found.header)


def _write_adapter(conversion: Conversion, found: FoundPhi, say: Say) -> None:
    spec = found.header.spec
    # The refusal of a prefix is the adapter's own.
    rank = spec.rank if isinstance(spec, LoRASpec) else 0
    base = conversion.base if huggingface.is_huggingface(conversion.base) else None
    with whole_folder(conversion.output) as folder:
        modules = peft_adapter.save_adapter(str(folder), found.phi, rank, base)
    say(_account(found))
    say(f"into lora_A and lora_B of {len(modules)} modules, rank {rank}, scale folded")


def _write_runtime(conversion: Conversion, found: FoundPhi, say: Say) -> None:
    with whole_folder(conversion.output) as folder:
        save_phi(str(folder / PHI_FILE), found.phi, found.header)
        source = resources.files("hypert5_jax.checkpoints") / RUNTIME
        with resources.as_file(source) as file:
            shutil.copyfile(file, folder / RUNTIME)
        (folder / README).write_text(_readme(found))
    say(_account(found))


def _write_merged(
    conversion: Conversion, found: FoundPhi, base: OpenT5, say: Say
) -> None:
    arrays, changed = merged.merged(base.arrays, found.phi)
    if conversion.dtype != "same":
        dtype = FLOATS[conversion.dtype]
        arrays = {path: array.astype(dtype) for path, array in arrays.items()}
    say(_account(found))
    say(
        f"merged into {changed} kernels of {len(arrays)} arrays of {base.place}; the "
        "others are copied"
    )
    if conversion.to == "merged-huggingface":
        huggingface.write_folder(
            conversion.output,
            arrays,
            base.config,
            conversion.shard_bytes,
            base.tokenizer,
        )
    else:
        t5x.write_directory(conversion.output, arrays, base.step, {})


def _account(found: FoundPhi) -> str:
    """φ's arrays, one a line, and where they change nothing."""
    lines = []
    for name, array in types.named_arrays(found.phi):
        touched = sum(bool(np.asarray(layer).any()) for layer in array)
        some = (
            "" if touched == len(array) else f", zero in {len(array) - touched} layers"
        )
        lines.append(f"  {name}  {array.dtype} {list(array.shape)}{some}")
    return "\n".join(lines)


def _readme(found: FoundPhi) -> str:
    header = found.header
    sites = "\n".join(
        f"* {name}: {site.layers} layers of {site.heads} heads x {site.head_dim}, "
        f"width {site.embed}"
        for name, site in header.sites.items()
    )
    return f"""# φ for a T5, in PyTorch

{PHI_FILE} adapts one T5 v1.1 to one task ({header.adaptation}); {RUNTIME} runs it on
the Hugging Face model. It needs torch and transformers (5.0 or newer) and nothing else.

```python
from transformers import AutoTokenizer, T5ForConditionalGeneration

from {RUNTIME.removesuffix(".py")} import apply_phi

model = T5ForConditionalGeneration.from_pretrained(T5_FOLDER).eval()
tokenizer = AutoTokenizer.from_pretrained(T5_FOLDER)
inputs = tokenizer(["an input"], return_tensors="pt", padding=True,
                   add_special_tokens=False)
with apply_phi(model, "{PHI_FILE}"):
    answers = model.generate(**inputs, max_new_tokens=128)
print(tokenizer.batch_decode(answers, skip_special_tokens=True))
```

`apply_phi(model, ["a.safetensors", "b.safetensors"])` gives each row of a batch a φ of
its own. Behind the block, or after `remove()`, the model is what it was.

The T5 it was made for (`apply_phi` refuses another one):

{sites}
* sha256 of its weights, {header.base_model}

Where φ came from: {header.origin or "not said"}
"""
