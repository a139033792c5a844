"""The gate: bodies that dawdle, and connections that end before and after the answer."""

import asyncio

from hypert5_jax.serving.gate import GONE, Gate, Limits

SCOPE = {"type": "http", "path": "/generate", "headers": []}
HEAD = {"type": "http.response.start", "status": 200, "headers": []}
TAIL = {"type": "http.response.body", "body": b"all"}


def run(app, receive, limits=None):
    """(messages sent, what was observed)."""
    sent, seen = [], []

    async def send(message):
        sent.append(message)

    gate = Gate(app, limits or Limits(), lambda *found: seen.append(found[:2]))
    asyncio.run(asyncio.wait_for(gate(dict(SCOPE), receive, send), 5))
    return sent, seen


def receiving(*messages):
    """Yields the messages, then nothing for ever."""
    left = list(messages)

    async def receive():
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    return receive


async def answer(scope, receive, send):
    await send(HEAD)
    await send(TAIL)


def test_a_body_that_dawdles_is_408_and_never_reaches_the_application():
    async def app(scope, receive, send):
        raise AssertionError("called")

    part = {"type": "http.request", "body": b"{", "more_body": True}
    sent, seen = run(app, receiving(part), Limits(body_seconds=0.05))
    assert sent[0]["status"] == 408 and seen == [("/generate", 408)]
    assert (b"connection", b"close") in sent[0]["headers"]


def test_a_caller_that_leaves_within_its_body_costs_nothing():
    async def app(scope, receive, send):
        raise AssertionError("called")

    part = {"type": "http.request", "body": b"{", "more_body": True}
    sent, seen = run(app, receiving(part, {"type": "http.disconnect"}))
    assert sent == [] and seen == [("/generate", GONE)]


def test_the_application_reads_the_body_whole_and_once():
    read = []

    async def app(scope, receive, send):
        read.append(await receive())
        await answer(scope, receive, send)

    parts = [
        {"type": "http.request", "body": b"ab", "more_body": True},
        {"type": "http.request", "body": b"c"},
    ]
    sent, seen = run(app, receiving(*parts))
    assert read == [{"type": "http.request", "body": b"abc", "more_body": False}]
    assert sent == [HEAD, TAIL] and seen == [("/generate", 200)]


def test_a_disconnect_after_the_answer_cancels_nothing():
    """Servers say "disconnect" to whoever receives once a response is complete."""
    finished = []
    answered = asyncio.Event()

    async def app(scope, receive, send):
        await answer(scope, receive, send)
        answered.set()
        await asyncio.sleep(0.05)
        finished.append(True)

    first = receiving({"type": "http.request", "body": b""})

    async def receive():
        if not hasattr(receive, "body_read"):
            receive.body_read = True
            return await first()
        await answered.wait()
        return {"type": "http.disconnect"}

    _, seen = run(app, receive)
    assert finished == [True] and seen == [("/generate", 200)]


def test_a_disconnect_before_the_answer_cancels_the_work():
    cancelled = []

    async def app(scope, receive, send):
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    messages = receiving(
        {"type": "http.request", "body": b""}, {"type": "http.disconnect"}
    )
    sent, seen = run(app, messages)
    assert cancelled == [True] and sent == [] and seen == [("/generate", GONE)]


def test_a_defect_of_the_application_is_its_servers_to_answer():
    async def app(scope, receive, send):
        raise ZeroDivisionError

    try:
        run(app, receiving({"type": "http.request", "body": b""}))
    except ZeroDivisionError:
        return
    raise AssertionError("hidden")
