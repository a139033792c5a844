"""What the HTTP front offers, without HTTP: text in, text out, for many callers at once.

Every function here may be awaited by any number of callers; cancelling one takes its
rows out of the queue.
"""

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any

from hypert5_jax.adapting.model import Model
from hypert5_jax.core.errors import UserError
from hypert5_jax.phi.files import PhiHeader
from hypert5_jax.serving.bank import Bank, NoSuchTask, Replaced, TaskExists
from hypert5_jax.serving.batcher import Batcher, Late
from hypert5_jax.serving.engine import Asked, Engine, Sizes

_ATTEMPTS = 3


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long things may wait.

    Attributes:
      batch_seconds: a row for others that fill its batch.
      request_seconds: a request for its answer.
      queue: rows that may wait; what does not fit is refused.
    """

    batch_seconds: float = 0.001
    request_seconds: float = 60.0
    queue: int = 256

    def __post_init__(self) -> None:
        if self.batch_seconds < 0 or self.request_seconds <= 0 or self.queue < 1:
            raise UserError(
                f"{self}: expected batch_seconds of 0 or more, request_seconds above 0 "
                "and a queue of 1 or more"
            )


@dataclasses.dataclass(frozen=True)
class Adapted:
    """What was read to make φ.

    Attributes:
      examples: how many are in the context.
      left_out: how many did not fit.
      cut: what is there in part only.
      tokens: of the context.
    """

    examples: int
    left_out: int
    cut: tuple[str, ...]
    tokens: int


@dataclasses.dataclass(frozen=True)
class Answers:
    """Texts in the order of the inputs, and the numbers of inputs that were cut."""

    outputs: list[str]
    cut: list[int]


class Service:
    """A model, a bank and a batcher.

    Args:
      model: a trained system with its vocabulary.
      folder: of the bank.
      sizes: of batches.
      patience: of callers.

    Raises:
      UserError: a system without φ, or a folder that cannot be used.
    """

    def __init__(
        self,
        model: Model,
        folder: str,
        sizes: Sizes | None = None,
        patience: Patience | None = None,
    ):
        spec = model.system.variant.spec
        if spec is None:
            raise UserError(
                "this checkpoint adapts nothing (adaptation='none'), so one task is all "
                "it serves; serve one with a prefix or LoRA"
            )
        self.model = model
        self.patience = patience or Patience()
        sites = model.system.downstream.sites
        self.bank = Bank(folder, spec, sites, model.base_model)
        self.engine = Engine(model, self.bank, sizes or Sizes())
        self.batcher = Batcher(
            self.engine.kinds(), self.patience.queue, self.patience.batch_seconds
        )

    def close(self) -> None:
        """Answers what waits and takes nothing more."""
        self.batcher.close()

    async def adapt(
        self,
        name: str,
        examples: Sequence[tuple[str, str]],
        instruction: str = "",
        replace: bool = False,
    ) -> Adapted:
        """Makes φ from examples of a task and stores it under a name.

        Raises:
          UserError: see `Bank.put`; no hypermodel; nothing to read.
          Full, Closed, Late: see `Batcher`.
        """
        if not self.engine.adapts:
            raise UserError(
                "this checkpoint has no hypermodel: put φ files into the bank's folder "
                "instead"
            )
        if not replace:
            self._check_free(name)
        plan = await asyncio.to_thread(self.model.contexts, examples, instruction)
        (context,) = plan.ids
        (phi,) = await self._run("adapt", [(len(context), context)])
        about = f"adapted from {plan.count} of {len(examples)} examples, by a server"
        header = PhiHeader(
            self.bank.spec, self.bank.sites, self.model.base_model, about
        )
        await asyncio.to_thread(self.bank.put, name, phi, header, replace)
        return Adapted(plan.count, len(plan.left_out), plan.cut, len(context))

    async def generate(
        self, name: str, inputs: Sequence[str], max_tokens: int | None = None
    ) -> Answers:
        """Answers inputs with a task's φ, the same φ for all of them.

        Raises:
          UserError: no such task, φ of another model, or too many inputs or tokens.
          Full, Closed, Late: see `Batcher`.
        """
        most = self.engine.max_tokens
        if max_tokens is not None and not 1 <= max_tokens <= most:
            raise UserError(f"max_tokens={max_tokens}: this server gives 1 to {most}")
        if len(inputs) > self.patience.queue:
            raise UserError(
                f"{len(inputs)} inputs in one request; this server takes at most "
                f"{self.patience.queue}: send them in parts"
            )
        self.bank.find(name)
        ids, cut = await asyncio.to_thread(self._read, inputs)
        for attempt in range(_ATTEMPTS):
            stored = self.bank.find(name)
            rows = [(len(one), Asked(stored, one, max_tokens or most)) for one in ids]
            try:
                said = await self._run("generate", rows)
            except Replaced:
                if attempt + 1 == _ATTEMPTS:
                    raise
                continue
            break
        return Answers([self.model.text(one) for one in said], cut)

    def _read(self, inputs: Sequence[str]) -> tuple[list[list[int]], list[int]]:
        """The inputs' ids, and the numbers of those that were cut."""
        ids = [self.model.input_ids(text) for text in inputs]
        room = int(self.model.row.lengths["inputs"])
        full = (i for i, one in enumerate(ids) if len(one) >= room)
        return ids, [i for i in full if self.model.tokens.is_cut(inputs[i])]

    def _check_free(self, name: str) -> None:
        try:
            self.bank.find(name)
        except NoSuchTask:
            return
        raise TaskExists(
            f"there is a task {name!r}: choose another name, or ask to replace it"
        )

    async def _run(self, kind: str, rows: list[tuple[int, Any]]) -> list[Any]:
        """The rows' results. Whatever ends the wait takes the others from the queue."""
        seconds = self.patience.request_seconds
        futures = self.batcher.submit(kind, rows, seconds)
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.gather(*map(asyncio.wrap_future, futures))
        except TimeoutError:
            raise Late(f"no answer within {seconds:g} s") from None
        finally:
            for future in futures:
                future.cancel()
