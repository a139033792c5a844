"""What people name where a T5 is expected, and what to do about each."""

from pathlib import Path

from hypert5_jax.checkpoints import huggingface, store, t5x
from hypert5_jax.checkpoints.public_t5 import PATHS
from hypert5_jax.core.errors import UserError

# A folder to carry to another machine holds its T5 under this name, in T5X's paths.
CARRIED = "downstream.safetensors"
_EXPECTED = "expected a T5X checkpoint, a Hugging Face folder, a run that trained a T5"
_WEIGHTS = (huggingface.SAFETENSORS, huggingface.FLAX, huggingface.TORCH)


def first_bytes(start: bytes, size: int) -> str:
    """What a file is by how it begins: "safetensors", "numpy" (one array), "msgpack" (one
    array: flax packs it as an extension type, a tree of them as a map), "zip", "pickle",
    or "".

    Args:
      start: its first 9 bytes, or more.
      size: bytes of the whole file.
    """
    # First of all: it begins with its header's length, which may be any other's mark.
    header = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and header <= size - 8:
        return "safetensors"
    if start.startswith(b"\x93NUMPY"):
        return "numpy"
    if start[:1] in (b"\xc7", b"\xc8", b"\xc9"):
        return "msgpack"
    if start.startswith(b"PK"):
        return "zip"
    if start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return "pickle"
    return ""


def refuse_near_misses(path: str) -> None:
    """Refuses a local path that no T5 can be read from, and says what lies there.

    Raises:
      UserError: nothing, a file or folder of another kind, or half of one.
    """
    place = Path(path)
    if place.is_dir():
        _refuse_folder(place, path)
        return
    if not place.exists():
        raise UserError(
            f"nothing at {path}; {_EXPECTED}, or one of the public names "
            f"{', '.join(PATHS)}. Models of the Hugging Face hub are downloaded first "
            "(hf download NAME --local-dir FOLDER)"
        )
    with place.open("rb") as file:
        start = file.read(16)
    raise UserError(f"{path} {_what(first_bytes(start, place.stat().st_size))}")


def _refuse_folder(place: Path, path: str) -> None:
    form = next((name for name in _WEIGHTS if (place / name).is_file()), None)
    if form and not huggingface.is_huggingface(path):
        raise UserError(
            f"{path} has {form} but no {huggingface.CONFIG}, which says what it is: "
            "download the whole folder"
        )
    if (place / "adapter_config.json").is_file():
        raise UserError(
            f"{path} is an adapter of peft, not a T5: --to=phi makes a φ of it"
        )
    within = sorted(file.parent.name for file in place.glob(f"*/{t5x.INDEX}"))
    if within:
        raise UserError(
            f"{path} holds checkpoints of T5X; name one of them: {', '.join(within)}"
        )
    known = huggingface.is_huggingface(path) or (place / CARRIED).is_file()
    if not known and not store.holds_steps(path):
        raise UserError(f"no T5 in the folder {path}; {_EXPECTED}")


def _what(kind: str) -> str:
    """What a file of a kind of `first_bytes` is, since it is no T5."""
    if kind == "numpy":
        return (
            "is one NumPy array: a soft prompt of prompt-tuning, perhaps. Those are "
            "vectors before the input's embeddings; a φ is keys and values or low-rank "
            "matrices in every attention block, and neither can be made of the other"
        )
    if kind == "msgpack":
        return (
            "is one msgpack array: a soft prompt of prompt-tuning, perhaps, which can "
            "be neither a T5 nor a φ"
        )
    if kind == "zip":
        return (
            "is a zip archive (NumPy's .npz, or PyTorch's); expected a T5X checkpoint "
            "or a Hugging Face folder. Of PyTorch's, name the folder that holds "
            f"{huggingface.TORCH} and {huggingface.CONFIG}"
        )
    if kind == "pickle":
        return "is a pickle, which could run any program; it is never opened"
    if kind == "safetensors":
        return (
            "is one safetensors file: a φ, which --to=peft|hf-runtime|merged-t5x|"
            "merged-huggingface converts, or a part of a Hugging Face folder, which is "
            "named whole (its config.json says what T5 it is)"
        )
    return "is neither a T5X checkpoint nor anything else that a T5 is read from"
