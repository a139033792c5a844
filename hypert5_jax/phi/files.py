"""φ files: safetensors with a readable header.

The header (safetensors metadata) holds: format, version, adaptation, sizes (of every
site), base_model (fingerprint of the downstream parameters), origin (free text), dtype.
A φ made for another model is refused with both sizes in the message.
"""

import dataclasses
import json
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from safetensors import SafetensorError, safe_open
from safetensors.flax import save

from hypert5_jax.core import storage
from hypert5_jax.core.errors import UserError
from hypert5_jax.phi import types
from hypert5_jax.phi.spec import (
    DECODER_CROSS,
    LoRASpec,
    PrefixSpec,
    Site,
    Spec,
    phi_shapes,
    share_decoder_prefix,
)

FORMAT = "hypert5_jax.phi"
VERSION = 1
_LONGEST_HEADER = 100_000_000  # bytes; safetensors refuses more


@dataclasses.dataclass(frozen=True)
class PhiHeader:
    """What a φ file says of itself.

    Attributes:
      spec: the adaptation and its sizes.
      sites: sizes of the downstream model's attention blocks it was made for.
      base_model: fingerprint of that model's parameters (`core.trees.fingerprint`).
      origin: where φ came from, for people.
    """

    spec: Spec
    sites: Mapping[str, Site]
    base_model: str
    origin: str

    @property
    def adaptation(self) -> str:
        """ "prefix" or "lora"."""
        return "prefix" if isinstance(self.spec, PrefixSpec) else "lora"


def save_phi(path: str, phi: types.Phi, header: PhiHeader) -> None:
    """Writes φ, whole or not at all.

    Raises:
      UserError: φ's shapes are not those of the header, a value is not finite, or a
        file is there that holds no φ.
      UserError, StorageError: the file cannot be written.
    """
    require_phi_or_nothing(path)
    arrays = {name: jnp.asarray(array) for name, array in types.named_arrays(phi)}
    if _shared(header.spec):
        arrays = {k: v for k, v in arrays.items() if not k.startswith(DECODER_CROSS)}
    _check_shapes(arrays, header, types.batch_size(phi), str(path))
    for name, array in arrays.items():
        if not bool(jnp.isfinite(array).all()):
            raise UserError(f"φ {name} holds NaN or infinity: not written to {path}")
    text = {
        "format": FORMAT,
        "version": str(VERSION),
        "adaptation": header.adaptation,
        "spec": json.dumps(dataclasses.asdict(header.spec)),
        "sites": json.dumps(
            {name: dataclasses.asdict(site) for name, site in header.sites.items()}
        ),
        "base_model": header.base_model,
        "origin": header.origin,
    }
    target = epath.Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(target.name + ".partial")
        temporary.write_bytes(save(arrays, metadata=text))
        temporary.replace(target)
    except OSError as error:
        raise storage.unwritable(path, error) from error


def require_phi_or_nothing(path: str) -> None:
    """Refuses to write φ over anything but a φ file, or an empty one.

    Raises:
      UserError: another file is there, or it cannot be read.
    """
    file = epath.Path(path)
    try:
        other = file.is_file() and file.stat().length and not is_phi(file)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    if other:
        raise UserError(
            f"{path} is there and is no φ file, so φ is not written over it; choose "
            "another file"
        )


def is_phi(file: epath.PathLike) -> bool:
    """Whether a file begins as φ files do; it may be damaged behind its header."""
    with epath.Path(file).open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = opened.read(min(length, _LONGEST_HEADER))
    try:
        return json.loads(header)["__metadata__"]["format"] == FORMAT
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def load_phi(
    path: str,
    sites: Mapping[str, Site] | None = None,
    base_model: str | None = None,
) -> tuple[types.Phi, PhiHeader]:
    """Reads φ and its header; checks it against the model it is to adapt, if given.

    Args:
      path: a file `save_phi` wrote.
      sites: the downstream model's, to refuse a φ of other sizes.
      base_model: its fingerprint, to refuse a φ made for other weights.

    Raises:
      UserError: no such file, not a φ file, damaged, or made for another model.
    """
    file = epath.Path(path)
    if not file.is_file():
        raise UserError(f"no φ file at {path}")
    try:
        with safe_open(str(file), framework="flax") as opened:
            text = opened.metadata() or {}
            arrays = {name: opened.get_tensor(name) for name in sorted(opened.keys())}
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is not a whole safetensors file: {error}") from error
    header = _parse_header(text, path)
    check_made_for(header, sites, base_model, f"φ in {path}")
    batch = next(iter(arrays.values())).shape[1] if arrays else 1
    _check_shapes(arrays, header, batch, path)
    for name, array in arrays.items():
        if not np.isfinite(np.asarray(array, np.float32)).all():
            raise UserError(f"{path}: {name} holds NaN or infinity")
    phi = types.from_named_arrays(arrays)
    return (share_decoder_prefix(phi) if _shared(header.spec) else phi), header


def check_made_for(
    header: PhiHeader,
    sites: Mapping[str, Site] | None,
    base_model: str | None,
    what: str = "this φ",
) -> None:
    """Refuses a φ that was made for another T5; what is None is not compared.

    Args:
      header: what φ says of itself.
      sites, base_model: of the T5 it is to adapt.
      what: names it in the message.

    Raises:
      UserError: other sizes, with both; or other weights, with both fingerprints.
    """
    if sites is not None:
        _check_sites(header, sites, what)
    if base_model is not None and base_model != header.base_model:
        raise UserError(
            f"{what} was made for the T5 with fingerprint {header.base_model[:16]}…, "
            f"this one has {base_model[:16]}…: same sizes, other weights. Adapt again "
            "with this T5"
        )


def _shared(spec: Spec) -> bool:
    """Whether cross-attention has the decoder's own prefix, which is stored once."""
    return isinstance(spec, PrefixSpec) and spec.cross_attention == "share_decoder"


def _parse_header(text: Mapping[str, str], path: str) -> PhiHeader:
    if text.get("format") != FORMAT:
        raise UserError(
            f"{path} is a safetensors file without the header of a φ file "
            f"(format {text.get('format')!r}, expected {FORMAT!r})"
        )
    if text.get("version") != str(VERSION):
        raise UserError(
            f"{path} has φ format version {text.get('version')}, this program reads "
            f"version {VERSION}: update hypert5_jax"
        )
    try:
        kind = {"prefix": PrefixSpec, "lora": LoRASpec}[text["adaptation"]]
        fields = json.loads(text["spec"])
        if "maps" in fields:
            fields["maps"] = tuple(fields["maps"])
        spec = kind(**fields)
        known = json.loads(text["sites"])
        sites = {name: Site(**known[name]) for name in {*known, *spec.sites}}
        return PhiHeader(spec, sites, text["base_model"], text["origin"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: damaged φ header: {error!r}") from error


def _check_sites(header: PhiHeader, sites: Mapping[str, Site], what: str) -> None:
    for name in header.spec.sites:
        made_for, given = header.sites[name], sites.get(name)
        if made_for == given:
            continue
        raise UserError(
            f"{what} was made for a T5 whose {name} has {_sizes(made_for)}; this T5 has "
            f"{_sizes(given)}. Use a φ made for this T5"
        )


def _sizes(site: Site | None) -> str:
    if site is None:
        return "no such block"
    return (
        f"{site.layers} layers of {site.heads} heads x {site.head_dim}, "
        f"embed {site.embed}"
    )


def _check_shapes(
    arrays: Mapping[str, jax.Array], header: PhiHeader, batch: int, path: str
) -> None:
    expected = dict(types.named_arrays(phi_shapes(header.spec, header.sites, batch)))
    for name in sorted(expected.keys() | arrays.keys()):
        shape = tuple(expected[name].shape) if name in expected else None
        given = tuple(arrays[name].shape) if name in arrays else None
        if shape != given:
            raise UserError(
                f"{path}: φ {name} has shape {given}, its header says {shape}"
            )
