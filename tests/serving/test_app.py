"""The HTTP front answers as the library does, whoever else asks."""

import asyncio
import json
import random
import threading

import httpx
import pytest
from fastapi.testclient import TestClient

from hypert5_jax.core.errors import UserError
from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.phi.spec import PrefixSpec
from hypert5_jax.phi.task_phi import TaskPhi
from hypert5_jax.serving import engine
from hypert5_jax.serving.app import create
from hypert5_jax.serving.gate import Limits
from hypert5_jax.serving.service import Patience, Service
from hypert5_jax.t5.network import T5
from tests.serving import world
from tests.serving.world import SIZES


def adapted(client, name, task, **more):
    body = {"name": name, "examples": world.bodies(world.examples(task)), **more}
    return client.post("/adapt", json=body)


@pytest.fixture(scope="module")
def tasks(model, service):
    """Eight tasks in the bank, more than there are seats: {name: φ by the library}."""
    found = {}
    for number in range(8):
        phi = model.adapt(world.examples(number))
        service.bank.put(f"task{number}", phi.phi, phi.header)
        found[f"task{number}"] = phi
    return found


def test_every_shape_is_compiled_before_the_first_request(
    model, tmp_path, tasks, monkeypatch
):
    engine._answer.clear_cache()
    engine._make_phi.clear_cache()
    service = Service(model, str(tmp_path), SIZES)
    lines = []
    assert service.engine.warm_up(lines.append) == len(lines) == 2 + 1
    phi = tasks["task0"]
    service.bank.put("task", phi.phi, phi.header)
    traced = []
    for module, name in ((T5, "encode"), (System, "make_phi")):
        monkeypatch.setattr(module, name, lambda *_, **__: traced.append(1))
    rng = random.Random(1)

    async def run():
        asking = [
            service.generate("task", [world.words(rng, 40)] * rng.randint(1, 7))
            for _ in range(10)
        ]
        asking += [
            service.adapt(f"new{n}", world.examples(n, n % 4 + 1)) for n in range(5)
        ]
        await asyncio.gather(*asking)

    asyncio.run(run())
    service.close()
    assert not traced


def test_adapting_over_http_is_adapting_by_the_library(client, model, service):
    done = adapted(client, "one", 50)
    assert done.status_code == 201
    assert done.json() == {
        "name": "one",
        "examples": 3,
        "left_out": 0,
        "cut": [],
        "tokens": len(model.contexts(world.examples(50)).ids[0]),
    }
    stored = TaskPhi.load(str(service.bank.folder / "one.safetensors"))
    model.check(stored)
    alone = model.adapt(world.examples(50))
    for text in ("a", "some words"):
        said = client.post("/generate", json={"task": "one", "inputs": [text]})
        assert said.json()["outputs"] == model.generate([text], alone)
    assert "one" in client.get("/tasks").json()["tasks"]
    assert client.delete("/tasks/one").status_code == 204
    gone = client.post("/generate", json={"task": "one", "inputs": ["x"]})
    assert gone.status_code == 404 and "'one'" in gone.json()["detail"]


def test_callers_of_all_tasks_get_what_the_library_says_alone(client, model, tasks):
    """More tasks than seats, several inputs of several lengths each, all at once."""
    rng = random.Random(0)
    asked = []
    for _ in range(40):
        name = rng.choice(sorted(tasks))
        inputs = [world.words(rng, 39) for _ in range(rng.randint(1, 6))]
        asked.append((name, inputs))
    alone = [model.generate(inputs, tasks[name]) for name, inputs in asked]
    assert len({answer for answers in alone for answer in answers}) > 100
    answers = [None] * len(asked)

    def call(number):
        name, inputs = asked[number]
        body = {"task": name, "inputs": inputs}
        answers[number] = client.post("/generate", json=body).json()["outputs"]

    threads = [threading.Thread(target=call, args=(n,)) for n in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == alone


def test_fewer_tokens_are_the_first_of_many(client, service, tasks):
    ids = asyncio.run(service.generate("task1", ["abc"])).outputs
    assert client.post(
        "/generate", json={"task": "task1", "inputs": ["abc"], "max_tokens": 6}
    ).json()["outputs"] == list(ids)
    two = client.post(
        "/generate", json={"task": "task1", "inputs": ["abc"], "max_tokens": 2}
    ).json()["outputs"]
    whole = service.model.generate(["abc"], tasks["task1"])[0]
    assert len(two[0].encode()) <= len(whole.encode()) and two[0] != whole
    refused = client.post(
        "/generate", json={"task": "task1", "inputs": ["abc"], "max_tokens": 7}
    )
    assert refused.status_code == 422 and "1 to 6" in refused.json()["detail"]


def test_what_does_not_fit_is_said(client, tasks):
    long = client.post(
        "/generate", json={"task": "task0", "inputs": ["a" * 40, "b" * 41, "c"]}
    )
    assert long.json()["cut"] == [1] and len(long.json()["outputs"]) == 3
    shown = world.examples(3, 20)
    body = {"name": "many", "examples": world.bodies(shown), "replace": True}
    many = client.post("/adapt", json=body).json()
    # <x>, a token for each letter, <y>, and again; 60 in all.
    tokens = [2 + len(one) + len(other) for one, other in shown]
    fit = next(n for n in range(20) if sum(tokens[: n + 1]) > 60)
    assert (many["examples"], many["left_out"]) == (fit, 20 - fit)
    assert many["tokens"] == sum(tokens[:fit])


def test_a_name_is_taken_until_it_is_to_be_replaced(client, model):
    assert adapted(client, "taken", 60).status_code == 201
    refused = adapted(client, "taken", 61)
    assert refused.status_code == 409 and "replace" in refused.json()["detail"]
    body = {"task": "taken", "inputs": ["abcdef"]}
    first = client.post("/generate", json=body).json()["outputs"]
    assert first == model.generate(["abcdef"], model.adapt(world.examples(60)))
    assert adapted(client, "taken", 61, replace=True).status_code == 201
    second = client.post("/generate", json=body).json()["outputs"]
    assert second == model.generate(["abcdef"], model.adapt(world.examples(61)))
    assert first != second
    client.delete("/tasks/taken")


def test_a_phi_replaced_while_it_is_waited_for_is_the_new_one_for_all_inputs(
    client, model, service, monkeypatch
):
    phis = [model.adapt(world.examples(number)) for number in (70, 71)]
    service.bank.put("changing", phis[0].phi, phis[0].header)
    read, reads = service.engine.seats._read, []

    def late(stored):
        reads.append(stored)
        if len(reads) == 1:
            service.bank.put("changing", phis[1].phi, phis[1].header, replace=True)
        return read(stored)

    monkeypatch.setattr(service.engine.seats, "_read", late)
    inputs = ["ab", "cde", "fghi", "jk", "lmn"]
    said = client.post("/generate", json={"task": "changing", "inputs": inputs})
    assert said.json()["outputs"] == model.generate(inputs, phis[1])
    assert len(reads) > 1
    client.delete("/tasks/changing")


def test_metrics_count_requests_and_batches(service, tasks):
    client = TestClient(create(service, Limits()))
    assert client.post("/generate", json={"task": "task0", "inputs": ["a"]}).is_success
    assert client.get("/tasks/../../x").status_code == 404
    text = client.get("/metrics").text
    assert 'hypert5_requests_total{path="/generate",status="200"} 1.0' in text
    assert 'hypert5_requests_total{path="other",status="404"} 1.0' in text
    rows = service.batcher.counts.rows["generate"]
    assert f'hypert5_batch_rows_total{{kind="generate"}} {float(rows)}' in text
    assert "hypert5_phi_on_device 5.0" in text


def test_a_full_queue_is_429_and_a_deadline_504(model, tmp_path, tasks):
    patience = Patience(batch_seconds=0.3, request_seconds=0.2, queue=2)
    slow = Service(model, str(tmp_path), SIZES, patience)
    phi = tasks["task0"]
    slow.bank.put("task", phi.phi, phi.header)
    app = create(slow, Limits())

    async def ask(client, inputs):
        return await client.post("/generate", json={"task": "task", "inputs": inputs})

    async def run():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://x"
        ) as client:
            first = asyncio.ensure_future(ask(client, ["a", "b"]))
            while slow.batcher.waiting < 2:
                await asyncio.sleep(0.001)
            return await ask(client, ["c"]), await first

    full, late = asyncio.run(run())
    slow.close()
    assert full.status_code == 429 and int(full.headers["retry-after"]) >= 1
    assert late.status_code == 504 and "0.2 s" in late.json()["detail"]


def test_a_caller_that_leaves_is_taken_from_the_queue(model, tmp_path, tasks):
    """One of two disconnects while it waits; no batch is spent on it."""
    slow = Service(model, str(tmp_path), SIZES, Patience(batch_seconds=0.3))
    phi = tasks["task0"]
    slow.bank.put("task", phi.phi, phi.header)
    seen = []
    app = create(slow, Limits())

    async def ask(text, leaves):
        body = json.dumps({"task": "task", "inputs": [text]}).encode()
        messages = [{"type": "http.request", "body": body}]
        sent = []

        async def receive():
            if messages:
                return messages.pop()
            if leaves:
                await asyncio.sleep(0.05)
                return {"type": "http.disconnect"}
            await asyncio.Event().wait()

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "path": "/generate",
            "raw_path": b"/generate",
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "headers": [(b"content-type", b"application/json")],
            "server": ("x", 80),
            "client": ("y", 1),
        }
        await app(scope, receive, send)
        seen.append((leaves, [m.get("status") for m in sent if "status" in m]))

    async def run():
        await asyncio.gather(*(ask(f"text{n}", n % 2 == 1) for n in range(2)))

    asyncio.run(run())
    slow.close()
    assert sorted(seen) == [(False, [200]), (True, [])]
    counts = slow.batcher.counts
    assert counts.rows["generate"] == 1 and counts.cancelled == 1


def test_health_tells_whether_batches_are_run(model, tmp_path):
    service = Service(model, str(tmp_path), SIZES)
    client = TestClient(create(service, Limits()))
    assert client.get("/healthz").json()["status"] == "ok"
    service.close()
    assert client.get("/healthz").status_code == 503


def test_a_phi_of_another_model_is_refused_to_its_caller_alone(client, service, model):
    other = world.model(seed=9)
    phi = other.adapt(world.examples(0))
    foreign = TaskPhi(
        phi.phi,
        type(phi.header)(phi.header.spec, phi.header.sites, "c" * 64, "elsewhere"),
    )
    foreign.save(str(service.bank.folder / "foreign.safetensors"))
    answer = client.post("/generate", json={"task": "foreign", "inputs": ["a"]})
    assert answer.status_code == 422 and "cccc" in answer.json()["detail"]
    assert str(service.bank.folder) not in answer.text
    client.delete("/tasks/foreign")


def test_a_system_without_a_hypermodel_serves_files_alone(tmp_path):
    learned = world.model(
        Variant(
            source="learned",
            trainable=("phi",),
            context="none",
            prefix=PrefixSpec(length=3),
        )
    )
    service = Service(learned, str(tmp_path), SIZES)
    with TestClient(create(service, Limits())) as client:
        refused = adapted(client, "x", 0)
        assert (
            refused.status_code == 422 and "no hypermodel" in refused.json()["detail"]
        )
    none = world.model(
        Variant(
            adaptation="none", source="none", trainable=("downstream",), context="none"
        )
    )
    with pytest.raises(UserError, match="adapts nothing"):
        Service(none, str(tmp_path), SIZES)
