"""Where the rows of a prompt lie in a folder, in whichever layout they came.

    tfrecord   {name}/{split}.tfrecord-*                 the published seqio cache
    parquet    {name}/{split}-*.parquet, {name}/{split}/*.parquet   its Parquet form
    jsonl      {name}/{split}.jsonl, {split}/{data set}_{subset}/{template}.jsonl
    raw        raw/{data set}/{subset}/{split}*.jsonl or .parquet, and promptsource's
               templates/{data set}/{subset}/templates.yaml

A prompt's folder may also lie under `data/`, raw data under `eval_raw/`; JSON lines may be
gzipped. What is evaluated is looked for as `{name}_score_eval`, too.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hypert5_jax.core.errors import UserError
from hypert5_jax.preparation.p3.catalogue import Prompt

LAYOUTS = ("tfrecord", "parquet", "jsonl", "raw")
SCORED = "_score_eval"
_FEWEST_BYTES = 10  # of a row, also compressed


@dataclass(frozen=True)
class Found:
    """The files of a prompt's split.

    Attributes:
      layout: one of LAYOUTS.
      files: in order.
      templates: the templates that render raw rows.
      scored: whether a row is one option of an example, not an example.
    """

    layout: str
    files: tuple[Path, ...]
    templates: Path | None = None
    scored: bool = False

    def most_rows(self, published: int) -> int:
        """A bound on the rows: the published number, or fewer if the files are small."""
        size = sum(path.stat().st_size for path in self.files)
        return min(published, size // _FEWEST_BYTES)


@dataclass(frozen=True)
class Layout:
    """A folder to look in, and the layouts to look for there, best first."""

    folder: Path
    layouts: tuple[str, ...] = LAYOUTS

    def __post_init__(self) -> None:
        if not self.layouts or not set(self.layouts) <= set(LAYOUTS):
            raise UserError(
                f"P3 layouts {self.layouts}; expected some of {', '.join(LAYOUTS)}"
            )

    def find(self, prompt: Prompt, split: str) -> Found | None:
        """The files of a split in the first layout that has any; None without."""
        look = {
            "tfrecord": self._tfrecord,
            "parquet": self._parquet,
            "jsonl": self._jsonl,
            "raw": self._raw,
        }
        for layout in self.layouts:
            if found := look[layout](prompt, split):
                return found
        return None

    def looked_for(self, prompt: Prompt, split: str) -> str:
        """What would have been found, for messages."""
        home = _subset_folder(prompt)
        places = {
            "tfrecord": f"{prompt.name}/{split}.tfrecord-*",
            "parquet": f"{prompt.name}/{split}-*.parquet",
            "jsonl": f"{split}/{prompt.folder}/{_file_stem(prompt)}.jsonl",
            "raw": f"raw/{home}/{prompt.raw_split(split)}.jsonl with "
            f"templates/{home}/templates.yaml",
        }
        return "; ".join(places[layout] for layout in self.layouts)

    def _homes(self, prompt: Prompt, split: str) -> list[tuple[Path, bool]]:
        """Folders named like the prompt, and whether their rows are single options."""
        names = [(prompt.name, False)]
        if prompt.held_out:
            scored = (prompt.name + SCORED, True)
            # T0 evaluates on the scored rows; shots are whole examples.
            names = [*names, scored] if split == "train" else [scored, *names]
        homes = [
            (self.folder / above / name, scored)
            for name, scored in names
            for above in ("", "data")
        ]
        return [(home, scored) for home, scored in homes if home.is_dir()]

    def _tfrecord(self, prompt: Prompt, split: str) -> Found | None:
        for home, scored in self._homes(prompt, split):
            if files := sorted(home.glob(f"{split}.tfrecord-*")):
                return Found("tfrecord", tuple(files), scored=scored)
        return None

    def _parquet(self, prompt: Prompt, split: str) -> Found | None:
        for home, scored in self._homes(prompt, split):
            if files := _files_of(home, split, (".parquet",)):
                return Found("parquet", files, scored=scored)
        return None

    def _jsonl(self, prompt: Prompt, split: str) -> Found | None:
        for home, scored in self._homes(prompt, split):
            if files := _files_of(home, split, (".jsonl", ".jsonl.gz")):
                return Found("jsonl", files, scored=scored)
        for folder in (prompt.folder, prompt.folder.replace(".", "_")):
            for ending in (".jsonl", ".jsonl.gz"):
                file = self.folder / split / folder / f"{_file_stem(prompt)}{ending}"
                if file.exists():
                    return Found("jsonl", (file,))
        return None

    def _raw(self, prompt: Prompt, split: str) -> Found | None:
        below = _subset_folder(prompt)
        templates = self.folder / "templates" / below / "templates.yaml"
        for above in ("raw", "eval_raw"):
            home = self.folder / above / below
            endings = (".jsonl", ".jsonl.gz", ".parquet")
            files = _files_of(home, prompt.raw_split(split), endings)
            if files and templates.exists():
                return Found("raw", files, templates)
        return None


def _file_stem(prompt: Prompt) -> str:
    return prompt.name.removeprefix(f"{prompt.folder}_")


def _subset_folder(prompt: Prompt) -> Path:
    return Path(prompt.dataset, prompt.subset)


def _files_of(home: Path, split: str, endings: Sequence[str]) -> tuple[Path, ...]:
    """`train.jsonl`, `train-00000-of-00002.parquet`, `train/*.parquet`, `train32.jsonl`.

    Only the first of these forms that there is: one set of rows, not two copies of it.
    """
    for ending in endings:
        here = sorted(home.glob(f"*{ending}"))
        for form in ("", r"-\d+-of-\d+.*", None, r"\d+"):
            if form is None:
                files = sorted((home / split).glob(f"*{ending}"))
            else:
                name = re.compile(re.escape(split) + form + re.escape(ending))
                files = [path for path in here if name.fullmatch(path.name)]
            if files:
                return tuple(files)
    return ()
