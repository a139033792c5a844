"""φ as one pytree type, whoever made it.

    Phi ─ encoder ─ self_attention          SitePhi ─ prefix: keys, values
        ─ decoder ─ self_attention                  ─ query, key, value, out: a, b
                  ─ cross_attention

Any node may be None. Arrays only: scales and gates are folded in, so equal shapes mean
equal trees. The layer axis leads, so that φ is a scanned input of a layer stack; inside
a layer the same types are used without that axis.
"""

from collections.abc import Iterator
from typing import Any

from flax import struct
from jax import Array

MAPS = ("query", "key", "value", "out")


@struct.dataclass
class Prefix:
    """Key/value vectors every query sees. keys, values: [layers, batch|1, prefix,
    heads, head_dim]."""

    keys: Array
    values: Array


@struct.dataclass
class LowRank:
    """A low-rank addition a @ b to one linear map.

    a: [layers, batch|1, in, rank]; b: [layers, batch|1, rank, out].
    """

    a: Array
    b: Array


@struct.dataclass
class SitePhi:
    """What φ adds to one attention block."""

    prefix: Prefix | None = None
    query: LowRank | None = None
    key: LowRank | None = None
    value: LowRank | None = None
    out: LowRank | None = None


@struct.dataclass
class StackPhi:
    """What φ adds to the attention blocks of one stack (encoder or decoder)."""

    self_attention: SitePhi | None = None
    cross_attention: SitePhi | None = None


@struct.dataclass
class Phi:
    """Everything a hypermodel writes, an optimiser learns or a φ file holds."""

    encoder: StackPhi | None = None
    decoder: StackPhi | None = None


def named_arrays(phi: Phi) -> Iterator[tuple[str, Array]]:
    """(path, array) of every array of φ, such as
    "decoder/self_attention/prefix/keys"; the names φ files use."""
    for stack_name in ("encoder", "decoder"):
        stack = getattr(phi, stack_name)
        for block in ("self_attention", "cross_attention"):
            site = getattr(stack, block) if stack is not None else None
            if site is None:
                continue
            path = f"{stack_name}/{block}"
            if site.prefix is not None:
                yield f"{path}/prefix/keys", site.prefix.keys
                yield f"{path}/prefix/values", site.prefix.values
            for map_name in MAPS:
                pair = getattr(site, map_name)
                if pair is not None:
                    yield f"{path}/{map_name}/a", pair.a
                    yield f"{path}/{map_name}/b", pair.b


def from_named_arrays(arrays: dict[str, Array]) -> Phi:
    """The inverse of `named_arrays`.

    Raises:
      KeyError: a pair lacks one of its two arrays.
    """

    def site(path: str) -> SitePhi | None:
        parts: dict[str, Any] = {}
        if f"{path}/prefix/keys" in arrays:
            parts["prefix"] = Prefix(
                arrays[f"{path}/prefix/keys"], arrays[f"{path}/prefix/values"]
            )
        for name in MAPS:
            if f"{path}/{name}/a" in arrays:
                parts[name] = LowRank(
                    arrays[f"{path}/{name}/a"], arrays[f"{path}/{name}/b"]
                )
        return SitePhi(**parts) if parts else None

    def stack(name: str) -> StackPhi | None:
        own, cross = site(f"{name}/self_attention"), site(f"{name}/cross_attention")
        return StackPhi(own, cross) if own or cross else None

    return Phi(encoder=stack("encoder"), decoder=stack("decoder"))


def batch_size(phi: Phi) -> int:
    """How many different φ this tree holds (1 for learned or cached φ)."""
    return next(array.shape[1] for _, array in named_arrays(phi))
