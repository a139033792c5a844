"""Prepared data for the front doors: opened if there, made if small and absent.

Imports seqio, and with it TensorFlow, only where something has to be prepared.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from hypert5_jax.core.errors import UserError
from hypert5_jax.data.prepared import MANIFEST_FILE, PreparedMixture, open_mixture
from hypert5_jax.preparation.mixture import prepare_mixture
from hypert5_jax.preparation.modules import find_provider

_SMALL = 200_000  # examples


def ensure_prepared(
    name: str,
    split: str,
    output_dir: str | Path,
    modules: Sequence[str] = (),
    num_workers: int = 1,
    lengths: Mapping[str, int] | None = None,
    most_examples: int = _SMALL,
) -> PreparedMixture:
    """Opens `{output_dir}/{name}/{split}`, preparing a small mixture on first use.

    Args:
      name: of a seqio task or mixture.
      split: the split to read.
      output_dir: above the folders of all mixtures.
      modules: what to import so that the name is registered.
      num_workers: processes, if it must be prepared.
      lengths: for preprocessors that want a `sequence_length`.
      most_examples: a mixture with more is not prepared by the way.

    Raises:
      UserError: as prepare_mixture; or the mixture is large and not prepared; or
        seqio is not installed.
    """
    home = Path(output_dir) / name
    if not (home / split / MANIFEST_FILE).exists():
        provider = find_provider(name, modules)
        _require_small(provider, split, name, most_examples, Path(output_dir))
        prepare_mixture(name, split, output_dir, modules, num_workers, lengths=lengths)
    return open_mixture(home, split)


def _require_small(
    provider: object, split: str, name: str, most: int, output_dir: Path
) -> None:
    try:
        count = provider.num_input_examples(split) or 0  # type: ignore[attr-defined]
    except (TypeError, ValueError, KeyError, AttributeError, NotImplementedError):
        return  # unknown
    if count > most:
        raise UserError(
            f"{name!r} has {count:,} examples, too many to prepare by the way; run: "
            f"python -m hypert5_jax.prepare --mixture={name} --split={split} "
            f"--output_dir={output_dir}"
        )
