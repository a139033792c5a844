"""What Hugging Face calls the attention maps that φ touches.

(encoder/self_attention, layer 3, query)  <->
encoder.block.3.layer.0.SelfAttention.q
"""

import re

from hypert5_jax.phi.spec import DECODER_CROSS, DECODER_SELF, ENCODER_SELF

_BLOCKS = {
    ENCODER_SELF: ("encoder", "layer.0.SelfAttention"),
    DECODER_SELF: ("decoder", "layer.0.SelfAttention"),
    DECODER_CROSS: ("decoder", "layer.1.EncDecAttention"),
}
LETTERS = {"query": "q", "key": "k", "value": "v", "out": "o"}
_MODULE = re.compile(r"(encoder|decoder)\.block\.(\d+)\.(layer\.\d\.\w+)\.([qkvo])")


def module_name(site: str, layer: int, map_name: str) -> str:
    """The module that computes one map of one layer."""
    stack, block = _BLOCKS[site]
    return f"{stack}.block.{layer}.{block}.{LETTERS[map_name]}"


def place_of(module: str) -> tuple[str, int, str] | None:
    """(site, layer, map) of a module's name; None if φ has no place for it."""
    found = _MODULE.fullmatch(module)
    if found is None:
        return None
    sites = {block: site for site, block in _BLOCKS.items()}
    maps = {letter: name for name, letter in LETTERS.items()}
    site = sites.get((found[1], found[3]))
    return None if site is None else (site, int(found[2]), maps[found[4]])


def pattern(site: str, layers: list[int], depth: int, maps: tuple[str, ...]) -> str:
    """A regular expression for these maps of these layers and nothing else of a T5 with
    `depth` layers in that stack."""
    stack, block = _BLOCKS[site]
    numbers = r"\d+" if len(layers) == depth else f"({'|'.join(map(str, layers))})"
    letters = "".join(LETTERS[name] for name in maps)
    return rf"{stack}\.block\.{numbers}\.{re.escape(block)}\.[{letters}]"
