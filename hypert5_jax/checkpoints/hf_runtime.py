"""Runs φ on a Hugging Face T5 v1.1, exactly. Stands alone: torch and transformers (which
brings safetensors) are all it needs, so this one file can be copied to any project.

    model = T5ForConditionalGeneration.from_pretrained(...)
    with apply_phi(model, "phi.safetensors"):
        model.generate(...)                     # adapted; unchanged again behind the block

A φ file (safetensors) holds, for one or more φ (n), layers first:

    {site}/prefix/{keys,values}   [layers, n, prefix, heads, head_dim]
    {site}/{map}/a, {site}/{map}/b   [layers, n, in, rank], [layers, n, rank, out]

and in its metadata the sizes of the T5 it was made for and the sha256 of its weights.
Prefix columns are visible to every query, carry no relative-position bias, and are no
part of the decoding cache.
"""

import contextlib
import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from os import PathLike
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import T5ForConditionalGeneration

FORMAT, VERSION = "hypert5_jax.phi", "1"
_ACROSS = "encoder_decoder_attention"
# {site: (stack, place in a block, Hugging Face's name, T5X's name)}
SITES = {
    "encoder/self_attention": ("encoder", 0, "SelfAttention", "attention"),
    "decoder/self_attention": ("decoder", 0, "SelfAttention", "self_attention"),
    "decoder/cross_attention": ("decoder", 1, "EncDecAttention", _ACROSS),
}
MAPS = {"query": "q", "key": "k", "value": "v", "out": "o"}
Path = str | PathLike


class PhiError(ValueError):
    """A φ that cannot be read, or does not belong to this model; says what to do."""


class AppliedPhi(contextlib.AbstractContextManager):
    """A φ at work in a model; `remove`, or the end of a `with` block, takes it out."""

    def __init__(self, model: T5ForConditionalGeneration):
        self._model = model
        self._undo: list[Callable[[], None]] = []

    def remove(self) -> None:
        """Makes the model what it was before; a second call does nothing."""
        while self._undo:
            self._undo.pop()()
        if getattr(self._model, "_applied_phi", None) is self:
            del self._model._applied_phi

    def __exit__(self, *_: object) -> None:
        self.remove()


def apply_phi(
    model: T5ForConditionalGeneration,
    phi: Path | Sequence[Path],
    check_weights: bool = True,
) -> AppliedPhi:
    """Adapts `model` in place by one φ, or each row of its batches by a φ of its own.

    Args:
      model: a T5 v1.1, on any device, in any dtype; φ moves with it.
      phi: a φ file, or several of the same kind and sizes. With n φ a batch has a
        multiple of n rows, and consecutive rows share one: the beams of a row do.
      check_weights: refuse a φ made for other weights; reads every weight once.

    Returns:
      What takes φ out again.

    Raises:
      PhiError: not a φ file, φ files that differ in kind or sizes, or a φ made for
        another T5.
    """
    if not isinstance(model, T5ForConditionalGeneration):
        raise PhiError(
            f"φ adapts a T5ForConditionalGeneration; this is a {type(model).__name__}"
        )
    if getattr(model, "_applied_phi", None) is not None:
        raise PhiError("a φ is at work in this model; call its remove() first")
    several = [phi] if isinstance(phi, str | PathLike) else list(phi)
    if not several:
        raise PhiError("no φ file is given")
    read = [_read(path) for path in several]
    for path, (header, arrays) in zip(several, read, strict=True):
        _check_sizes(model, header, arrays, path)
        for one in ("spec", "sites", "base_model"):
            if header[one] != read[0][0][one]:
                raise PhiError(
                    f"{path} and {several[0]} differ in {one} ({header[one]}, "
                    f"{read[0][0][one]}): one batch needs φ of one kind for one T5"
                )
    header, first = read[0]
    made_for = header["base_model"]
    if check_weights and made_for != (here := fingerprint(model)):
        raise PhiError(
            f"φ in {several[0]} was made for the T5 with fingerprint {made_for[:16]}…, "
            f"this one has {here[:16]}…. Load the T5 that φ was made for, in the dtype "
            "it is stored in; or pass check_weights=False if it is that one in another"
        )
    arrays = {name: torch.cat([a[name] for _, a in read], dim=1) for name in first}
    if json.loads(header["spec"]).get("cross_attention") == "share_decoder":
        for part in ("keys", "values"):
            own = arrays[f"decoder/self_attention/prefix/{part}"]
            arrays[f"decoder/cross_attention/prefix/{part}"] = own
    applied = AppliedPhi(model)
    model._applied_phi = applied  # type: ignore[assignment]
    try:
        for site, layer, attention in _attentions(model):
            mine = {
                name.removeprefix(f"{site}/"): array[layer]
                for name, array in arrays.items()
                if name.startswith(f"{site}/")
            }
            _install(applied, attention, mine)
    except BaseException:
        applied.remove()
        raise
    return applied


def _attentions(model: T5ForConditionalGeneration) -> Iterator[tuple[str, int, Any]]:
    """(site, number of the layer, attention module) of every attention block."""
    for site, (stack, place, name, _) in SITES.items():
        for number, block in enumerate(getattr(model, stack).block):
            yield site, number, getattr(block.layer[place], name)


def _install(
    applied: AppliedPhi, attention: Any, arrays: dict[str, torch.Tensor]
) -> None:
    """Puts one layer's φ ("prefix/keys": [n, …], "query/a": …) to work. Arrays become
    buffers: they follow model.to(…) and stay out of state_dict()."""
    like = attention.q.weight
    for name, array in arrays.items():
        buffer = "phi_" + name.replace("/", "_")
        value = array.to(like.device, like.dtype)
        attention.register_buffer(buffer, value, persistent=False)
        applied._undo.append(partial(delattr, attention, buffer))
    for name, letter in MAPS.items():
        if f"{name}/a" in arrays:
            hook = _add_low_rank(attention, name)
            applied._undo.append(
                getattr(attention, letter).register_forward_hook(hook).remove
            )
    # A prefix of length zero changes nothing.
    if "prefix/keys" in arrays and arrays["prefix/keys"].shape[1]:
        before = attention.__dict__.get("forward")
        attention.forward = _attention_with_prefix(attention)
        undo = (
            partial(delattr, attention, "forward")
            if before is None
            else partial(setattr, attention, "forward", before)
        )
        applied._undo.append(undo)


def _groups(rows: int, n: int) -> int:
    """How many consecutive rows share one of n φ."""
    if rows % n:
        raise PhiError(
            f"{n} φ met a batch of {rows} rows: expected a multiple of {n}, "
            "consecutive rows sharing one φ"
        )
    return rows // n


def _add_low_rank(attention: Any, name: str) -> Callable[..., torch.Tensor]:
    """A forward hook that adds (x a) b to a linear map's output."""

    def hook(_: Any, args: tuple, output: torch.Tensor) -> torch.Tensor:
        a = getattr(attention, f"phi_{name}_a")
        b = getattr(attention, f"phi_{name}_b")
        x = args[0]
        _groups(x.shape[0], a.shape[0])
        folded = x.reshape(a.shape[0], -1, x.shape[-1])
        return output + ((folded @ a) @ b).reshape(output.shape)

    return hook


def _attention_with_prefix(attention: Any) -> Callable[..., tuple]:
    """A forward of T5Attention whose softmax begins with the prefix's columns.

    Returned attention weights have those columns first.
    """
    # transformers 5.0 hands on position biases and returns two or three values; later
    # ones always three, and masks that may be boolean or absent.
    earlier = "output_attentions" in inspect.signature(attention.forward).parameters

    def forward(
        hidden_states: torch.Tensor,
        mask: torch.Tensor | None = None,
        key_value_states: torch.Tensor | None = None,
        position_bias: torch.Tensor | None = None,
        past_key_values: Any = None,
        output_attentions: bool = False,
        cache_position: torch.Tensor | None = None,
        **_: Any,
    ) -> tuple:
        b, q = hidden_states.shape[:2]
        cross = key_value_states is not None
        attended = hidden_states if key_value_states is None else key_value_states
        seen: Any = 0
        if past_key_values is not None and not cross:
            seen = past_key_values.get_seq_length(attention.layer_idx)
            # A static cache counts on in the same tensor.
            seen = seen.clone() if isinstance(seen, torch.Tensor) else seen
        query = _heads(attention, attention.q(hidden_states))
        keys, values = _keys_values(
            attention, attended, cross, past_key_values, cache_position
        )
        k = keys.shape[2]
        positions = torch.arange(q, device=query.device) + seen
        columns = torch.arange(k, device=query.device)
        if position_bias is None:
            position_bias = _position_bias(attention, query, positions, columns)
        scores = (query @ keys.transpose(2, 3)).float() + position_bias[..., :k].float()
        scores = _masked(scores, mask)
        if attention.is_decoder and not cross:
            later = columns[None, :] > positions[:, None]
            scores = scores.masked_fill(later, torch.finfo(scores.dtype).min)

        phi_keys, phi_values = attention.phi_prefix_keys, attention.phi_prefix_values
        n = phi_keys.shape[0]
        folded = query.reshape(n, _groups(b, n), *query.shape[1:])
        prefix = torch.einsum("nghqc,nphc->nghqp", folded, phi_keys)
        prefix = prefix.reshape(b, *prefix.shape[2:]).float()
        p = prefix.shape[-1]
        weights = torch.softmax(torch.cat([prefix, scores], -1), -1).to(query.dtype)
        weights = torch.nn.functional.dropout(
            weights, attention.dropout, attention.training
        )
        taken = weights[..., :p].reshape(n, b // n, *weights.shape[1:3], p)
        y = torch.einsum("nghqp,nphc->nghqc", taken, phi_values).reshape(query.shape)
        y = y + weights[..., p:] @ values
        y = attention.o(y.transpose(1, 2).reshape(b, q, -1))
        if earlier and not output_attentions:
            return y, position_bias
        return y, position_bias, weights

    return forward


def _heads(attention: Any, x: torch.Tensor) -> torch.Tensor:
    """[b, k, heads * head_dim] -> [b, heads, k, head_dim]."""
    shape = (x.shape[0], -1, attention.n_heads, attention.key_value_proj_dim)
    return x.view(shape).transpose(1, 2)


def _keys_values(
    attention: Any,
    attended: torch.Tensor,
    cross: bool,
    cache: Any,
    cache_position: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values [b, heads, k, head_dim], read from the cache and put into it as
    transformers does; φ's prefix is not among them."""
    layer = attention.layer_idx
    # A decoder's own cache, or one that also keeps cross-attention's.
    both = hasattr(cache, "is_updated")
    own = cache
    if both:
        own = cache.cross_attention_cache if cross else cache.self_attention_cache
    if both and cross and cache.is_updated.get(layer):
        return own.layers[layer].keys, own.layers[layer].values
    keys = _heads(attention, attention.k(attended))
    values = _heads(attention, attention.v(attended))
    if cache is not None:
        earlier = cache_position is not None and not cross
        where = ({"cache_position": cache_position},) if earlier else ()
        keys, values = own.update(keys, values, layer, *where)
        if both and cross:
            cache.is_updated[layer] = True
    return keys, values


def _position_bias(
    attention: Any, query: torch.Tensor, positions: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """[1, heads, q, k], of the stack's first layer for all of them; zeros across."""
    if not attention.has_relative_attention_bias:
        shape = (1, attention.n_heads, len(positions), len(columns))
        return torch.zeros(shape, device=query.device, dtype=query.dtype)
    buckets = attention._relative_position_bucket(
        columns[None, :] - positions[:, None],
        bidirectional=not attention.is_decoder,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=attention.relative_attention_max_distance,
    )
    return attention.relative_attention_bias(buckets).permute(2, 0, 1)[None]


def _masked(scores: torch.Tensor, mask: Any) -> torch.Tensor:
    """Scores [b, heads, q, k] with what the mask hides hidden."""
    if mask is None:
        return scores
    if not isinstance(mask, torch.Tensor):
        raise PhiError(
            f"a prefix needs an attention mask that is a tensor, not "
            f"{type(mask).__name__}: load the T5 with attn_implementation='sdpa' or "
            "'eager'"
        )
    mask = mask[..., : scores.shape[-1]]
    if mask.dtype == torch.bool:
        return scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores + mask.float()


def _read(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """A φ file's header and arrays."""
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except (SafetensorError, OSError, ValueError) as error:
        raise PhiError(f"{path} is not a whole safetensors file: {error}") from error
    said = (header.get("format"), header.get("version"))
    if said != (FORMAT, VERSION) or not {"spec", "sites", "base_model"} <= set(header):
        raise PhiError(
            f"{path} is no φ file: format and version are {said}, expected "
            f"{(FORMAT, VERSION)}"
        )
    for name, array in arrays.items():
        if not torch.isfinite(array).all():
            raise PhiError(f"{path}: {name} holds NaN or infinity")
    return header, arrays


def _check_sizes(
    model: T5ForConditionalGeneration,
    header: Mapping[str, str],
    arrays: Mapping[str, torch.Tensor],
    path: Path,
) -> None:
    """Refuses a φ for a T5 of other sizes."""
    config = model.config
    depths = {"encoder": config.num_layers, "decoder": config.num_decoder_layers}
    sites = json.loads(header["sites"])
    for site in sorted({"/".join(name.split("/")[:2]) for name in arrays}):
        here = {
            "layers": depths[site.split("/")[0]],
            "heads": config.num_heads,
            "head_dim": config.d_kv,
            "embed": config.d_model,
        }
        if sites.get(site) != here:
            raise PhiError(
                f"φ in {path} was made for a T5 whose {site} has {sites.get(site)}; "
                f"this T5 has {here}"
            )


def fingerprint(model: T5ForConditionalGeneration) -> str:
    """sha256 of the model's weights: over sorted names of T5X, each name and shape, then
    the values as float32."""
    named = {_t5x_name(name): p for name, p in model.named_parameters()}
    digest = hashlib.sha256()
    for name, parameter in sorted(named.items()):
        value = parameter.detach().cpu().float()
        turned = value.dim() == 2 and name != "token_embedder/embedding"
        array = (value.T if turned else value).contiguous().numpy()
        digest.update(f"{name}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _t5x_name(name: str) -> str:
    """encoder.block.0.layer.0.SelfAttention.q.weight ->
    encoder/layers_0/attention/query/kernel."""
    stack, *parts = name.removesuffix(".weight").split(".")
    if name == "shared.weight":
        return "token_embedder/embedding"
    if name == "lm_head.weight":
        return "decoder/logits_dense/kernel"
    if parts[-1] == "final_layer_norm":
        return f"{stack}/{stack}_norm/scale"
    if parts[-1] == "relative_attention_bias":
        return f"{stack}/relpos_bias/rel_embedding"
    _, number, _, place, *rest = parts
    blocks = {(s, str(at)): t5x for s, at, _, t5x in SITES.values()}
    block = blocks.get((stack, place), "mlp")
    layer = f"{stack}/layers_{number}"
    if rest == ["layer_norm"]:
        norm = "cross_attention" if block == _ACROSS else block
        return f"{layer}/pre_{norm}_layer_norm/scale"
    maps = {letter: ours for ours, letter in MAPS.items()}
    return f"{layer}/{block}/{maps.get(rest[-1], rest[-1])}/kernel"
