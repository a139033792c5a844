"""The prompts of the paper: names, numbers of rows, mixing rates, groups.

`prompts.tsv` holds them. `uses` names the mixtures: `p3_train`, the 241 prompts of the
paper's Figure 6 (its `printed` name where that is misspelt; the true one is that of P3
and promptsource); `p3_eval`, the 111 held-out prompts of T0's evaluation; `p3_peft`, the
8 of Appendix B.1. Rows are those of the published P3; rates are T0's (t-zero's
seqio_tasks): the training rows of the data set, or, above 500,000, 500,000 divided by
the number of its templates.
"""

import csv
import re
from dataclasses import dataclass
from importlib.resources import files

MIXTURES = ("p3_train", "p3_eval", "p3_peft")
_OUTSIDE_NAMES = re.compile(r"[^\w.]+")
_ANLI_SPLITS = {"train": "train", "validation": "dev"}


def clean_name(title: str) -> str:
    """What P3 and t-zero make of a data set, subset and template title."""
    return _OUTSIDE_NAMES.sub("_", title)


@dataclass(frozen=True)
class Prompt:
    """One prompt of one data set: what P3 calls a task.

    Attributes:
      name: of the published P3 configuration.
      uses: the mixtures it is in.
      group: the data set its score is averaged with; ANLI's rounds are apart.
      dataset, subset: as Hugging Face names them; no subset is "".
      anli_round: "r1", "r2", "r3" or "".
      train, validation: rows in P3; 0 where that split is not used.
      rate: T0's mixing rate.
      options: how many there are to choose from; 0 none, -1 some, their number not
        recorded.
      printed: what the paper prints, where that is another name.
    """

    name: str
    uses: tuple[str, ...]
    group: str
    dataset: str
    subset: str
    anli_round: str
    train: int
    validation: int
    rate: int
    options: int
    printed: str

    @property
    def folder(self) -> str:
        """Data set and subset as one name."""
        return clean_name("_".join(filter(None, (self.dataset, self.subset))))

    @property
    def template(self) -> str:
        """The template's title as it stands in the name."""
        title = self.name.removeprefix(f"{self.folder}_")
        return title.removesuffix(f"_{self.anli_round}") if self.anli_round else title

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that are used."""
        return ("train", "validation") if self.validation else ("train",)

    @property
    def held_out(self) -> bool:
        """Whether it is evaluated by choosing among options."""
        return "p3_train" not in self.uses

    def rows(self, split: str) -> int:
        """Rows of a split in the published P3."""
        return {"train": self.train, "validation": self.validation}.get(split, 0)

    def raw_split(self, split: str) -> str:
        """What the raw data set calls the split."""
        if not self.anli_round:
            return split
        return f"{_ANLI_SPLITS.get(split, split)}_{self.anli_round}"


def read_prompts() -> tuple[Prompt, ...]:
    """All prompts, in the order of the paper's figure, the held-out ones after them."""
    text = files(__package__).joinpath("prompts.tsv").read_text(encoding="utf-8")
    return tuple(
        _prompt(fields) for fields in csv.DictReader(text.splitlines(), delimiter="\t")
    )


def _prompt(fields: dict[str, str]) -> Prompt:
    return Prompt(
        name=fields["name"],
        uses=tuple(fields["uses"].split(",")),
        group=fields["group"],
        dataset=fields["dataset"],
        subset=fields["subset"],
        anli_round=fields["round"],
        train=int(fields["train"]),
        validation=int(fields["validation"]),
        rate=int(fields["rate"]),
        options=int(fields["options"]),
        printed=fields["printed"] or fields["name"],
    )
