"""A server in a process of its own, and callers that speak HTTP by themselves."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TOKEN = "only for this test"


class Server:
    """`python -m hypert5_jax.serve` on a free port of this machine.

    Attributes:
      process: to be signalled.
      port: where it listens.
      said: what it printed until it listened.
    """

    def __init__(self, *arguments: str, env: Mapping[str, str] | None = None):
        command = [sys.executable, "-m", "hypert5_jax.serve", "--port=0", *arguments]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "HYPERT5_TOKEN": TOKEN}
            | dict(env or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        self.said = ""
        for line in self.process.stdout:
            self.said += line
            if line.startswith("serving http://"):
                self.port = int(line.rpartition(":")[2])
                return
        raise AssertionError(f"the server ended: {self.said}")

    def end(self) -> tuple[int, str]:
        """SIGTERM; (exit code, what it printed since it listened)."""
        self.process.terminate()
        said, _ = self.process.communicate(timeout=60)
        return self.process.returncode, said


@contextlib.contextmanager
def serving(*arguments: str) -> Iterator[Server]:
    """A server that is killed at the end if it has not ended."""
    server = Server(*arguments)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.communicate()


class Caller:
    """One connection that is kept alive, and opened anew after leaving."""

    def __init__(self, port: int, token: str = TOKEN):
        self._port, self._token = port, token
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(
        self, method: str, path: str, body: Any = None
    ) -> tuple[int, Any, Mapping[str, str]]:
        """(status, what the answer says, its headers in lower case)."""
        reader, writer = await self._open()
        writer.write(self._request(method, path, body))
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        pairs = (line.split(": ", 1) for line in head[1:] if line)
        headers = {name.lower(): value for name, value in pairs}
        text = await reader.readexactly(int(headers.get("content-length", 0)))
        if headers.get("connection") == "close":
            self.leave()
        json_said = headers.get("content-type", "").startswith("application/json")
        said = json.loads(text) if json_said else text.decode()
        return int(head[0].split()[1]), said, headers

    async def ask_and_leave(
        self, method: str, path: str, body: Any, part: float, seconds: float
    ) -> None:
        """Sends a part of a request, waits, and is gone."""
        _, writer = await self._open()
        request = self._request(method, path, body)
        writer.write(request[: max(1, int(part * len(request)))])
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        await asyncio.sleep(seconds)
        self.leave()

    def leave(self) -> None:
        """Cuts the connection."""
        if self._streams is not None:
            self._streams[1].transport.abort()
        self._streams = None

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        return self._streams

    def _request(self, method: str, path: str, body: Any) -> bytes:
        content = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: here\r\n"
            f"Authorization: Bearer {self._token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        return head.encode() + content
