"""Which command fills which cell of which table."""

from collections.abc import Iterable, Mapping

from hypert5_jax.reporting.paper.tables import METHODS, STARTS, start_row

_P3: Mapping[str, str] = {
    "T5-MTF": "t5_mtf",
    "T5-MTF-Few-shot": "t5_mtf_fewshot",
    "T5-MTF (Prefix)": "t5_mtf_prefix",
    "T5-MTF (LoRA)": "t5_mtf_lora",
    "HyperT5-Prefix": "hypert5_prefix",
    "HyperT5-LoRA": "hypert5_lora",
}
_LARGE_ONLY: Mapping[str, str] = {
    "HyperT5-Prefix+": "hypert5_prefix_plus",
    "HyperT5-LoRA+": "hypert5_lora_plus",
    # Of no row of Table 1: Tables 6 and 7 start from it.
    "HyperT5-Prefix-MLP": "hypert5_prefix_mlp",
}
_SPLITS: Mapping[str, str] = {
    "HR→LR": "metaicl_large/hr_to_lr",
    "Non-NLI→NLI": "metaicl_large/non_nli_to_nli",
    "Non-Class→Class": "metaicl_large/non_class_to_class",
}
_SNI: Mapping[str, str] = {"Def": "def", "Def+2Pos": "def_2pos"}
_SNI_SYSTEMS = ("T5-MTF", "HyperT5-Prefix", "HyperT5-LoRA")

# {table: {(system, column): recipe}}; column "" stands for all of the system's.
RECIPES: Mapping[str, Mapping[tuple[str, str], str]] = {
    "table_1": {(s, ""): f"p3_large/{r}" for s, r in {**_P3, **_LARGE_ONLY}.items()},
    "table_2": {(s, ""): f"p3_xl/{r}" for s, r in _P3.items()},
    "table_3": {
        (s, column): f"{folder}/{r}"
        for s, r in _P3.items()
        for column, folder in _SPLITS.items()
    },
    **{
        table: {
            (s, column): f"{folder}/{_P3[s]}_{context}"
            for s in _SNI_SYSTEMS
            for column, context in _SNI.items()
        }
        for table, folder in (("table_4", "sni_large"), ("table_5", "sni_xl"))
    },
    **{
        table: {(system, ""): recipe for system in ("HyperT5-Prefix", "HyperT5-LoRA")}
        for table, recipe in (
            ("figure_4", "figure_4/sweep"),
            ("small_figure_4", "small/figure_4_sweep"),
        )
    },
    **{
        table: {(start_row(m, s), ""): recipe for m in METHODS for s in STARTS}
        for table, recipe in (
            ("tables_6_7", "peft/tune_large"),
            ("small_tune", "small/tune"),
        )
    },
    **{
        f"small_{kind}": {
            (system, ""): f"small/{kind}_{recipe}"
            for system, recipe in {**_P3, **_LARGE_ONLY}.items()
        }
        for kind in ("p3", "real")
    },
}

# What must have been run before: {start of a recipe's name: recipes}.
_BEFORE: Mapping[str, tuple[str, ...]] = {
    **{
        f"{folder}/hypert5_{kind}": (f"hyperpretraining/{kind}_{size}",)
        for size, folders in {
            "large": ("p3_large", *_SPLITS.values(), "sni_large"),
            "xl": ("p3_xl", "sni_xl"),
        }.items()
        for folder in folders
        for kind in ("prefix", "lora")
    },
    "p3_large/hypert5_prefix_mlp": ("hyperpretraining/prefix_mlp_large",),
    "figure_4/": ("hyperpretraining/prefix_large", "hyperpretraining/lora_large"),
    # All of them in the order they need each other.
    "small/": ("small/sweep",),
    "peft/tune_large": tuple(
        f"p3_large/{name}"
        for name in (
            "t5_mtf_prefix",
            "t5_mtf_lora",
            "hypert5_prefix",
            "hypert5_lora",
            "hypert5_prefix_mlp",
        )
    ),
}


def recipe_of(table: str, row: str, column: str) -> str | None:
    """The recipe that fills a cell, or None where the paper quotes or has none."""
    cells = RECIPES.get(table, {})
    return cells.get((row, column)) or cells.get((row, ""))


def command(recipe: str) -> str:
    """What is typed to run it, evaluation included."""
    door = "tune" if "/tune" in recipe else "train"
    return f"python -m hypert5_jax.{door} --gin_file=gin/recipes/{recipe}.gin"


def before(recipes: Iterable[str]) -> list[str]:
    """The recipes that make what these start from, in order, without these."""
    recipes = list(recipes)
    found: list[str] = []
    for recipe in recipes:
        names = [n for n in _BEFORE if recipe.startswith(n)]
        first = _BEFORE[max(names, key=len)] if names else ()
        first = tuple(name for name in first if name != recipe)
        found += [*before(first), *first]
    return [r for r in dict.fromkeys(found) if r not in recipes]
