"""Preparing a mixture: unit by unit, in parallel, resumable; see writer.py, manifest.py."""

import fcntl
import functools
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hypert5_jax.core.errors import UserError
from hypert5_jax.core.parent import follow_parent
from hypert5_jax.data.prepared import MANIFEST_FILE
from hypert5_jax.data.vocabulary import MODEL_FILE, Vocabulary
from hypert5_jax.preparation import manifest, seqio_tasks, writer
from hypert5_jax.preparation.bad_lines import REASON as BAD_LINE
from hypert5_jax.preparation.bad_lines import BadLines
from hypert5_jax.preparation.modules import digest_of, find_provider
from hypert5_jax.preparation.progress import Progress

_REPORT_EVERY = 1000  # examples


@dataclass(frozen=True)
class _Work:
    """What all units of a preparation share, in words another process understands."""

    mixture: str
    split: str
    modules: tuple[str, ...]
    directory: Path
    vocabulary: Vocabulary
    lengths: Mapping[str, int] | None
    seed: int
    skip_bad_lines: int
    cache_dir: str | None
    code: str  # a digest of the modules

    @property
    def chosen(self) -> dict[str, Any]:
        """The settings a manifest names."""
        chosen: dict[str, Any] = {
            "lengths": dict(self.lengths) if self.lengths else None,
            "seed": self.seed,
            "skip_bad_lines": self.skip_bad_lines,
        }
        if self.cache_dir is not None:
            chosen["cache_dir"] = self.cache_dir
        return chosen

    @functools.cached_property
    def settings(self) -> str:
        """A digest of all that what is written depends on."""
        decides = [self.vocabulary.to_json(), self.chosen, self.code]
        said = json.dumps(decides, sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()


@dataclass(frozen=True)
class _Unit:
    """One piece of the work: a shard of a seqio task."""

    work: _Work
    task: str
    shard: tuple[int, int]

    @property
    def name(self) -> str:
        safe = re.sub(r"[^\w.\-]", "_", self.task)
        if safe != self.task:  # another task's name may become the same
            safe += "-" + hashlib.sha256(self.task.encode()).hexdigest()[:8]
        return f"{safe}-{self.shard[0]:05d}-of-{self.shard[1]:05d}"

    @property
    def was_written(self) -> bool:
        """Whether an earlier run finished it, however it made it."""
        return (self.work.directory / f"{self.name}.json").exists()

    @property
    def is_done(self) -> bool:
        """Whether an earlier run finished it, with the same settings and code."""
        work = self.work
        return writer.unit_is_done(work.directory, self.name, self.task, work.settings)


def prepare_mixture(
    name: str,
    split: str,
    output_dir: str | Path,
    modules: Sequence[str] = (),
    num_workers: int = 1,
    lengths: Mapping[str, int] | None = None,
    seed: int = 0,
    overwrite: bool = False,
    skip_bad_lines: int = 0,
    cache_dir: str | None = None,
) -> Path:
    """Tokenises a seqio task or mixture into `{output_dir}/{name}/{split}`.

    A folder that is complete is left as it is; one that was interrupted is continued,
    but for units that were made with other settings or by other code of `modules`.

    Args:
      name: of a seqio Task or Mixture.
      split: the split to prepare.
      output_dir: above the folders of all mixtures.
      modules: what to import so that the name is registered.
      num_workers: processes; more than one needs `modules` that register the name.
      lengths: `sequence_length` for preprocessors that want it; cuts nothing else.
      seed: for preprocessors that draw.
      overwrite: starts afresh.
      skip_bad_lines: most lines of the split that may be left out because they cannot be
        read; each is counted in the manifest.
      cache_dir: reads the tasks from what seqio_cache_tasks wrote there.

    Returns:
      `{output_dir}/{name}`, for `data.prepared.open_mixture`.

    Raises:
      UserError: unknown name or split, unreadable data, another vocabulary or other
        settings than those of the data already there.
    """
    provider = find_provider(name, modules)
    seqio_tasks.start_tensorflow()
    rated = seqio_tasks.tasks_of(provider, split)
    tasks = {task_name: task for task_name, (task, _) in rated.items()}
    vocabulary, model = seqio_tasks.vocabulary_of(tasks)
    home = Path(output_dir) / name
    directory = home / split
    if overwrite and directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(parents=True, exist_ok=True)
    work = _Work(
        mixture=name,
        split=split,
        modules=tuple(modules),
        directory=directory,
        vocabulary=vocabulary,
        lengths=lengths,
        seed=seed,
        skip_bad_lines=skip_bad_lines,
        cache_dir=cache_dir,
        code=digest_of(modules),
    )
    with _only_one(directory):
        if (directory / MANIFEST_FILE).exists():
            _check_existing(work, tasks)
            manifest.remove_unit_files(directory)
            return home
        for left_over in directory.glob(".*.tmp"):
            left_over.unlink()
        if model is not None:
            writer.replace_file(directory / MODEL_FILE, model)
        work = replace(work, vocabulary=seqio_tasks.with_model(vocabulary, directory))
        units = _units(work, tasks)
        _run(units, tasks, num_workers)
        manifest.write_manifest(
            directory,
            name,
            split,
            _sources(rated, units),
            vocabulary,
            vocabulary_model=model,
            settings=work.chosen,
            most_bad_lines=skip_bad_lines,
        )
    return home


def _units(work: _Work, tasks: Mapping[str, Any]) -> list[_Unit]:
    """All there is to write."""
    units = []
    for name, task in tasks.items():
        count = seqio_tasks.unit_count(task, work.split, work.cache_dir)
        units += [_Unit(work, name, (number, count)) for number in range(count)]
    return units


def _sources(
    rated: Mapping[str, tuple[Any, float]], units: Sequence[_Unit]
) -> list[manifest.Source]:
    """What the manifest says of each task."""
    return [
        manifest.Source(
            name=name,
            rate=rate,
            metrics=seqio_tasks.metric_names(task),
            units=tuple(unit.name for unit in units if unit.task == name),
            about=seqio_tasks.about(task),
        )
        for name, (task, rate) in rated.items()
    ]


def _check_existing(work: _Work, tasks: Mapping[str, Any]) -> None:
    """Refuses prepared data that this command would have made otherwise."""
    directory = work.directory
    there = json.loads((directory / MANIFEST_FILE).read_text())
    then, now = there["vocabulary"]["fingerprint"], work.vocabulary.fingerprint
    if then != now:
        raise UserError(
            f"{directory} was prepared with vocabulary {then[:12]}, the task now "
            f"declares {now[:12]}; prepare into another folder, or again with "
            "--overwrite"
        )
    decides = ["seed", "cache_dir"]
    if any(map(seqio_tasks.takes_lengths, tasks.values())):
        decides.append("lengths")
    old, new = there["settings"], work.chosen
    differing = [
        f"{name} was {old.get(name)}, is {new.get(name)}"
        for name in decides
        if old.get(name) != new.get(name)
    ]
    bad_lines = sum(skipped.get(BAD_LINE, 0) for skipped in there["skipped"].values())
    if bad_lines > work.skip_bad_lines:
        differing.append(
            f"{bad_lines} bad lines were left out, skip_bad_lines is "
            f"{work.skip_bad_lines}"
        )
    if differing:
        raise UserError(
            f"{directory} was prepared with other settings: {'; '.join(differing)}. "
            "Prepare into another folder, or again with --overwrite"
        )


@contextmanager
def _only_one(directory: Path) -> Iterator[None]:
    """Lets a second process wait; the system drops the lock of one that is killed."""
    lock = directory / ".lock"
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run(units: Sequence[_Unit], tasks: Mapping[str, Any], num_workers: int) -> None:
    open_units = [unit for unit in units if not unit.is_done]
    name = f"{units[0].work.mixture}/{units[0].work.split}"
    if old := sum(unit.was_written for unit in open_units):
        print(
            f"{name}: {old} finished units are of other settings or code; they are "
            "made anew",
            file=sys.stderr,
        )
    progress = Progress(name, len(units), len(units) - len(open_units))
    if num_workers <= 1 or len(open_units) <= 1:
        for unit in open_units:
            _write(unit, tasks[unit.task], progress)
            progress.add(0, unit_done=True)
    else:
        _run_in_processes(open_units, num_workers, progress)
    progress.close()


def _run_in_processes(
    units: Sequence[_Unit], num_workers: int, progress: Progress
) -> None:
    with ProcessPoolExecutor(
        min(num_workers, len(units)),
        # A forked TensorFlow can deadlock.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=follow_parent,
        initargs=(os.getpid(),),
    ) as pool:
        running = {pool.submit(_write_in_process, unit) for unit in units}
        try:
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for result in done:
                    progress.add(result.result(), unit_done=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _write_in_process(unit: _Unit) -> int:
    provider = find_provider(unit.work.mixture, unit.work.modules)
    seqio_tasks.start_tensorflow()
    task, _ = seqio_tasks.tasks_of(provider, unit.work.split)[unit.task]
    return _write(unit, task, None)


def _write(unit: _Unit, task: Any, progress: Progress | None) -> int:
    count = 0

    def counted(items: Iterable[writer.Item]) -> Iterator[writer.Item]:
        nonlocal count
        for item in items:
            yield item
            count += 1
            if progress is not None and count % _REPORT_EVERY == 0:
                progress.add(_REPORT_EVERY)

    work = unit.work
    bad_lines = BadLines(work.skip_bad_lines)
    items = seqio_tasks.read_items(
        task,
        work.split,
        work.vocabulary,
        unit.shard,
        work.lengths,
        work.seed,
        bad_lines,
        work.cache_dir,
    )
    writer.write_unit(
        work.directory,
        unit.name,
        counted(items),
        unit.task,
        work.settings,
        bad_lines.messages,
    )
    if progress is not None:
        progress.add(count % _REPORT_EVERY)
    return count
