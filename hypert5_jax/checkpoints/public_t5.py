"""Public T5 1.1 checkpoints of T5X by name.

    t5_1_1_{size}         span corruption, a million steps
    t5_1_1_lm100k_{size}  adapted to language modelling for 100,000 more: the paper's

https://github.com/google-research/t5x/blob/main/docs/models.md
"""

_SIZES = ("small", "base", "large", "xl", "xxl")
_ROOT = "gs://t5-data/pretrained_models/t5x"

PATHS = {
    **{f"t5_1_1_{s}": f"{_ROOT}/t5_1_1_{s}/checkpoint_1000000" for s in _SIZES},
    **{
        f"t5_1_1_lm100k_{s}": f"{_ROOT}/t5_1_1_lm100k_{s}/checkpoint_1100000"
        for s in _SIZES
    },
}


def resolve(path: str) -> str:
    """Where the checkpoint of a public name lies; anything else as it is."""
    return PATHS.get(path, path)
