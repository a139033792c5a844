"""Prints the constraints file made for the Python that runs this.

The last jax and flax for Python 3.11 differ from those for 3.12 and later.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    name = "py311" if sys.version_info < (3, 12) else "py312"
    print(Path(__file__).parent / f"constraints-{name}.txt")
