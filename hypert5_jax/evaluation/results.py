"""The folder of an evaluation: what is done stays, and nothing else is mixed in.

settings.json                       what all results here have in common
config.gin                          the configuration
tasks/{task}/{context}-{seed}.json  scores of one task under one context; written
                                    last, so it is there or not there
tasks/{task}/{context}-{seed}.jsonl its predictions
results.json                        the table, once everything is done
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from hypert5_jax.checkpoints.whole_files import write_whole
from hypert5_jax.core import storage
from hypert5_jax.core.errors import UserError

Json = dict[str, Any]


class ResultsFolder:
    """Reads and writes an evaluation's folder; every file is whole or absent."""

    def __init__(self, directory: str | epath.Path):
        self.directory = epath.Path(directory)

    def claim(self, settings: Json, config_text: str) -> None:
        """Makes the folder, or checks that what it holds was made with these settings;
        keeps the configuration there.

        Args:
          settings: JSON values that decide the scores.
          config_text: the configuration.

        Raises:
          UserError: other settings, named one by one, or damaged ones; no results, but
            the configuration of something else; or the folder cannot be written.
        """
        file, config = (self.directory / n for n in ("settings.json", "config.gin"))
        if not file.exists() and config.exists() and config.read_text() != config_text:
            raise UserError(
                f"{self.directory} holds no results, but the config.gin of something "
                "else, such as a training run, which would be lost; choose another "
                "OUTPUT_DIR"
            )
        claim(file, settings, str(self.directory), "OUTPUT_DIR")
        write_whole(config, config_text)

    def unit(self, task: str, context: str, seed: int) -> Json | None:
        """The scores of a finished unit, or None.

        Raises:
          UserError, StorageError: they cannot be read.
        """
        file = self._file(task, context, seed)
        advice = "delete it, and the task is judged again"
        return read_object(file, advice) if file.exists() else None

    def write_unit(
        self,
        task: str,
        context: str,
        seed: int,
        scores: Json,
        predictions: Iterable[Json] | None,
    ) -> None:
        """Writes the predictions, then the scores that say the unit is done."""
        file = self._file(task, context, seed)
        if predictions is not None:
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in predictions]
            write_whole(file.with_suffix(".jsonl"), "".join(lines))
        write_whole(file, json.dumps(scores, indent=1, ensure_ascii=False) + "\n")

    def write_results(self, results: Json) -> epath.Path:
        """Writes results.json and says where it is."""
        file = self.directory / "results.json"
        write_whole(file, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        return file

    def _file(self, task: str, context: str, seed: int) -> epath.Path:
        return self.directory / "tasks" / file_name(task) / f"{context}-{seed}.json"


def file_name(task: str) -> str:
    """A task's name as a folder's; a hash tells names apart that had to be changed."""
    # Letters take up to 4 bytes, and file systems have room for 255.
    plain = re.sub(r"[^\w.+-]+", "_", task)[:120]
    plain = plain.encode()[:240].decode(errors="ignore")
    if plain == task and not plain.startswith("."):
        return plain
    return f"{plain.lstrip('.')}-{hashlib.sha256(task.encode()).hexdigest()[:8]}"


def read_object(file: epath.Path, advice: str) -> Json:
    """The JSON object that a file holds.

    Args:
      file: one that is there.
      advice: what to do where it is damaged.

    Raises:
      UserError, StorageError: it cannot be read, or holds something else.
    """
    try:
        found = json.loads(file.read_text())
    except OSError as error:
        raise storage.failed(f"cannot read {file}", error) from error
    except ValueError as error:
        raise UserError(f"{file} is damaged: no JSON ({error}); {advice}") from error
    if not isinstance(found, dict):
        raise UserError(f"{file} is damaged: it holds no JSON object; {advice}")
    return found


def claim(file: epath.Path, settings: Json, results: str, setting: str) -> None:
    """Notes with which settings results are made, or checks that they are the same.

    Args:
      file: the note.
      settings: JSON values that decide the results.
      results: where those are, for the message.
      setting: that names their place.

    Raises:
      UserError: other settings, named one by one; or the note is damaged, or cannot
        be written.
    """
    settings = json.loads(json.dumps(settings))
    if not file.exists():
        write_whole(file, json.dumps(settings, indent=1) + "\n")
        return
    then = read_object(file, f"put it back, or choose another {setting}")
    differing = list(_differences(then, settings))
    if differing:
        raise UserError(
            f"{results} holds results of other settings: {'; '.join(differing[:5])}. "
            f"Choose another {setting}, or delete that one"
        )


def _differences(then: Mapping, now: Mapping, at: str = "") -> Iterable[str]:
    for name in sorted({*then, *now}):
        old, new = then.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, f"{at}{name}.")
        elif old != new:
            yield f"{at}{name} was {_short(old)}, is {_short(new)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"
