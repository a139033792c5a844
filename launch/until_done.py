"""One run on a TPU machine that may be taken away: started again until it is done.

What a run needs to go on is in its checkpoints, so an attempt is always the same: a
machine, the checkout on it, the same command. This process only watches; while it is
away, the run goes on, and the machine costs.
"""

import contextlib
import dataclasses
import re
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from request import INTERRUPTED, USER_ERROR, UsersMistake
from shell import NO_ANSWER
from tpu_machine import Machine, State, Status

# Requests in a row that bring no machine.
_REQUESTS = 10
# Attempts in a row that fail on a machine which stays there. One that lasted
# _LONG_SECONDS was no failure of the start, and the count begins anew.
_FAILURES = 3
_LONG_SECONDS = 3600.0
# And attempts that fail, in a row or not, however long they lasted.
_FAILURES_IN_ALL = 10
# The longest wait between two tries, and for the first answer of a machine, in polls.
_LONGEST_WAIT = 15
# How long a run may take to save itself before it is killed.
SECONDS_TO_SAVE = 300
# What gcloud says when asking again would be refused again.
_FINAL = (
    "quota",
    "PERMISSION_DENIED",
    "INVALID_ARGUMENT",
    "UNAUTHENTICATED",
    "BILLING_DISABLED",
    "SERVICE_DISABLED",
)
# And when asking again later is all it wants, though it names a quota.
_TOO_FAST = ("per minute", "RATE_LIMIT")


@dataclasses.dataclass
class Watch:
    """A machine, a run on it, and how often what went wrong.

    Attributes:
      machine: where it runs.
      start: brings the checkout to the machine, installs it and starts the run;
        returns an exit code.
      digest: of the command line that it starts.
      logs: where the logs of attempt N go: LOGS/attempt_N. N goes on after the highest
        that is there, from an earlier watch.
      poll_seconds: between two looks; the unit of all waiting.
      max_hours: the run is stopped after that long, if given.
      keep: leave the machine there at the end.
    """

    machine: Machine
    start: Callable[[Machine], int]
    digest: str
    logs: Path
    poll_seconds: float
    max_hours: float | None = None
    keep: bool = False
    attempts: int = 0
    failures: int = 0
    failures_in_all: int = 0
    preemptions: int = 0
    _earlier: int = 0
    _deadline: float | None = None
    _made: bool = False
    _requests: int = 0
    _silences: int = 0
    _waits: int = 0
    _attempt_began: float | None = None
    _end: str = ""
    _said: str = ""

    def run(self) -> int:
        """Watches until the run is done, and deletes the machine unless it is kept.

        Returns:
          0 if the run is done; 1 if it was given up or stopped; 2 for a mistake of the
          user's; 130 if interrupted, which leaves run and machine alone.

        Raises:
          UsersMistake: there is no place for the logs. Nothing was done.
        """
        self._find_logs()
        if self.max_hours is not None:
            self._deadline = time.time() + self.max_hours * 3600
        try:
            code = self._watch()
            self._say(self._end)
            return self._leave(code)
        except KeyboardInterrupt:
            self._say(
                f"interrupted: {self.machine.name} is left as it is, with what runs on "
                "it and what it costs. The same command watches on; tpu.py delete "
                "deletes it"
            )
            return INTERRUPTED

    def _find_logs(self) -> None:
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
            names = [path.name for path in self.logs.iterdir()]
        except OSError as error:
            raise UsersMistake(
                f"--logs: {self.logs} cannot be made or read: {error.strerror}"
            ) from error
        found = [re.fullmatch(r"attempt_(\d+)", name) for name in names]
        self._earlier = max((int(match[1]) for match in found if match), default=0)

    def _watch(self) -> int:
        code = None
        try:
            while code is None:
                late = self._deadline is not None and time.time() > self._deadline
                code = self._out_of_time() if late else self._look()
        except UsersMistake as mistake:
            self._end = str(mistake)
            return USER_ERROR
        # Whatever it is, the machine must not stay behind because of it.
        except Exception:  # noqa: BLE001
            self._say(traceback.format_exc())
            self._end = "the watch failed in a way that was not foreseen; see above"
            return 1
        return code

    def _look(self) -> int | None:
        """One look at the machine and what it leads to; an exit code at the end."""
        state = self._in_time().state()
        if state is State.READY:
            return self._ready()
        if state is State.ABSENT:
            return self._request()
        if state is State.STOPPED:
            self.keep = True
            raise UsersMistake(
                f"{self.machine.name} was stopped; to go on, start it and give the same "
                f"command again, or `tpu.py delete` it:\n{self.machine.how_to_start()}"
            )
        if state is State.GONE:
            self._replace()
        else:
            self._say(f"{self.machine.name}: {state.value}", anew=True)
            self._wait(patient=True)
        return None

    def _ready(self) -> int | None:
        self._requests = 0
        statuses = self._in_time().statuses()
        if statuses is None:
            return self._silent()
        self._silences = 0
        self._require_ours(statuses)
        words = [status.word for status in statuses]
        if self._attempt_began is None:
            if "running" in words:
                self._say("the run is there already; watching it")
            elif code := self.start(self._in_time()):
                if code == USER_ERROR:
                    raise UsersMistake("the run cannot be started; see above")
                return self._failed("the run could not be started")
            self.attempts += 1
            self._attempt_began = time.time()
            self._wait(patient=True)
            return None
        return self._judge(words)

    def _require_ours(self, statuses: Sequence[Status]) -> None:
        """Refuses a machine of the same name that another run has.

        Raises:
          UsersMistake: so; the machine will be kept.
        """
        others = {
            status.word
            for status in statuses
            if status.word != "idle" and status.digest != self.digest
        }
        # One that refused its settings is over; the command that mends them may follow.
        over = "mistake" in others and "running" not in others
        if others and not (over and self._attempt_began is None):
            self.keep = True
            raise UsersMistake(
                f"a run with another command line is on {self.machine.name} "
                f"({', '.join(sorted(others))}); choose another --name, or `tpu.py "
                "delete` it first"
            )

    def _silent(self) -> int | None:
        """The machine is there, but ssh is not: it may be booting, or we be offline."""
        self._silences += 1
        if self._attempt_began is None and self._silences >= _LONGEST_WAIT:
            self._end = f"{self.machine.name} is there, but ssh does not reach it"
            # Perhaps a run is on a machine that we found; one that we made has none.
            self.keep = self.keep or not self._made
            return 1
        self._say(f"{self.machine.name}: not all workers answer", anew=True)
        self._wait(patient=True)
        return None

    def _judge(self, words: Sequence[str]) -> int | None:
        """What the words of all workers mean for the attempt."""
        if all(word == "done" for word in words):
            return self._finished()
        if "mistake" in words:
            self._end_attempt()
            raise UsersMistake(
                "the run refuses its settings, and would again; the message is at the "
                f"end of {self._folder()}/*/*.log"
            )
        over = [word for word in words if word not in ("running", "done")]
        if not over:
            self._say(f"attempt {self._number()}: {', '.join(words)}", anew=True)
            self._waits = 0
            self._wait(patient=True)
            return None
        if "halted" in over:
            self._end_attempt()
            self._end = "stopped by tpu.py stop; the same command goes on from there"
            return 1
        return self._failed(f"attempt {self._number()} ended: {', '.join(words)}")

    def _failed(self, what: str) -> int | None:
        """An attempt is over, on a machine that is there as far as we know."""
        self._say(what)
        lasted = time.time() - (self._attempt_began or time.time())
        self._end_attempt()
        self.failures = 1 if lasted > _LONG_SECONDS else self.failures + 1
        self.failures_in_all += 1
        logs = f"logs are in {self.logs}"
        if self.failures >= _FAILURES:
            self._end = (
                f"given up after {self.failures} attempts in a row that failed; {logs}"
            )
            return 1
        if self.failures_in_all >= _FAILURES_IN_ALL:
            self._end = (
                f"given up after {_FAILURES_IN_ALL} attempts that failed; {logs}"
            )
            return 1
        self._wait()
        return None

    def _end_attempt(self) -> None:
        """Stops what is left of an attempt on any worker, and keeps its logs."""
        if self._attempt_began is not None:
            self.machine.stop(SECONDS_TO_SAVE)
            self._gather()
        self._attempt_began = None

    def _finished(self) -> int:
        self._gather()
        self._end = (
            f"done after {self.attempts} attempts and {self.preemptions} preemptions; "
            f"logs are in {self.logs}"
        )
        return 0

    def _request(self) -> int | None:
        """Asks for the machine; gives up after _REQUESTS without one.

        Raises:
          UsersMistake: it is refused in a way that asking again does not change.
        """
        if self._requests == _REQUESTS:
            self._end = (
                f"no {self.machine.accelerator} in {self.machine.zone} after "
                f"{_REQUESTS} requests; try another zone, or later"
            )
            return 1
        self._requests += 1
        result = self.machine.create()
        if result.code:
            _raise_if_final(result.err)
            self._wait()
        # One that did not answer may have been heard.
        self._made = result.code in (0, NO_ANSWER)
        return None

    def _replace(self) -> None:
        """Deletes what is left of a machine that was taken away, or never came."""
        _raise_if_final(self.machine.trouble())
        if self._attempt_began is not None:
            self.preemptions += 1
        self.failures = 0
        self._attempt_began = None
        self._say(f"{self.machine.name} was taken away; asking for another one")
        self.machine.delete()
        self._wait()

    def _out_of_time(self) -> int:
        self._end_attempt()
        self._end = f"stopped after --max_hours={self.max_hours}; it is not done"
        return 1

    def _leave(self, code: int) -> int:
        """The cost guard: no machine stays behind unless that was asked for."""
        if self.keep:
            self._say(f"{self.machine.name} is kept, and costs until it is deleted")
            return code
        for _ in range(3):
            try:
                if self.machine.delete() == 0 or self.machine.state() is State.ABSENT:
                    return code
            except (UsersMistake, OSError) as error:
                self._say(str(error))
            self._wait()
        self._say(
            f"{self.machine.name} COULD NOT BE DELETED AND GOES ON COSTING; delete it "
            "with tpu.py delete or in the console"
        )
        return code or 1

    def _gather(self) -> None:
        self.machine.gather_logs(self._folder())

    def _folder(self) -> Path:
        return self.logs / f"attempt_{self._number()}"

    def _number(self) -> int:
        return self._earlier + self.attempts

    def _in_time(self) -> Machine:
        """The machine, for what --max_hours bounds: not stopping, nor deleting."""
        return self.machine.until(self._deadline)

    def _wait(self, patient: bool = False) -> None:
        """One poll, or (not patient) twice as long at each try, up to a bound."""
        polls = 1 if patient else min(2**self._waits, _LONGEST_WAIT)
        self._waits = self._waits if patient else self._waits + 1
        time.sleep(self.poll_seconds * polls)

    def _say(self, text: str, anew: bool = False) -> None:
        """Prints a line; one that says what it did before (anew), only once."""
        if not anew or text != self._said:
            # A terminal that is gone is no reason to leave a machine alone.
            with contextlib.suppress(OSError):
                print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
        self._said = text


def _raise_if_final(trouble: str) -> None:
    if any(word.lower() in trouble.lower() for word in _TOO_FAST):
        return
    for word in _FINAL:
        if word.lower() in trouble.lower():
            raise UsersMistake(
                f"the cloud refuses the machine ({word}), and asking again does not "
                f"change that; docs/tpu.md, section 1:\n{trouble.strip()}"
            )
