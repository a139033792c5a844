"""The HTTP front: requests and answers as JSON around serving/service.py.

The only module that knows FastAPI; the extra `serve` installs it.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPBearer
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

import hypert5_jax
from hypert5_jax.adapting.examples import is_whole
from hypert5_jax.core.errors import StorageError, UserError
from hypert5_jax.serving.bank import BadName, NoSuchTask, Replaced, TaskExists
from hypert5_jax.serving.batcher import Closed, Full, Late
from hypert5_jax.serving.gate import Gate, Limits
from hypert5_jax.serving.metrics import Metrics
from hypert5_jax.serving.service import Service

_MOST = 100_000  # entries of a list; the body's limit is usually met first


def _utf8(text: str) -> str:
    if not is_whole(text):
        raise ValueError("half a character (a lone surrogate)")
    return text


Text = Annotated[str, AfterValidator(_utf8)]


class _Given(BaseModel):
    """A body; fields that nobody knows are refused, for they are often misspelt."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Example(_Given):
    """One example of a task."""

    input: Text
    target: Text = Field(min_length=1)


class AdaptRequest(_Given):
    """Examples of a task, an instruction, or both, and a name for it."""

    name: Text = Field(description="1 to 100 letters, digits, '.', '_' and '-'")
    examples: list[Example] = Field(default=[], max_length=_MOST)
    instruction: Text = ""
    replace: bool = Field(
        default=False, description="instead of the task that has the name"
    )


class AdaptAnswer(BaseModel):
    """What was read: `left_out` examples did not fit; `cut` is there in part only."""

    name: str
    examples: int
    left_out: int
    cut: list[str]
    tokens: int


class GenerateRequest(_Given):
    """Inputs for one task."""

    task: Text
    inputs: list[Text] = Field(min_length=1, max_length=_MOST)
    max_tokens: int | None = Field(default=None, ge=1)


class GenerateAnswer(BaseModel):
    """Outputs in the order of the inputs; `cut` numbers inputs that were too long."""

    task: str
    outputs: list[str]
    cut: list[int]


class TaskList(BaseModel):
    """Names of all tasks."""

    tasks: list[str]


class Health(BaseModel):
    """Alive, with every shape compiled."""

    status: str
    version: str


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str


_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (NoSuchTask, 404),
    (TaskExists, 409),
    (Replaced, 409),
    (BadName, 422),
    (UserError, 422),
    (StorageError, 503),
    (Full, 429),
    (Closed, 503),
    (Late, 504),
)
_PROBLEMS = {
    401: "the token is missing or wrong",
    404: "no such task",
    409: "the task exists, or was replaced while it was waited for",
    413: "the body is too large",
    422: "what was given cannot be used",
    429: "too many requests wait: try again after `Retry-After` seconds",
    503: "shutting down, or the bank's storage does not answer",
    504: "no answer in time",
}


def create(service: Service, limits: Limits) -> Gate:
    """The whole ASGI application; closing it closes the service."""
    metrics = Metrics(service)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="hypert5_jax",
        version=hypert5_jax.__version__,
        description="Adapt a T5 to tasks by examples, and ask it, many tasks at once.",
        lifespan=lifespan,
        redoc_url=None,
    )
    _add_open_routes(app, service)
    # The gate checks the token; this only tells readers of the description.
    secured = [Depends(HTTPBearer(auto_error=False))] if limits.token else []
    _add_routes(app, service, metrics, secured)
    for kind, status in _STATUS:
        app.add_exception_handler(kind, _answering(status))
    app.add_exception_handler(RequestValidationError, _invalid)
    return Gate(app, limits, metrics.observe)


def _add_open_routes(app: FastAPI, service: Service) -> None:
    @app.get("/healthz")
    async def healthz() -> Health:
        """Whether the server is ready."""
        if not service.batcher.alive:
            raise Closed("nothing is run any more: restart the server")
        return Health(status="ok", version=hypert5_jax.__version__)


def _add_routes(
    app: FastAPI, service: Service, metrics: Metrics, secured: list
) -> None:
    described = {
        status: {"model": Problem, "description": text}
        for status, text in _PROBLEMS.items()
    }

    def responses(*leave_out: int) -> dict:
        return {k: v for k, v in described.items() if k not in leave_out}

    @app.post("/adapt", status_code=201, responses=responses(404), dependencies=secured)
    async def adapt(asked: AdaptRequest) -> AdaptAnswer:
        """Reads a task's examples once and stores what the T5 needs for it."""
        pairs = [(example.input, example.target) for example in asked.examples]
        done = await service.adapt(asked.name, pairs, asked.instruction, asked.replace)
        return AdaptAnswer(
            name=asked.name,
            examples=done.examples,
            left_out=done.left_out,
            cut=list(done.cut),
            tokens=done.tokens,
        )

    @app.post("/generate", responses=responses(), dependencies=secured)
    async def generate(asked: GenerateRequest) -> GenerateAnswer:
        """Answers inputs of one task."""
        said = await service.generate(asked.task, asked.inputs, asked.max_tokens)
        return GenerateAnswer(task=asked.task, outputs=said.outputs, cut=said.cut)

    @app.get("/tasks", dependencies=secured)
    def tasks() -> TaskList:
        """Names of all tasks."""
        return TaskList(tasks=service.bank.names())

    @app.delete(
        "/tasks/{name}", status_code=204, responses=responses(), dependencies=secured
    )
    def delete(name: Annotated[str, "of the task"]) -> Response:
        """Removes a task."""
        service.bank.delete(name)
        return Response(status_code=204)

    @app.get("/metrics", response_class=PlainTextResponse, dependencies=secured)
    def measured() -> PlainTextResponse:
        """What happened so far, in Prometheus's text format."""
        return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4")


def _answering(
    status: int,
) -> Callable[[Request, Exception], Awaitable[JSONResponse]]:
    async def handler(request: Request, error: Exception) -> JSONResponse:
        headers = {}
        if isinstance(error, Full):
            headers["Retry-After"] = str(error.seconds)
        return JSONResponse({"detail": str(error)}, status, headers)

    return handler


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """One line for each mistake; what was given is not sent back."""
    assert isinstance(error, RequestValidationError)
    lines = []
    for mistake in error.errors()[:10]:
        place = ".".join(str(part) for part in mistake["loc"] if part != "body")
        lines.append(f"{place}: {mistake['msg']}" if place else mistake["msg"])
    return JSONResponse({"detail": "; ".join(lines)}, 422)
