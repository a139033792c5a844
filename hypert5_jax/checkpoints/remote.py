"""Arrays of tensorstore and files of buckets, and errors of theirs that users can mend."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from hypert5_jax.checkpoints.lazy import FLOATS, Lazy, Opener, opener
from hypert5_jax.core.errors import UserError

GS = "gs://"
# tensorstore's own default waits for minutes on a machine that has no network.
_RETRIES = {
    "gcs_request_retries": {
        "max_retries": 3,
        "initial_delay": "300ms",
        "max_delay": "2s",
    }
}


def kvstore(path: str) -> dict[str, Any]:
    """Where `path` lies, in tensorstore's words."""
    if path.startswith(GS):
        bucket, _, inside = path.removeprefix(GS).partition("/")
        return {"driver": "gcs", "bucket": bucket, "path": inside, "context": _RETRIES}
    return {"driver": "file", "path": path}


def opener_of(path: str) -> Opener | None:
    """How to open a file; of a bucket's, a copy of its bytes. None: there is none.

    Raises:
      UserError: the bucket cannot be reached.
    """
    if not path.startswith(GS):
        return opener(Path(path)) if Path(path).is_file() else None
    content = _value(path)
    return None if content is None else (lambda: io.BytesIO(content))


def _value(path: str) -> bytes | None:
    folder, _, name = path.rpartition("/")
    try:
        store = ts.KvStore.open(kvstore(folder + "/")).result()
        result = store.read(name).result()
    except (ValueError, OSError, RuntimeError) as error:
        raise _unreachable(path, error) from error
    return bytes(result.value) if result.state == "value" else None


def zarr(store: dict[str, Any], place: str) -> Lazy:
    """A zarr array; a chunk that is missing is an error, not zeros.

    Args:
      store: tensorstore's kvstore.
      place: for messages.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    context = store.pop("context", {})
    spec = {
        "driver": "zarr",
        "kvstore": store,
        "fill_missing_data_reads": False,
        "context": context,
    }
    try:
        array = ts.open(spec, open=True, read=True).result()
    except (ValueError, OSError, RuntimeError) as error:
        if place.startswith(GS) and "NOT_FOUND" not in str(error):
            raise _unreachable(place, error) from error
        raise UserError(
            f"the array {place} cannot be opened: {short(error)}"
        ) from error

    def read() -> np.ndarray:
        try:
            return np.asarray(array.read().result())
        except (ValueError, OSError, RuntimeError) as error:
            raise UserError(
                f"the array {place} is not whole: {short(error)}. Copy the checkpoint "
                "once more"
            ) from error

    name = array.dtype.name
    dtype = FLOATS[name] if name in FLOATS else np.dtype(name)
    return Lazy(tuple(array.shape), dtype, read)


def _unreachable(path: str, error: Exception) -> UserError:
    return UserError(
        f"cannot read {path}: {short(error)}. Give this machine access to it, or copy "
        "it (gcloud storage cp -r) and name the copy"
    )


def short(error: Exception) -> str:
    """What tensorstore says, without its own specification and source lines."""
    text = (str(error) or repr(error)).splitlines()[0]
    return re.split(r" \[(?:tensorstore_spec|source|os_error)", text)[0][:300]
