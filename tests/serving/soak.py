"""Many callers adapt, generate, replace, delete and leave at random; all are checked.

What a task answers is computed first, alone, by the library. Tasks are chosen so that no
two of them answer an input alike: an answer tells whose φ gave it.
"""

import asyncio
import dataclasses
import random
import time
from collections import Counter
from collections.abc import Sequence

from hypert5_jax.adapting.model import Model
from tests.serving import world
from tests.serving.process import Caller


@dataclasses.dataclass(frozen=True)
class Known:
    """What is right.

    Attributes:
      inputs: texts.
      answers: of each task, to each input; no two tasks answer an input alike.
    """

    inputs: Sequence[str]
    answers: Sequence[Sequence[str]]

    def whose(self, number: int, answer: str) -> str:
        """Which task answers an input so."""
        owners = [str(t) for t, own in enumerate(self.answers) if own[number] == answer]
        return f"task {owners[0]}'s" if owners else "nobody's"


def known(model: Model, tasks: int, inputs: int, longest: int) -> Known:
    """Answers of the library, task by task."""
    rng = random.Random(5)
    phis = model.adapt([world.examples(task) for task in range(tasks)])
    texts, answers = [], []
    while len(texts) < inputs:
        drawn = [world.words(rng, longest) for _ in range(inputs)]
        said = [model.generate(drawn, phi) for phi in phis]
        for number, text in enumerate(drawn):
            own = [of_task[number] for of_task in said]
            if len(set(own)) == tasks and len(texts) < inputs:
                texts.append(text)
                answers.append(own)
    return Known(texts, [list(column) for column in zip(*answers, strict=True)])


@dataclasses.dataclass
class Outcome:
    """What callers saw: how often each thing happened, and what was wrong."""

    counts: Counter = dataclasses.field(default_factory=Counter)
    wrong: list[str] = dataclasses.field(default_factory=list)


async def soak(
    port: int, right: Known, callers: int, seconds: float, seed: int = 0
) -> Outcome:
    """Runs callers against a server whose bank is empty."""
    outcome = Outcome()
    first = _Caller(port, right, outcome, random.Random(seed), "shared")
    for task in range(len(right.answers)):
        await first.adapt(f"shared{task}", task)
    end = time.monotonic() + seconds
    crowd = [
        _Caller(port, right, outcome, random.Random(seed + 1 + n), f"caller{n}")
        for n in range(callers)
    ]
    await asyncio.gather(*(one.run(end) for one in crowd))
    return outcome


class _Caller:
    def __init__(
        self, port: int, right: Known, outcome: Outcome, rng: random.Random, name: str
    ):
        self._http = Caller(port)
        self._right, self._outcome, self._rng, self._name = right, outcome, rng, name
        # Names of this caller's own tasks, and which task each is now.
        self._own: dict[str, int] = {}
        self._made = 0

    async def run(self, end: float) -> None:
        acts = (
            (self._ask_shared, 40),
            (self._ask_own, 20),
            (self._adapt_new, 10),
            (self._replace, 8),
            (self._delete, 5),
            (self._leave, 17),
        )
        while time.monotonic() < end:
            (act,) = self._rng.choices([a for a, _ in acts], [w for _, w in acts])
            try:
                await act()
            except (OSError, EOFError, ValueError) as error:
                self._note_wrong(f"no answer: {error!r}")
                self._http.leave()
        self._http.leave()

    async def adapt(self, name: str, task: int, replace: bool = False) -> None:
        body = {"name": name, "examples": self._examples(task), "replace": replace}
        await self._call("POST", "/adapt", body, 201)

    async def _ask_shared(self) -> None:
        task = self._rng.randrange(len(self._right.answers))
        await self._ask(f"shared{task}", task)

    async def _ask_own(self) -> None:
        if self._own:
            name = self._rng.choice(sorted(self._own))
            await self._ask(name, self._own[name])

    async def _ask(self, name: str, task: int) -> None:
        numbers = self._numbers()
        said = await self._call("POST", "/generate", self._question(name, numbers), 200)
        for number, answer in zip(numbers, said["outputs"], strict=True):
            if answer != self._right.answers[task][number]:
                whose = self._right.whose(number, answer)
                self._note_wrong(f"{name} (task {task}) gave {whose} answer {answer!r}")

    async def _adapt_new(self) -> None:
        if len(self._own) < 4:
            self._made += 1
            name = f"{self._name}-{self._made}"
            task = self._rng.randrange(len(self._right.answers))
            await self.adapt(name, task)
            self._own[name] = task

    async def _replace(self) -> None:
        if self._own:
            name = self._rng.choice(sorted(self._own))
            task = self._rng.randrange(len(self._right.answers))
            await self.adapt(name, task, replace=True)
            self._own[name] = task

    async def _delete(self) -> None:
        if self._own:
            name = self._rng.choice(sorted(self._own))
            await self._call("DELETE", f"/tasks/{name}", None, 204)
            del self._own[name]
            await self._call("POST", "/generate", self._question(name, [0]), 404)

    async def _leave(self) -> None:
        """Goes away while it sends, waits or is being answered."""
        part = self._rng.choice((0.3, 0.9, 1.0, 1.0, 1.0))
        seconds = self._rng.choice((0.0, self._rng.uniform(0, 0.05)))
        task = self._rng.randrange(len(self._right.answers))
        if self._rng.random() < 0.5:
            body = self._question(f"shared{task}", self._numbers())
            await self._http.ask_and_leave("POST", "/generate", body, part, seconds)
        else:
            # Whether it comes to be is not known: nobody asks for it.
            body = {
                "name": f"left-{self._name}",
                "examples": self._examples(task),
                "replace": True,
            }
            await self._http.ask_and_leave("POST", "/adapt", body, part, seconds)
        self._outcome.counts["left half-way"] += 1

    async def _call(self, method: str, path: str, body: object, right: int) -> dict:
        while True:
            status, said, headers = await self._http.ask(method, path, body)
            if status != 429:
                break
            self._outcome.counts["told to wait (429)"] += 1
            await asyncio.sleep(int(headers["retry-after"]) * self._rng.random())
        self._outcome.counts[f"{method} {path.split('/')[1]}: {status}"] += 1
        if status != right:
            self._note_wrong(f"{method} {path}: {status} {said}")
            raise ValueError(status)
        return said

    def _numbers(self) -> list[int]:
        count = self._rng.randint(1, 4)
        return [self._rng.randrange(len(self._right.inputs)) for _ in range(count)]

    def _question(self, name: str, numbers: Sequence[int]) -> dict:
        return {"task": name, "inputs": [self._right.inputs[n] for n in numbers]}

    def _examples(self, task: int) -> list[dict[str, str]]:
        return world.bodies(world.examples(task))

    def _note_wrong(self, what: str) -> None:
        self._outcome.wrong.append(f"{self._name}: {what}")
