"""python -m hypert5_jax.quickstart --gin_file=gin/quickstart.gin : the paper, small.

A tiny T5 is pretrained on generated text and frozen; a hypermodel is hyperpretrained
with CACLM, then tuned on many tasks; held-out tasks are judged by where their φ comes
from. `--seeds=0,1,2` trains once per seed. Finished stages are not made again.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

from hypert5_jax.adapting import description
from hypert5_jax.adapting.description import Description
from hypert5_jax.checkpoints.store import steps_in
from hypert5_jax.checkpoints.whole_files import write_whole
from hypert5_jax.config import cli, gin_files, registry
from hypert5_jax.config.quickstart_cases import Data, numbered_tasks
from hypert5_jax.config.quickstart_judgement import judge_documents, judge_tasks
from hypert5_jax.config.quickstart_run import QuickstartRun, Stage
from hypert5_jax.core import trees
from hypert5_jax.core.batch import Batch
from hypert5_jax.core.errors import UserError
from hypert5_jax.data import stream
from hypert5_jax.data.contexts import evaluation_rows
from hypert5_jax.data.prepared import PreparedMixture
from hypert5_jax.data.rows import to_arrays
from hypert5_jax.data.vocabulary import Vocabulary
from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.parallel import hosts
from hypert5_jax.phi.types import Phi
from hypert5_jax.preparation.first_use import ensure_prepared
from hypert5_jax.preparation.quickstart import corpus, vocabulary
from hypert5_jax.reporting.quickstart_report import markdown, write_report
from hypert5_jax.reporting.writers import JsonlWriter
from hypert5_jax.training.initial import InitialConfig, initial_params
from hypert5_jax.training.interruption import Interruption
from hypert5_jax.training.loop import train
from hypert5_jax.training.state import InitialParams, random_params


class Clock:
    """Prints what begins and keeps how long each part took, in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, work: Callable[[], Any]) -> Any:
        print(f"\n== {name}", flush=True)
        start = time.monotonic()
        result = work()
        self.seconds[name] = round(time.monotonic() - start, 1)
        return result


def main(argv: Sequence[str]) -> int:
    """Runs the front door; raises what config.cli turns into messages."""
    started = time.monotonic()
    # 1. configuration
    registry.add(Stage)
    registry.add(QuickstartRun)
    arguments = gin_files.read_arguments(
        "hypert5_jax.quickstart", __doc__, [_seeds_binding(arg) for arg in argv]
    )
    run, config_text = gin_files.build(QuickstartRun, arguments)
    hosts.require_alone(arguments.hosts, "the quickstart")
    if arguments.dry_run:
        print(config_text)
        return 0
    home = Path(run.output_dir)
    clock = Clock()

    # 2. text, vocabulary and prepared files, the same for every seed
    data = clock("generate and prepare the data", lambda: prepare(run, home))

    # 3. training and evaluation, once per seed
    tables = []
    with Interruption() as interruption:
        for seed in run.seeds:
            place = home / f"seed_{seed}"
            table = run_seed(run, data, place, seed, clock, interruption)
            if table is None:
                print("stopped; the same command continues from there")
                return 0
            tables.append(table)

    # 4. the table of all seeds
    about = {
        "seeds": list(run.seeds),
        "seconds": clock.seconds,
        "total_seconds": round(time.monotonic() - started, 1),
    }
    write_report(home, tables, about)
    print(f"\n{markdown(tables)}")
    print(f"{about['total_seconds']:.0f} s; table and figure: {home}/table.md, .png")
    return 0


def _seeds_binding(argument: str) -> str:
    """`--seeds=0,1` as the binding of the gin setting it stands for."""
    name, _, value = argument.partition("=")
    if name != "--seeds":
        return argument
    return f"--gin.QuickstartRun.seeds=({value.rstrip(',')},)"


def prepare(run: QuickstartRun, home: Path) -> Data:
    """Trains the vocabulary and prepares all data sets, where they are not there yet."""
    place = home / f"data-{corpus.fingerprint()}"
    model = place / "vocabulary.model"
    if not model.exists():
        vocabulary.train_vocabulary(model)
    os.environ[vocabulary.VARIABLE] = str(model.resolve())
    names = ("first", "pretrain", "caclm", *corpus.GROUPS)
    mixtures = {
        (name, split): ensure_prepared(
            f"quickstart_{name}", split, place, modules=("tasks.quickstart",)
        )
        for name in names
        for split in ("train", "test")
    }
    for mixture in mixtures.values():
        mixture.require_vocabulary(rows=run.model.vocab_size)
    return Data(mixtures)


def run_seed(
    run: QuickstartRun,
    data: Data,
    home: Path,
    seed: int,
    clock: Clock,
    interruption: Interruption,
) -> dict | None:
    """All stages of one seed; its table, or None if SIGTERM stopped it."""
    # The base: a T5 that has read text, frozen from here on.
    base_system = System(
        run.model, Variant("none", "none", trainable=("downstream",), context="none")
    )

    def fresh() -> InitialParams:
        return initial_params(
            base_system,
            InitialConfig(allow_random=True, neighbour_bias=run.neighbour_bias),
            seed,
        )

    def stage(name: str, system: System, settings: Stage, mixture: str, begin) -> Any:
        params = clock(
            f"seed {seed}: {name}, {settings.steps} steps",
            lambda: train_stage(
                system,
                settings,
                data[mixture, "train"],
                begin,
                home / name,
                seed,
                notes=f"neighbour_bias={run.neighbour_bias}",
            ),
        )
        # SIGTERM may have come after the last step, as while that one was saved.
        return None if interruption.asked() else params

    first = stage("first", base_system, run.first, "first", fresh)
    if first is None:
        return None
    begin = InitialParams(first, {"downstream": "first"})
    base = stage("base", base_system, run.pretrain, "pretrain", begin)
    if base is None:
        return None

    # The hypermodel: starts as the base, first on documents, then on tasks.
    system = System(run.model, Variant(prefix=run.prefix, head=run.head))
    words = data["train", "train"].vocabulary
    begin = around_base(system, base, words, seed, str((home / "base").resolve()))
    read = stage("hyperpretrain", system, run.hyperpretrain, "caclm", begin)
    if read is None:
        return None
    documents = judge_documents(run, system, read, data)
    begin = InitialParams(
        {**begin.params, "hypermodel": read["hypermodel"]},
        {**begin.origins, "hypermodel": "hyperpretraining"},
    )
    tuned = stage("tune", system, run.tune, "train", begin)
    if tuned is None:
        return None

    # The judgement: same targets, same frozen T5, φ from different places.
    learned = clock(
        f"seed {seed}: learn φ per task (ceiling)",
        lambda: learn_phi(run, tuned, data, home, seed),
    )
    if learned is None or interruption.asked():
        return None
    table = clock(
        f"seed {seed}: evaluate",
        lambda: {
            "documents": documents,
            **judge_tasks(run, system, tuned, data, learned),
        },
    )
    write_report(home, [table], {"seeds": [seed], "seconds": clock.seconds})
    return table


def train_stage(
    system: System,
    settings: Stage,
    mixture: PreparedMixture,
    begin: Any,
    directory: Path,
    seed: int,
    notes: str | None = None,
) -> dict[str, Any] | None:
    """Trains (or finds trained) one stage; all groups' parameters, None if stopped."""
    row = settings.row_format(system.variant.context)
    start = [] if notes is None else [notes]
    kept = [repr(system), repr(settings), mixture.vocabulary.fingerprint, *start]
    remember(directory, kept)
    config = settings.train_config(seed)
    described = Description(system, row, mixture.vocabulary, config.frozen_dtype)
    description.write(epath.Path(directory), described)
    result = train(
        system,
        config,
        lambda step: stream.batches(
            mixture, row, settings.batch_size, seed, start_step=step
        ),
        begin,
        directory=str(directory),
        writers=[JsonlWriter(directory / "metrics.jsonl")],
        vocabulary=mixture.vocabulary.fingerprint,
        label=directory.name,
    )
    return None if result.stopped else dict(result.params)


def remember(directory: Path, settings: list[str]) -> None:
    """Notes what a stage is trained with, so that another is not taken for it.

    Raises:
      UserError: the folder holds checkpoints of a stage of other settings.
    """
    digest = hashlib.sha256("\n".join(settings).encode()).hexdigest()[:16]
    note = directory / "settings.json"
    trained = bool(steps_in(directory)) and note.exists()
    if trained and json.loads(note.read_text())["digest"] != digest:
        raise UserError(
            f"{directory} was trained with other settings; give --gin.OUTPUT_DIR "
            "another folder, or remove this one"
        )
    text = json.dumps({"digest": digest, "settings": settings}, indent=1)
    write_whole(epath.Path(note), text)


def around_base(
    system: System, base: dict[str, Any], words: Vocabulary, seed: int, origin: str
) -> InitialParams:
    """A system whose T5 is the base, which came from `origin`.

    The marker <x>, which the base never met, starts as the full stop that stands where
    it stands: "my cat ZUMA . the dog" and "<x> my cat <y> ZUMA <x> the dog".
    """
    params = dict(
        jax.jit(system.init_from_t5)(jax.random.key(seed), base["downstream"])
    )
    flat = trees.flatten(params["hypermodel"])
    table = flat["token_embedder/embedding"]
    table = table.at[words.x_id].set(table[words.encode(".")[-1]])
    flat["token_embedder/embedding"] = table
    params["hypermodel"] = trees.unflatten(flat)
    return InitialParams(params, {group: origin for group in params})


def learn_phi(
    run: QuickstartRun, params: dict[str, Any], data: Data, home: Path, seed: int
) -> Phi | None:
    """One φ per case learned by gradient on its task's training examples, all at once.

    The label words of a case are those of its contexts. None if SIGTERM stopped it.
    """
    settings = run.learn
    row = settings.row_format("none")
    examples = []
    for group, task, draw in numbered_tasks(run, data):
        mixture = data[group, "train"]
        rows = evaluation_rows(
            mixture, task, settings.row_format("hypermodel"), draw, "empty"
        )
        examples.append((rows.inputs, rows.targets))
    variant = Variant(
        source="learned",
        trainable=("phi",),
        context="none",
        prefix=run.prefix,
        learned_batch=len(examples),
        learned_init_std=0.5,
    )
    system = System(run.model, variant)

    def batches(start: int) -> Iterator[Batch]:
        step = start
        while True:
            rng = np.random.default_rng([seed, step])
            inputs, targets = [], []
            for sources, answers in examples:
                for i in rng.integers(len(sources), size=settings.batch_size):
                    inputs.append(sources[i])
                    targets.append(answers[i])
            contexts: list[list[int]] = [[] for _ in inputs]
            yield Batch(*to_arrays(contexts, inputs, targets, row))
            step += 1

    def fresh() -> InitialParams:
        begin = random_params(system, seed)
        origins = {**begin.origins, "downstream": "base"}
        return InitialParams(
            {**begin.params, "downstream": params["downstream"]}, origins
        )

    place = home / "learned_phi"
    remember(place, [repr(system), repr(settings)])
    result = train(
        system,
        settings.train_config(seed),
        batches,
        fresh,
        directory=str(place),
        label="learned_phi",
    )
    if result.stopped:
        return None
    phi = system.make_phi(dict(result.params), np.zeros((1, 0), np.int32))
    return jax.device_get(phi)


if __name__ == "__main__":
    cli.run(main)
