"""Parameter trees as text: one line a parameter, dtype and named axis sizes.

    downstream/encoder/layers/mlp/wi_0/kernel float32 layers=2 embed=64 mlp=128

python -m tests.goldens.trees rewrites the files beside this one; a test compares.
"""

from pathlib import Path

from hypert5_jax.core import trees
from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.t5.config import SIZES

FOLDER = Path(__file__).resolve().parent

GENERATED = {"source": "generated", "trainable": ("hypermodel",)}
LEARNED = {"source": "learned", "trainable": ("phi",), "context": "none"}
# {adaptation: variant}: every set of parameter groups the package can make.
ADAPTATIONS = {
    "none": Variant("none", "none", trainable=("downstream",), context="none"),
    "prefix_generated": Variant(adaptation="prefix", **GENERATED),
    "prefix_mlp_generated": Variant(
        adaptation="prefix", parametrisation="mlp", **GENERATED
    ),
    "lora_generated": Variant(adaptation="lora", **GENERATED),
    "prefix_learned": Variant(adaptation="prefix", **LEARNED),
    "prefix_mlp_learned": Variant(
        adaptation="prefix", parametrisation="mlp", **LEARNED
    ),
    "lora_learned": Variant(adaptation="lora", **LEARNED),
}
ALL = [(size, name) for size in SIZES for name in ADAPTATIONS]


def described(size: str, name: str) -> str:
    """The trees of a system's groups, but for the downstream T5 beside a φ.

    By abstract evaluation: xxl costs no more memory than tiny.
    """
    system = System(SIZES[size], ADAPTATIONS[name])
    shapes = trees.flatten(system.abstract_params())
    axes = trees.flatten(system.logical_axes())
    lines = []
    for path, leaf in sorted(shapes.items()):
        if name != "none" and path.startswith("downstream/"):
            continue
        names = axes[path] or (None,) * len(leaf.shape)
        assert len(names) == len(leaf.shape), f"{path}: {names} for {leaf.shape}"
        sizes = " ".join(
            f"{axis or '_'}={length}"
            for axis, length in zip(names, leaf.shape, strict=True)
        )
        lines.append(f"{path} {leaf.dtype} {sizes}")
    return "\n".join(lines) + "\n"


def golden(size: str) -> Path:
    """The file of one size: a section [adaptation] for each."""
    return FOLDER / f"trees_{size}.txt"


def sections(size: str) -> dict[str, str]:
    """{adaptation: text} of a size's file."""
    found: dict[str, str] = {}
    for section in golden(size).read_text().split("\n["):
        name, _, text = section.lstrip("[").partition("]\n")
        found[name] = text.rstrip("\n") + "\n"
    return found


def main() -> None:
    """Rewrites every golden file."""
    for size in SIZES:
        text = "\n".join(f"[{name}]\n{described(size, name)}" for name in ADAPTATIONS)
        golden(size).write_text(text)


if __name__ == "__main__":
    main()
