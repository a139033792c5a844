"""python -m hypert5_jax.serve --checkpoint=DIR --bank=DIR: many tasks, one address.

    POST /adapt      examples of a task -> φ, stored in the bank under a name
    POST /generate   inputs of a task -> answers
    GET  /tasks, DELETE /tasks/NAME, /healthz, /metrics, /docs

Inputs of all callers and tasks are decoded together. HYPERT5_TOKEN in the environment is
the bearer token that callers present; without one, only this machine is served. TLS is
left to a proxy. SIGTERM finishes what runs, then ends. See docs/serve.md.
"""

import argparse
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

from hypert5_jax.config import cli
from hypert5_jax.core.errors import UserError

TOKEN = "HYPERT5_TOKEN"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def main(argv: Sequence[str]) -> None:
    """Runs the front door.

    Raises:
      UserError: a mistake of the user's.
    """
    args = _parser().parse_args(argv)
    token = os.environ.get(TOKEN)
    if token is None and args.host not in _LOOPBACK:
        raise UserError(
            f"--host={args.host} lets other machines in, and {TOKEN} is not set: set it "
            "in the environment, or serve 127.0.0.1 alone"
        )
    place = _bound(args.host, args.port)
    # Nothing runs yet that would have to be finished.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn, create = _web()
    # After the checks: these import JAX.
    from hypert5_jax.adapting.model import Model
    from hypert5_jax.serving.engine import Sizes
    from hypert5_jax.serving.gate import Limits
    from hypert5_jax.serving.service import Patience, Service

    limits = Limits(args.max_body_bytes, token=token)
    sizes = Sizes(args.batch_size, args.adapt_batch_size, args.seats, args.max_tokens)
    patience = Patience(args.max_wait_ms / 1e3, args.timeout_seconds, args.max_queue)
    model = Model.load(args.checkpoint, base=args.base)
    service = Service(model, args.bank, sizes, patience)
    begun = time.monotonic()
    shapes = service.engine.warm_up(lambda line: print(f"compiling {line}", flush=True))
    print(
        f"compiled {shapes} shapes in {time.monotonic() - begun:.0f} s; "
        f"{len(service.bank.names())} tasks in {service.bank.folder}",
        flush=True,
    )
    # What is here now stays: a collection that walks all of it stops every caller.
    gc.collect()
    gc.freeze()
    config = uvicorn.Config(
        create(service, limits),
        log_level="warning",
        # Connections, each with a body in memory.
        limit_concurrency=1024,
        # A little more than any request may wait.
        timeout_graceful_shutdown=int(args.timeout_seconds) + 5,
    )
    _serve(uvicorn, config, place)
    print("done: all requests were answered", flush=True)


def _bound(host: str, port: int) -> socket.socket:
    """The address, taken but not listened to: whoever calls early is refused.

    Raises:
      UserError: it cannot be had.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        place = socket.socket(family, kind)
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind(address)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"cannot serve {host}:{port}: {error}; choose another --host or --port"
        ) from error
    return place


def _serve(uvicorn: Any, config: Any, place: socket.socket) -> None:
    """Serves until SIGTERM or SIGINT."""

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            host, port = place.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            print(f"serving http://{shown}:{port}", flush=True)

    # uvicorn raises the signal that stopped it once more when all is done.
    signal.signal(signal.SIGTERM, lambda *_: None)
    Server(config).run(sockets=[place])


def _web() -> tuple[Any, Any]:
    """(uvicorn, serving.app.create)."""
    try:
        import uvicorn

        from hypert5_jax.serving.app import create
    except ModuleNotFoundError as error:
        if error.name in ("fastapi", "prometheus_client", "pydantic", "uvicorn"):
            raise UserError(
                f"serving needs the package {error.name}, which is not installed: "
                "install this package's extra `serve`, pip install 'hypert5-jax[serve]'"
            ) from error
        raise
    return uvicorn, create


def _parser() -> argparse.ArgumentParser:
    parser = cli.command_line("serve", __doc__)
    cli.add_model(parser)
    add = parser.add_argument
    add(
        "--bank",
        required=True,
        metavar="DIR",
        help="folder of φ files; made if missing",
    )
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=8000, help="0 takes any free one")
    add("--batch_size", type=int, default=16, help="most inputs decoded together")
    add("--adapt_batch_size", type=int, default=4, help="most contexts read together")
    add("--seats", type=int, default=64, help="φ held on the device")
    add("--max_tokens", type=int, help="most of an answer; as in training by default")
    add("--max_wait_ms", type=float, default=1.0, help="for others to fill a batch")
    add("--max_queue", type=int, default=256, help="inputs that may wait; then 429")
    add("--timeout_seconds", type=float, default=60.0, help="for an answer; then 504")
    add("--max_body_bytes", type=int, default=1 << 20, help="of a request; then 413")
    return parser


if __name__ == "__main__":
    cli.run(main)
