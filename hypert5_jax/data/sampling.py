"""Every random choice of the stream, as a pure function of (seed, position).

Nothing here has a state, so nothing has to be saved or wound forward: a draw is a hash
of what it is a draw of. The hash is written out (SplitMix64, Steele et al. 2014) and
not taken from a NumPy generator, whose streams may change between releases.
"""

from functools import lru_cache

import numpy as np

# Which kind of draw a hash belongs to; equal positions of two kinds are independent.
TASK_ORDER, TARGET_ORDER, SHOT_ORDER, SHOT_COUNT, EMPTY, LABEL_WORDS = range(6)
RANDOM_IDS = 6

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = 6


def _finalise(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def hash_of(*parts: int | np.ndarray) -> np.ndarray:
    """Hashes integers (arrays broadcast) to uint64, well mixed; same shape as parts."""
    with np.errstate(over="ignore"):
        state = np.asarray(0, np.uint64)
        for part in parts:
            word = np.asarray(part).astype(np.int64).view(np.uint64)
            state = np.asarray(_finalise((state ^ word) + _GOLDEN))
        return state


def uniform(*parts: int | np.ndarray) -> np.ndarray:
    """A float64 in [0, 1) for each position hashed."""
    return (hash_of(*parts) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permute(index: np.ndarray, size: int | np.ndarray, key: np.ndarray) -> np.ndarray:
    """The place of `index` in a random permutation of range(size), chosen by `key`.

    A Feistel network over the next power of four, walked until it lands below `size`:
    O(1) per index and no table, whatever the size of the task.

    Args:
      index: int64 [...], in [0, size).
      size: int64, broadcastable to index; at least 1.
      key: uint64, broadcastable to index.

    Returns:
      int64 [...] in [0, size); distinct for distinct indices of equal size and key.
    """
    index, size, key = np.broadcast_arrays(index, size, key)
    value = index.astype(np.uint64).ravel()
    limit = size.astype(np.uint64).ravel()
    key = key.ravel()
    half = np.maximum(2, (np.ceil(np.log2(np.maximum(limit, 2))) + 1) // 2)
    half = half.astype(np.uint64)
    todo = np.arange(value.size)
    while todo.size:
        value[todo] = _feistel(value[todo], half[todo], key[todo])
        todo = todo[value[todo] >= limit[todo]]
    return value.astype(np.int64).reshape(index.shape)


def _feistel(value: np.ndarray, half: np.ndarray, key: np.ndarray) -> np.ndarray:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = value >> half, value & mask
    with np.errstate(over="ignore"):
        for number in range(_ROUNDS):
            salt = key + np.uint64(number + 1) * _GOLDEN
            left, right = right, left ^ (_finalise(right + salt) & mask)
    return (left << half) | right


class Schedule:
    """Which task the context at a given position of the stream belongs to.

    Positions fall into periods. In each, every task has a fixed number of turns,
    proportional to its rate (at least one) and shuffled anew, so that the turn number
    of a task at any position follows from one period's table: the cost of a position
    does not grow with the position. A share is honoured to within one turn in a period
    (2^16 to 2^20 turns).
    """

    def __init__(self, rates: np.ndarray, seed: int, period: int | None = None):
        """Takes rates [tasks], non-negative with a positive sum, of any scale."""
        shares = np.asarray(rates, np.float64) / np.sum(rates)
        self.period = period or int(
            np.clip(2 ** np.ceil(np.log2(256 * len(shares))), 2**16, 2**20)
        )
        self.turns = _quotas(shares, self.period)
        self.seed = seed
        self._table = lru_cache(maxsize=2)(self._build)

    def _build(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        tasks = np.repeat(np.arange(len(self.turns), dtype=np.int32), self.turns)
        words = hash_of(self.seed, TASK_ORDER, number, np.arange(self.period))
        tasks = tasks[np.argsort(words, kind="stable")]
        # The how-manieth occurrence of its task each position is.
        order = np.argsort(tasks, kind="stable")
        first = np.cumsum(self.turns) - self.turns
        turn = np.empty(self.period, np.int32)
        turn[order] = np.arange(self.period) - first[tasks[order]]
        return tasks, turn

    def __call__(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Maps positions int64 [n] to (task int64 [n], turn of that task int64 [n])."""
        if len(self.turns) == 1:
            return np.zeros_like(positions), positions
        tasks = np.empty_like(positions)
        turns = np.empty_like(positions)
        numbers = positions // self.period
        for number in np.unique(numbers):
            table, table_turns = self._table(int(number))
            here = numbers == number
            within = positions[here] % self.period
            tasks[here] = table[within]
            turns[here] = table_turns[within] + number * self.turns[table[within]]
        return tasks, turns


def _quotas(shares: np.ndarray, period: int) -> np.ndarray:
    """Splits `period` turns by shares; a positive share gets at least one turn."""
    exact = shares * period
    turns = np.where(shares > 0, np.maximum(np.floor(exact), 1), 0).astype(np.int64)
    missing = period - int(turns.sum())
    if missing > 0:  # largest remainders first
        turns[np.argsort(turns - exact, kind="stable")[:missing]] += 1
    while missing < 0:  # the guaranteed turns of rare tasks come from the richest
        richest = int(np.argmax(turns))
        taken = min(-missing, max(1, int(turns[richest]) // 2))
        turns[richest] -= taken
        missing += taken
    return turns
