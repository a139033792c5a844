"""What the HTTP front refuses: one message each, and nothing is left behind."""

import json

import pytest
from fastapi.testclient import TestClient

from hypert5_jax.core.errors import UserError
from hypert5_jax.serving.app import create
from hypert5_jax.serving.gate import Limits
from tests.serving.world import TOKEN

EXAMPLE = {"input": "a", "target": "b"}
BAD = [
    ("/adapt", {"name": "../x", "examples": [EXAMPLE]}, "no name"),
    ("/adapt", {"name": "x" * 101, "examples": [EXAMPLE]}, "no name"),
    ("/adapt", {"name": "x", "examples": []}, "nothing to adapt to"),
    ("/adapt", {"name": "x"}, "nothing to adapt to"),
    ("/adapt", {"name": "x", "examples": [{"input": "a"}]}, "examples.0.target"),
    ("/adapt", {"name": "x", "examples": [{**EXAMPLE, "weight": 1}]}, "weight"),
    ("/adapt", {"name": "x", "examples": [{"input": "a", "target": ""}]}, "target"),
    ("/adapt", {"name": "x", "examples": [{"input": "a", "target": " "}]}, "target"),
    ("/adapt", {"name": "x", "examples": [{"input": 3, "target": "b"}]}, "input"),
    (
        "/adapt",
        {"name": "x", "examples": [EXAMPLE, {"input": "a", "target": "b" * 9}]},
        "example 2: the target has 10 tokens",
    ),
    ("/generate", {"task": "../../etc/passwd", "inputs": ["a"]}, "no name"),
    ("/generate", {"task": "task0", "inputs": []}, "inputs"),
    ("/generate", {"task": "task0", "inputs": "abc"}, "inputs"),
    ("/generate", {"task": "task0", "inputs": ["a"], "beams": 4}, "beams"),
    ("/generate", {"task": "task0", "inputs": ["a"], "max_tokens": 0}, "max_tokens"),
    ("/generate", {"task": "task0", "inputs": ["a"] * 257}, "at most 256"),
    ("/generate", [], ""),
]


@pytest.mark.parametrize(("path", "body", "said"), BAD)
def test_bad_requests_are_answered_with_one_message(client, path, body, said):
    before = service_files(client)
    answer = client.post(path, json=body)
    assert answer.status_code == 422, answer.text
    assert said in answer.json()["detail"]
    assert service_files(client) == before


def service_files(client):
    return client.get("/tasks").json()["tasks"]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"task": "task0", "inputs": ["\xff"]}',
        b'{"task": "task0", "inputs": ["\\ud800"]}',
        b'{"name": "\\ud800", "examples": []}',
        b"[" * 15_000,
        b'{"task": "task0", "inputs": [NaN]}',
        b"\x80\x04cos\nsystem\n",
        b"",
    ],
)
def test_bodies_that_are_no_json_of_ours_are_refused(client, body):
    for path in ("/adapt", "/generate"):
        answer = client.post(
            path, content=body, headers={"content-type": "application/json"}
        )
        assert answer.status_code in (400, 422), answer.text
        assert isinstance(answer.json()["detail"], str)


def test_only_the_token_opens(service):
    client = TestClient(create(service, Limits(token=TOKEN + "\n")))
    wrong = ["", "Bearer", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, "Bearer é"]
    for value in [None, *wrong]:
        headers = {} if value is None else {"Authorization": value.encode()}
        for method, path in (
            ("GET", "/tasks"),
            ("GET", "/metrics"),
            ("POST", "/generate"),
            ("POST", "/adapt"),
            ("DELETE", "/tasks/x"),
            ("GET", "/nothing"),
        ):
            answer = client.request(method, path, headers=headers)
            assert answer.status_code == 401, (value, path)
            assert answer.headers["www-authenticate"] == "Bearer"
    for path in ("/healthz", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 200
    right = {"Authorization": f"bearer  {TOKEN}"}
    assert client.get("/tasks", headers=right).status_code == 200
    with pytest.raises(UserError, match="empty"):
        Limits(token=" ")


def test_the_description_names_every_path_and_its_token(client):
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {
        "/adapt",
        "/generate",
        "/tasks",
        "/tasks/{name}",
        "/healthz",
        "/metrics",
    }
    secured = described["paths"]["/generate"]["post"]["security"]
    assert secured == [{"HTTPBearer": []}]
    assert "429" in described["paths"]["/generate"]["post"]["responses"]


def test_a_large_body_is_refused_by_its_head_or_while_it_arrives(client):
    body = json.dumps({"task": "task0", "inputs": ["a" * 30_000]}).encode()
    whole = client.post("/generate", content=body)
    assert whole.status_code == 413 and "20000 bytes" in whole.json()["detail"]
    parts = client.post(
        "/generate", content=(body[i : i + 1000] for i in range(0, 30_000, 1000))
    )
    assert parts.status_code == 413
