"""gs:// paths, against a server on loopback that answers as Google's storage does."""

import contextlib
import http.server
import json
import os
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path

from tests.checkpoints.written_by_hand import OURS, t5x_directory

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
import numpy as np
from hypert5_jax.checkpoints.any_t5 import load_any_t5
from hypert5_jax.core import trees
from hypert5_jax.core.errors import UserError
for path in sys.argv[1:]:
    try:
        flat = trees.flatten(load_any_t5(path)[0])
        print(len(flat), float(sum(np.abs(x).sum(dtype=np.float64) for x in flat.values())))
    except UserError as error:
        print("error:", error)
"""


@contextlib.contextmanager
def bucket(folder: Path):
    """The address of a server that has the files below `folder` in every bucket."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path = urllib.parse.urlparse(self.path).path
            name = urllib.parse.unquote(path.partition("/o/")[2])
            file = folder / name
            found = "/o/" in path and file.is_file()
            content = file.read_bytes() if found else b"{}"
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("x-goog-generation", "1")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def loads(address: str, *paths: str) -> list[str]:
    """What loading each path said, in a process whose storage lies at `address`."""
    env = {
        **os.environ,
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
        "NO_PROXY": "127.0.0.1",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *paths],
        check=True,
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout.splitlines()


def test_a_checkpoint_in_a_bucket_is_read_and_half_a_one_refused(tmp_path):
    t5x_directory(tmp_path / "models/checkpoint_1")
    whole = tmp_path / "pretrained_models/t5x/t5_1_1_small/checkpoint_1000000"
    t5x_directory(whole)
    broken = t5x_directory(tmp_path / "broken")
    next(broken.glob("target.decoder.logits*/0.0")).unlink()
    with bucket(tmp_path) as address:
        said = loads(
            address,
            "gs://bucket/models/checkpoint_1",
            "t5_1_1_small",
            "gs://bucket/broken",
        )
    total = float(sum(abs(x.astype("float64")).sum() for x in OURS.values()))
    for line in said[:2]:
        count, here = json.loads(f"[{line.replace(' ', ',')}]")
        assert count == len(OURS) and abs(here - total) < 1e-6 * total
    assert "logits_dense.kernel is not whole" in said[2]


def test_a_bucket_out_of_reach_is_one_message():
    (line,) = loads("http://127.0.0.1:9", "t5_1_1_lm100k_xl")
    assert line.startswith("error: cannot read gs://t5-data/pretrained_models/t5x/")
    assert "copy it" in line
