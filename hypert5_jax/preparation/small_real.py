"""Real tasks with short answers, for models of trial size: pairs read from public files.

Three sources below the data folder: `instruction_induction/*.json`,
`function_vectors/{abstractive,extractive}/*.json` and `sni/tasks/*.json`. A task is a
list of different (input, output) pairs, divided into `train` and `test`; an example has
options: what its task names to choose from, or its own output among others.
"""

import functools
import json
import random
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hypert5_jax.core.errors import UserError

Row = dict[str, str | list[str]]

# The sources, in the order of the tables' columns.
SOURCES = ("extractive", "abstractive", "induction", "sni")
# Held-out tasks. Each has a relative among the training tasks, as P3's have; the skill
# or the form asked for is another one.
HELD_OUT = {
    "extractive": (
        *("animal_v_object_3", "choose_last_of_3", "color_v_animal_5"),
        *("object_v_concept_3", "verb_v_adjective_3"),
    ),
    "abstractive": (
        *("capitalize_last_letter", "english-spanish", "park-country"),
        *("person-instrument", "prev_item", "singular-plural"),
    ),
    "induction": ("diff", "larger_animal", "second_word_letter"),
    "sni": (
        "task1687_sentiment140_classification",
        "task828_copa_commonsense_cause_effect",
        "task875_emotion_classification",
    ),
}
TRAINED = {
    "extractive": (
        *("adjective_v_verb_3", "alphabetically_last_3", "animal_v_object_5"),
        *("choose_first_of_3", "choose_first_of_5", "choose_last_of_5"),
        *("choose_middle_of_5", "color_v_animal_3", "concept_v_object_5"),
        *("fruit_v_animal_3", "object_v_concept_5"),
    ),
    "abstractive": (
        *("antonym", "capitalize", "capitalize_first_letter"),
        *("capitalize_second_letter", "country-capital", "country-currency"),
        *("english-french", "english-german", "landmark-country"),
        *("lowercase_last_letter", "next_capital_letter", "next_item"),
        *("person-occupation", "present-past", "product-company", "sentiment"),
    ),
    "induction": (
        *("first_word_letter", "num_to_verbal", "orthography_starts_with"),
        *("rhymes", "singular_to_plural", "sum"),
    ),
    "sni": (
        "task116_com2sense_commonsense_reasoning",
        "task1346_glue_cola_grammatical_correctness_classification",
        "task1393_superglue_copa_text_completion",
        "task363_sst2_polarity_classification",
        "task391_causal_relationship",
        "task512_twitter_emotion_classification",
        "task827_copa_commonsense_reasoning",
    ),
}
# At most this many examples of a task; a third of them are its test split.
MOST = 240
TEST_SHARE = 3
# Options of a task that names none: the output, one of the same task's other outputs,
# and outputs of other tasks, which a model that knows the task can exclude.
FROM_TASK, FROM_OTHERS = 1, 2
# Most words of a list of pairs, and words of a piece of text: its beginning, the whole.
LIST_WORDS = 20
TEXT_WORDS = (16, 22)


@dataclass(frozen=True)
class RealTask:
    """A task's different pairs, in an order that depends on its name alone.

    Attributes:
      source: one of SOURCES.
      name: that of its file.
      pairs: (input, output).
      labels: the outputs to choose from, where they are few and fixed.
    """

    source: str
    name: str
    pairs: tuple[tuple[str, str], ...]
    labels: tuple[str, ...] = ()

    def options(self, pair: tuple[str, str]) -> tuple[str, ...] | None:
        """What the task itself offers for this pair, or None."""
        if self.source == "extractive":
            return tuple(dict.fromkeys(pair[0].split(", ")))
        return self.labels or None

    def split(self, split: str) -> tuple[tuple[str, str], ...]:
        """The pairs of `train` or `test`."""
        test = len(self.pairs) // TEST_SHARE
        return self.pairs[:test] if split == "test" else self.pairs[test:]


def file_of(folder: Path, source: str, name: str) -> Path:
    """Where a task's file lies below the data folder."""
    places = {"induction": "instruction_induction", "sni": "sni/tasks"}
    place = places.get(source, f"function_vectors/{source}")
    return folder / place / f"{name}.json"


@functools.cache
def load(folder: Path, held_out: bool) -> tuple[RealTask, ...]:
    """All training tasks, or all held-out ones.

    Raises:
      UserError: a file is missing or not as its source publishes it.
    """
    names = HELD_OUT if held_out else TRAINED
    return tuple(
        read_task(file_of(folder, source, name), source, name)
        for source in SOURCES
        for name in names[source]
    )


def read_task(path: Path, source: str, name: str) -> RealTask:
    """One task from its file."""
    try:
        content = json.loads(path.read_text())
        pairs = list(dict(_pairs(content)).items())
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is not there; set HYPERT5_DATA to the folder that holds "
            "instruction_induction/, function_vectors/ and sni/"
        ) from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path} is no task of {source}: {error!r}") from error
    rng = _rng(name)
    rng.shuffle(pairs)
    labels = sorted({output for _, output in pairs})
    few = tuple(labels) if source == "sni" or name == "sentiment" else ()
    return RealTask(source, name, tuple(pairs[:MOST]), few)


def _pairs(content: object) -> Iterator[tuple[str, str]]:
    """(input, output) of each of the sources' formats."""
    if isinstance(content, dict) and "Instances" in content:
        for instance in content["Instances"]:
            yield " ".join(instance["input"].split()), instance["output"][0]
        return
    rows = content
    if isinstance(content, dict):
        rows = [*content["train"], *content["test"]]
    assert isinstance(rows, list)
    for row in rows:
        yield row["input"], row["output"]


def task_rows(folder: Path, held_out: bool, split: str) -> Iterator[Row]:
    """Examples of all tasks, with options and their source as group."""
    tasks = load(folder, held_out)
    for task in tasks:
        others = sorted({o for t in tasks if t is not task for _, o in t.pairs})
        for pair in task.split(split):
            options = task.options(pair) or drawn_options(task, pair, others)
            yield {
                "inputs": pair[0],
                "targets": pair[1],
                "options": list(options),
                "task": task.name.replace("-", "_"),
                "group": task.source,
            }


def drawn_options(
    task: RealTask, pair: tuple[str, str], others: Sequence[str]
) -> tuple[str, ...]:
    """The output among others, in an order that tells nothing."""
    rng = _rng(f"{task.name}/{pair[0]}")
    own = sorted({output for _, output in task.pairs} - {pair[1]})
    strange = [output for output in others if output != pair[1]]
    found = [
        pair[1],
        *rng.sample(own, min(FROM_TASK, len(own))),
        *rng.sample(strange, FROM_OTHERS),
    ]
    found = list(dict.fromkeys(found))
    rng.shuffle(found)
    return tuple(found)


def reading_rows(
    folder: Path, split: str, documents: Sequence[str], count: int
) -> Iterator[Mapping[str, str]]:
    """What the base T5 reads: text and how it goes on, and pairs of training tasks.

    Of five rows one is a piece of a document, one a pair under its task's name, as real
    text has met many skills, and three are lists of pairs of one task whose last output
    is asked for: a T5 that heeds such lists is one that φ can tell what to do.
    """
    tasks = load(folder, False)
    rng = _rng(f"reading/{split}")
    for number in range(count):
        if number % 5 == 0:
            words = rng.choice(documents).split()
            cut, end = TEXT_WORDS
            start = rng.randrange(max(1, len(words) - end))
            piece = words[start : start + end]
            yield {"inputs": " ".join(piece[:cut]), "targets": " ".join(piece[cut:])}
            continue
        task = rng.choice(tasks)
        if number % 5 == 1:
            asked, answer = rng.choice(task.split("train"))
            yield {"inputs": f"{_spoken(task.name)} : {asked} :", "targets": answer}
            continue
        yield _list_of_pairs(rng.sample(task.split("train"), rng.randint(3, 6)))


def _spoken(name: str) -> str:
    """A task's name as words: "task363_sst2_polarity_classification" begins at sst2."""
    words = re.split("[_-]", name)
    return " ".join(words[1:] if words[0].startswith("task") else words)


def _list_of_pairs(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """As many pairs as LIST_WORDS hold, the last one's output asked for."""
    lead, (asked, answer) = "", pairs[0]
    for source, output in pairs[1:]:
        longer = f"{lead}{asked} : {answer} . "
        if len(f"{longer}{source}".split()) > LIST_WORDS:
            break
        lead, (asked, answer) = longer, (source, output)
    return {"inputs": f"{lead}{asked} :", "targets": answer}


def _rng(name: str) -> random.Random:
    return random.Random(zlib.crc32(name.encode()))
