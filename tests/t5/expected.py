"""What is kept of Hugging Face's numbers, so that they judge us also without torch.

Of each array: its norm, its largest entry with its place, and entries at places that
follow from the array's name. python -m tests.t5.expected (with the extra `parity`)
writes tests/goldens/t5_parity_*.json anew.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.t5 import hf_weights, huggingface, parity

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"
LOGITS_KEPT = 256
ENTRIES_KEPT = 16


def golden(case: str) -> Path:
    """The file of a case of `parity.CASES`."""
    return GOLDENS / f"t5_parity_{case}.json"


def places(name: str, size: int, count: int) -> np.ndarray:
    """`count` flat indices into the array `name` of `size` entries."""
    unit = hf_weights.noise(f"places of {name}", (count,)) / 12**0.5 + 0.5
    return np.minimum((unit * size).astype(np.int64), size - 1)


def digest(name: str, x: np.ndarray, count: int) -> dict[str, Any]:
    """What is kept of the float32 array x."""
    flat = x.reshape(-1)
    largest = int(np.argmax(np.abs(flat)))
    entries = flat[places(name, flat.size, count)]

    def short(value: float) -> float:
        return float(f"{value:.8g}")  # one digit more than float32 holds

    return {
        "norm": short(np.linalg.norm(flat.astype(np.float64))),
        "largest_at": largest,
        "largest": short(flat[largest]),
        "entries": [short(value) for value in entries],
    }


def digest_difference(name: str, x: np.ndarray, kept: dict[str, Any]) -> float:
    """The largest difference of x from a digest, relative to the largest entry."""
    flat = x.reshape(-1)
    entries = flat[places(name, flat.size, len(kept["entries"]))]
    difference = np.max(np.abs(entries - np.asarray(kept["entries"])))
    difference = max(difference, abs(flat[kept["largest_at"]] - kept["largest"]))
    norm = np.linalg.norm(flat.astype(np.float64))
    return max(
        float(difference) / abs(kept["largest"]),
        abs(norm - kept["norm"]) / kept["norm"],
    )


def main() -> None:
    """Runs every case through Hugging Face's T5 and writes the goldens."""
    for name, case in parity.CASES.items():
        weights = hf_weights.random_hf_weights(case.config)
        with tempfile.TemporaryDirectory() as folder:
            model = huggingface.load(case.config, weights, Path(folder))
        outcome = huggingface.theirs(case, model)
        kept = {
            "loss": float(f"{outcome.loss:.8g}"),
            "logits": digest("logits", outcome.logits, LOGITS_KEPT),
            "gradients": {
                path: digest(path, x, ENTRIES_KEPT)
                for path, x in sorted(outcome.gradients.items())
            },
        }
        lines = ",\n".join(
            f"  {json.dumps(path)}: {json.dumps(x)}"
            for path, x in kept["gradients"].items()
        )
        golden(name).write_text(
            f'{{"loss": {json.dumps(kept["loss"])},\n'
            f'"logits": {json.dumps(kept["logits"])},\n'
            f'"gradients": {{\n{lines}\n}}}}\n'
        )
        print(f"{golden(name).name}: loss {outcome.loss}")


if __name__ == "__main__":
    main()
