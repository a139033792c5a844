"""Prepared data opened for a front door: made on first use, and readable by the models."""

from hypert5_jax.config.data import DataConfig
from hypert5_jax.config.evaluate_run import EvaluationData
from hypert5_jax.data.prepared import PreparedMixture
from hypert5_jax.parallel import hosts
from hypert5_jax.parallel.agreement import require_same
from hypert5_jax.preparation.first_use import ensure_prepared


def open_data(
    data: DataConfig | EvaluationData, mixture: str, split: str, rows: int
) -> PreparedMixture:
    """A prepared mixture, made if it is small and absent.

    Args:
      data: says where it lies, which modules register it and how long rows may be.
      mixture, split: which one.
      rows: of the smallest embedding table that reads its ids.

    Raises:
      UserError: it is absent and cannot be made by the way, has more ids, or is not
        the same on all hosts.
    """
    opened = hosts.writer_first(
        lambda: ensure_prepared(
            mixture,
            split,
            data.prepared_dir,
            modules=data.modules,
            lengths=data.row_format.lengths,
        )
    )
    require_same(
        "prepared data",
        {f"the digest of {mixture}, split {split}": opened.digest},
        f"copy {data.prepared_dir} of one host to all of them",
    )
    opened.require_vocabulary(rows=rows)
    return opened
