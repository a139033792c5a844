"""What every request passes before the application sees it: plain ASGI, no framework.

The token, the body's size and time, and the caller's presence: a caller that goes away
has its work cancelled. TLS is a proxy's work.
"""

import asyncio
import contextlib
import hmac
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from hypert5_jax.core.errors import UserError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Liveness, and the page that describes the interface; they tell nothing of the tasks.
OPEN = frozenset({"/healthz", "/docs", "/openapi.json"})
# What proxies write into their logs for a caller that went away; never sent.
GONE = 499


@dataclass(frozen=True)
class Limits:
    """Of one request.

    Attributes:
      body_bytes: most bytes of a body, counted while they arrive.
      body_seconds: how long a body may take to arrive.
      token: what callers must present; None lets everybody in.
    """

    body_bytes: int = 1 << 20
    body_seconds: float = 10.0
    token: str | None = None

    def __post_init__(self) -> None:
        if self.body_bytes < 1 or self.body_seconds <= 0:
            raise UserError("expected body_bytes and body_seconds above 0")
        if self.token is not None and not self.token.strip():
            raise UserError("the bearer token is empty; set one, or none at all")


class Refused(Exception):
    """Answered without the application."""

    def __init__(self, status: int, detail: str, *headers: tuple[bytes, bytes]):
        super().__init__(detail)
        self.status, self.headers = status, headers


class Gate:
    """ASGI around ASGI.

    Args:
      app: what is behind.
      limits: of a request.
      observe: told (path, status, seconds) of every request.
    """

    def __init__(
        self, app: App, limits: Limits, observe: Callable[[str, int, float], None]
    ):
        self._app, self._limits, self._observe = app, limits, observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection scope."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, response = time.monotonic(), _Response(send)
        try:
            self._check_token(scope)
            body = await self._body(scope, receive)
            if body is None or not await self._stays(scope, receive, response, body):
                response.status = GONE
        except Refused as refusal:
            await _answer(refusal, response.send)
        finally:
            seconds = time.monotonic() - begun
            self._observe(scope["path"], response.status, seconds)

    def _check_token(self, scope: Scope) -> None:
        token = self._limits.token
        if token is None or scope["path"] in OPEN:
            return
        given = [v for k, v in scope["headers"] if k == b"authorization"]
        scheme, _, presented = (given[0] if given else b"").partition(b" ")
        right = hmac.compare_digest(presented.strip(), token.strip().encode())
        if len(given) != 1 or scheme.lower() != b"bearer" or not right:
            raise Refused(
                401,
                "expected the header `Authorization: Bearer TOKEN` with this server's "
                "token",
                (b"www-authenticate", b"Bearer"),
            )

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body, or None if the caller went away before its end."""
        most = self._limits.body_bytes
        too_large = Refused(
            413, f"the body has more than {most} bytes: send less at a time"
        )
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > most:
                raise too_large
        parts, size = [], 0
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > most:
                        raise too_large
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            seconds = self._limits.body_seconds
            raise Refused(408, f"the body took more than {seconds:g} s") from None

    async def _stays(
        self, scope: Scope, receive: Receive, response: "_Response", body: bytes
    ) -> bool:
        """Runs the application while the caller is there; whether it stayed."""
        handed = False
        left = asyncio.Event()

        async def replay() -> MutableMapping[str, Any]:
            nonlocal handed
            if not handed:
                handed = True
                return {"type": "http.request", "body": body, "more_body": False}
            await left.wait()
            return {"type": "http.disconnect"}

        async def absence() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        work = asyncio.ensure_future(self._app(scope, replay, response.send))
        away = asyncio.ensure_future(absence())
        try:
            await asyncio.wait({work, away}, return_when=asyncio.FIRST_COMPLETED)
            # Servers also say "disconnect" once a response is complete.
            if not work.done() and not response.complete:
                return False
            await work
            return True
        finally:
            left.set()
            for task in (work, away):
                task.cancel()
            # Their own errors were raised above, or are those of being cancelled.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(work, away, return_exceptions=True)


class _Response:
    """Passes a response on and remembers how far it came."""

    def __init__(self, send: Send):
        self._send = send
        self.status, self.complete = 500, False

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body":
            self.complete = not message.get("more_body", False)
        await self._send(message)


async def _answer(refusal: Refused, send: Send) -> None:
    body = json.dumps({"detail": str(refusal)}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        # The rest of a body that was not read must not be taken for a request.
        (b"connection", b"close"),
        *refusal.headers,
    ]
    await send(
        {
            "type": "http.response.start",
            "status": refusal.status,
            "headers": headers,
        }
    )
    await send({"type": "http.response.body", "body": body})
