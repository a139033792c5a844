"""What the paper says of its results (sections 5.3 to 6), put to numbers."""

from collections.abc import Callable, Sequence

from hypert5_jax.reporting.judgement import Claim, Comparison, Side
from hypert5_jax.reporting.paper.tables import METHODS, TABLES, start_row
from hypert5_jax.reporting.scores import AVG, Book, Score

Compare = Callable[[Book, str], list[Comparison]]
# Columns of the books that only curves have; see book.py.
AT_START = "AVG at step 0"
ALL_STEPS = "AVG over all steps"

_MTF, _FEWSHOT = "T5-MTF", "T5-MTF-Few-shot"
_PREFIX, _LORA = "HyperT5-Prefix", "HyperT5-LoRA"
# The same adaptation with one φ for all tasks, learned by gradient.
PEFT_OF = {_PREFIX: "T5-MTF (Prefix)", _LORA: "T5-MTF (LoRA)"}
_MTF_TABLES = ("table_1", "table_2", "table_3", "small_p3", "small_real")
_SNI = ("table_4", "table_5")
# Where HyperT5-Prefix is the best instead of the few-shot baseline.
_EXCEPTION = ("table_3", "Non-NLI→NLI")


def headlines(table: str) -> tuple[str, ...]:
    """The columns that claims speak of: AVG, or all where there is none."""
    columns = TABLES[table].columns
    return columns if columns and AVG not in columns else (AVG,)


def _side(book: Book, table: str, row: str, column: str) -> Side:
    return Side(row, book.get((table, row, column)))


def _above(
    book: Book, table: str, rows: tuple[str, str], column: str, or_equal: bool = False
) -> Comparison:
    """The first row above the second one in a column."""
    left, right = (_side(book, table, row, column) for row in rows)
    return Comparison(left, right, "" if column == AVG else column, or_equal)


def pairs(better: Sequence[tuple[str, str]], or_equal: bool = False) -> Compare:
    """Each first row above its second one, in every headline column."""

    def compare(book: Book, table: str) -> list[Comparison]:
        return [
            _above(book, table, rows, column, or_equal)
            for column in headlines(table)
            for rows in better
        ]

    return compare


def fewshot_best(book: Book, table: str) -> list[Comparison]:
    """The few-shot baseline above all others whose downstream T5 is trained alone."""
    found = []
    for column in headlines(table):
        for other in (_MTF, *PEFT_OF.values(), _PREFIX, _LORA):
            rows = (_FEWSHOT, other)
            if (table, column) == _EXCEPTION and other == _PREFIX:
                rows = (other, _FEWSHOT)
            found.append(_above(book, table, rows, column))
    return found


def more_context(book: Book, table: str) -> list[Comparison]:
    """HyperT5 with definition and examples above T5-MTF with the definition."""
    less = book.get((table, _MTF, "Def"))
    return [
        Comparison(
            Side(f"{system} (Def+2Pos)", book.get((table, system, "Def+2Pos"))),
            Side(f"{_MTF} (Def)", less),
        )
        for system in PEFT_OF
    ]


def attention_best(book: Book, table: str) -> list[Comparison]:
    """T5-MTF that reads definition and examples above HyperT5 that reads them."""
    return [_above(book, table, (_MTF, system), "Def+2Pos") for system in PEFT_OF]


def points(book: Book, table: str, row: str) -> dict[int, Score]:
    """{hyperpretraining steps: score} of a row of Figure 4, in order."""
    found = {int(c): s for (t, r, c), s in book.items() if (t, r) == (table, row)}
    return dict(sorted(found.items()))


def _steps(row: str, curve: dict[int, Score], step: int | None, name: str) -> Side:
    if step is None or step not in curve:
        return Side(f"{row}, {name}", None)
    return Side(f"{row}, {step:,} steps", curve[step])


def half_way(curve: dict[int, Score]) -> int | None:
    """The measured point nearest to half of the most steps, the earlier of two."""
    inner = list(curve)[1:-1]
    return min(inner, key=lambda s: abs(s - max(curve) / 2)) if inner else None


def no_hyperpretraining(book: Book, table: str) -> list[Comparison]:
    """Without hyperpretraining nearer to PEFT-only than to the hyperpretrained one."""
    found = []
    for row, peft in PEFT_OF.items():
        curve = points(book, table, row)
        last = max(curve, default=0) or None
        zero = _steps(row, curve, 0, "0 steps")
        most = _steps(row, curve, last, "most steps")
        only = _side(book, table, peft, AVG)
        found += [
            Comparison(_distance(most, zero), _distance(only, zero)),
            Comparison(most, zero),
        ]
    return found


def _distance(one: Side, zero: Side) -> Side:
    """|one − zero|, a number without a spread."""
    label = f"distance from {zero.label} to {one.label}"
    if one.score is None or zero.score is None:
        return Side(label, None)
    return Side(label, Score((abs(one.score.mean - zero.score.mean),)))


def prefix_rises(book: Book, table: str) -> list[Comparison]:
    """HyperT5-Prefix: half-way above 0 steps, and the most steps above half-way."""
    curve = points(book, table, _PREFIX)
    half, last = half_way(curve), max(curve, default=None)
    zero, middle, most = (
        _steps(_PREFIX, curve, step, name)
        for step, name in ((0, "0 steps"), (half, "half-way"), (last, "most steps"))
    )
    return [Comparison(middle, zero), Comparison(most, middle)]


def lora_declines(book: Book, table: str) -> list[Comparison]:
    """HyperT5-LoRA: half-way above the most steps."""
    curve = points(book, table, _LORA)
    half, last = half_way(curve), max(curve, default=None)
    return [
        Comparison(
            _steps(_LORA, curve, half, "half-way"),
            _steps(_LORA, curve, last, "most steps"),
        )
    ]


def starts(order: Sequence[tuple[str, str]], column: str = AVG) -> Compare:
    """For every method the first start above the second one."""

    def compare(book: Book, table: str) -> list[Comparison]:
        return [
            _above(
                book, table, (start_row(method, one), start_row(method, two)), column
            )
            for method in METHODS
            for one, two in order
        ]

    return compare


_FIGURE_4 = ("figure_4", "small_figure_4")
_TUNED = ("tables_6_7", "small_tune")
_HYPER_ABOVE = (("Hyper", "Shared"), ("Hyper", "Rand"))

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "hyper_above_peft",
        "A hypermodel beats the one shared prefix (LoRA) of PEFT-only training",
        "5.3.1, 5.3.2",
        _MTF_TABLES,
        pairs(tuple(PEFT_OF.items())),
    ),
    Claim(
        "fewshot_best",
        "The few-shot baseline is the best (on Non-NLI→NLI, HyperT5-Prefix is)",
        "5.3.1, 5.3.2",
        _MTF_TABLES,
        fewshot_best,
        "Hypermodels that are trained together with the downstream T5 are left aside; "
        "another claim speaks of them.",
    ),
    Claim(
        "prefix_above_lora",
        "HyperT5-Prefix beats HyperT5-LoRA",
        "5.4",
        (*_MTF_TABLES[:3], *_SNI, *_MTF_TABLES[3:]),
        pairs(((_PREFIX, _LORA),)),
    ),
    Claim(
        "joint_reaches_fewshot",
        "Hypermodels trained with the downstream T5 reach the few-shot baseline",
        "5.3.1",
        ("table_1", "small_p3", "small_real"),
        pairs(((f"{_PREFIX}+", _FEWSHOT), (f"{_LORA}+", _FEWSHOT)), or_equal=True),
        "Their AVG is equal or higher.",
    ),
    Claim(
        "sni_above_definition",
        "HyperT5 with definition and examples beats T5-MTF with the definition",
        "5.3.3",
        _SNI,
        more_context,
    ),
    Claim(
        "sni_attention_best",
        "T5-MTF that reads definition and examples itself beats HyperT5",
        "5.3.3",
        _SNI,
        attention_best,
    ),
    Claim(
        "hyperpretraining_needed",
        "Without hyperpretraining a hypermodel is about as good as PEFT-only",
        "5.5",
        _FIGURE_4,
        no_hyperpretraining,
        "Its AVG is nearer to that of PEFT-only (in Table 1, or its scaled-down form) "
        "than to its own after the most hyperpretraining, which is higher.",
    ),
    Claim(
        "prefix_keeps_rising",
        "HyperT5-Prefix improves to the end of hyperpretraining",
        "5.5",
        _FIGURE_4,
        prefix_rises,
        "Half-way is above 0 steps, and the most steps are above half-way, which is "
        "the point measured nearest to half of the most steps.",
    ),
    Claim(
        "lora_declines",
        "HyperT5-LoRA declines after half of the hyperpretraining",
        "5.5",
        _FIGURE_4,
        lora_declines,
        "Half-way, as above, is above the most steps.",
    ),
    Claim(
        "hyper_start_best",
        "Tuning from a hypermodel's φ beats the shared φ, which beats a random one",
        "6",
        _TUNED,
        starts((("Hyper", "Shared"), ("Shared", "Rand"))),
    ),
    Claim(
        "hyper_starts_higher",
        "Tuning from a hypermodel's φ starts higher",
        "6",
        _TUNED,
        starts(_HYPER_ABOVE, AT_START),
        "At step 0, over all tasks, at each cell's best learning rate.",
    ),
    Claim(
        "hyper_stays_higher",
        "Tuning from a hypermodel's φ stays higher",
        "6",
        _TUNED,
        starts(_HYPER_ABOVE, ALL_STEPS),
        "The mean over all steps that were judged.",
    ),
)
