"""Which prepared rows a run trains on, and the stream of batches they make."""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from hypert5_jax.core.batch import Batch
from hypert5_jax.core.errors import UserError
from hypert5_jax.core.field_types import as_tuple
from hypert5_jax.data import stream
from hypert5_jax.data.prepared import PreparedMixture
from hypert5_jax.data.rows import RowFormat
from hypert5_jax.data.sampler import Sampler
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.parallel.global_arrays import Share


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The data of a run.

    Attributes:
      mixture: name of a seqio task or mixture.
      batch_size: target examples of the global batch.
      row_format: what a row holds and how long it may be.
      split: of the mixture.
      prepared_dir: folder of prepared data; what is missing there is prepared first.
      modules: Python modules that register the mixture when imported, such as
        "tasks.sni"; only imported if something has to be prepared.
      num_workers: processes that make batches ahead; 0 uses threads.
    """

    mixture: str
    batch_size: int
    row_format: RowFormat
    split: str = "train"
    prepared_dir: str = "prepared"
    modules: tuple[str, ...] = ()
    num_workers: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "modules", as_tuple(self.modules))
        per_context = self.row_format.targets_per_context
        if self.batch_size < 1 or self.batch_size % per_context:
            raise UserError(
                f"batch_size is {self.batch_size}; expected a positive multiple of "
                f"targets_per_context = {per_context}"
            )

    @property
    def contexts(self) -> int:
        """Contexts of the global batch."""
        return self.batch_size // self.row_format.targets_per_context

    def stream_identity(self, mixture: PreparedMixture) -> dict[str, str | int]:
        """What the stream of batches depends on, beside seed and step."""
        return {
            "prepared data": mixture.digest,
            "batch size": self.batch_size,
            "targets per context": self.row_format.targets_per_context,
            "too_few": self.row_format.too_few,
        }

    def batch_shapes(self) -> Batch:
        """The global batch as ShapeDtypeStructs."""
        row, rows = self.row_format, self.batch_size

        def zeros() -> Batch:
            return Batch(
                jnp.zeros((self.contexts, row.hyper_length), jnp.int32),
                jnp.zeros((rows, row.input_length), jnp.int32),
                jnp.zeros((rows, row.target_length), jnp.int32),
                jnp.zeros((rows, row.target_length), jnp.float32),
            )

        return jax.eval_shape(zeros)


def check_context(variant: Variant, row: RowFormat) -> None:
    """Refuses rows whose context goes elsewhere than the variant reads it.

    Raises:
      UserError: naming both.
    """
    if variant.context != row.context:
        raise UserError(
            f"the variant's context is {variant.context!r}, the rows' is "
            f"{row.context!r}; set Variant.context and RowFormat.context alike (the "
            "variants' gin files do, by the macro CONTEXT)"
        )


def batches_from(
    mixture: PreparedMixture,
    config: DataConfig,
    seed: int,
    start_step: int,
    share: Share = Share(),  # noqa: B008 (frozen)
) -> Iterator[Batch]:
    """A share, by default the whole, of the global batches from `start_step` on."""
    return stream.batches(
        mixture,
        config.row_format,
        config.batch_size,
        seed,
        start_step=start_step,
        parts=share.parts,
        ways=share.ways,
        num_workers=config.num_workers,
    )


def name_batch(
    mixture: PreparedMixture, config: DataConfig, seed: int, step: int
) -> str:
    """Which rows the batch of a step was made of, and the command that shows them.

    Args:
      mixture: opened.
      config: of the run.
      seed: of the run.
      step: from 1.
    """
    row, count = config.row_format, config.contexts
    first = (step - 1) * count
    sampler = Sampler(mixture, row, seed)
    drawn = sampler.draw(np.arange(first, first + count)).tasks
    tasks = dict.fromkeys(sampler.tasks[number].name for number in drawn.tolist())
    given = {
        "mixture": mixture.name,
        "split": mixture.split,
        "output_dir": config.prepared_dir,
        "seed": seed,
        "start_step": first,
        "context": row.context,
        "max_shots": row.max_shots,
        "targets_per_context": row.targets_per_context,
        "hyper_length": row.context_length,
        "input_length": row.lengths["inputs"],
        "target_length": row.target_length,
    }
    flags = " ".join(f"--{name}={value}" for name, value in given.items())
    return (
        f"contexts {first} to {first + count - 1} of the stream, of the tasks "
        f"{', '.join(list(tasks)[:8])}{' …' if len(tasks) > 8 else ''}; "
        f"python -m hypert5_jax.show {flags} -n {count}"
    )
