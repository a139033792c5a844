"""Rows from plain seqio, taken apart and held against the examples they are made of.

Ids are bytes + 3, `<x>` and `<y>` the two after the vocabulary's last: written out here,
so that nothing of ours judges ours.
"""

import re
import runpy
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from hypert5_jax.core.errors import UserError
from hypert5_jax.data.rows import RowFormat

seqio = pytest.importorskip(
    "seqio", reason="seqio, of the extra `data`, is not installed"
)
from hypert5_jax.preparation.plain_seqio import (
    EncDecRowConverter,
    RowConverter,
    register_rows,
)
from tests.preparation import toy_tasks

ROOT = Path(__file__).resolve().parents[2]
EOS, X, Y = 1, 3 + 256 + 10, 3 + 256 + 10 + 1
LONG = {"hyper_inputs": 400, "inputs": 40, "targets": 16}
SHOTS, WINDOW = 5, 8


def text_of(ids) -> str:
    return bytes(int(i) - 3 for i in ids if 3 <= i < 259).decode()


def shots_of(ids) -> list[tuple[str, str]]:
    """(x, y) of each `<x> x <y> y`; everything up to the padding must be of that form."""
    ids = [int(i) for i in ids if i]
    pairs = []
    while ids:
        assert ids[0] == X
        end = ids.index(X, 1) if X in ids[1:] else len(ids)
        middle = ids.index(Y)
        assert EOS not in ids[:end]
        pairs.append((text_of(ids[1:middle]), text_of(ids[middle + 1 : end])))
        ids = ids[end:]
    return pairs


@cache
def registered(name: str, suffix: str, **row) -> str:
    row = RowFormat(lengths=LONG, max_shots=SHOTS, **row)
    return register_rows(name, row, window=WINDOW, suffix=suffix)


def rows_of(name, lengths=LONG, converter=None, **kwargs) -> list[dict]:
    converter = converter or RowConverter()
    data = seqio.get_dataset(name, lengths, converter, **kwargs)
    return list(data.as_numpy_iterator())


EXAMPLES = list(toy_tasks._many())
TASK_OF = {row["inputs"]: row["task"] for row in EXAMPLES}
PAIRS = {(row["inputs"], row["targets"]) for row in EXAMPLES}
ALL = Counter(PAIRS)


def pair(row) -> tuple[str, str]:
    return text_of(row["inputs"]), text_of(row["targets"])


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("epochs", [1, 3])
def test_every_example_is_a_target_and_never_its_own_shot(shuffle, epochs):
    name = registered("toy_many", "rows")
    rows = rows_of(name, shuffle=shuffle, num_epochs=epochs, seed=1)
    # Windows cross the ends of epochs here: 26 is no multiple of 8.
    assert Counter(map(pair, rows)) == Counter({p: epochs for p in PAIRS})
    for row in rows:
        question, _ = pair(row)
        shots = shots_of(row["hyper_inputs"])
        assert len(shots) == SHOTS and set(shots) <= PAIRS
        questions = [x for x, _ in shots]
        # Also as equal texts: task b asks each question up to three times.
        assert question not in questions and len(set(questions)) == SHOTS
        assert {TASK_OF[x] for x in questions} == {TASK_OF[question]}


def test_shots_differ_from_row_to_row_and_with_the_seed():
    first = rows_of(registered("toy_many", "rows"))
    row = RowFormat(lengths=LONG, max_shots=SHOTS)
    name = register_rows("toy_many", row, window=WINDOW, seed=1, suffix="seed1")
    contexts = [tuple(r["hyper_inputs"]) for r in first]
    assert len(set(contexts)) == len(contexts)
    assert contexts != [tuple(r["hyper_inputs"]) for r in rows_of(name)]
    assert contexts == [
        tuple(r["hyper_inputs"]) for r in rows_of(registered("toy_many", "rows"))
    ]


@pytest.mark.parametrize("room", [60, 33, 9])
def test_whole_shots_are_dropped_from_the_end(room):
    name = registered("toy_many", "rows")
    short = rows_of(name, LONG | {"hyper_inputs": room})
    for cut, full in zip(short, rows_of(name), strict=True):
        ids = [int(i) for i in full["hyper_inputs"] if i]
        starts = [i for i, one in enumerate(ids) if one == X] + [len(ids)]
        # The longest run of whole shots that fits, or the first one cut.
        fits = max(end for end in starts if end <= room) or room
        assert [int(i) for i in cut["hyper_inputs"] if i] == ids[:fits]
        assert cut["hyper_inputs"].shape == (room,)


def test_a_cut_target_keeps_its_eos_and_an_input_has_none():
    name = registered("toy_many", "rows")
    lengths = LONG | {"inputs": 7, "targets": 4}
    for cut, full in zip(rows_of(name, lengths), rows_of(name), strict=True):
        assert np.array_equal(cut["inputs"], full["inputs"][:7])
        assert EOS not in full["inputs"]
        ids = [int(i) for i in full["targets"] if i]
        assert ids[-1] == EOS
        wanted = ids if len(ids) <= 4 else [*ids[:3], EOS]
        assert [int(i) for i in cut["targets"] if i] == wanted
        assert np.array_equal(cut["weights"], (cut["targets"] != 0).astype(np.float32))


def test_t5x_gets_the_features_it_knows():
    name = registered("toy_many", "rows")
    theirs = rows_of(name, converter=EncDecRowConverter())
    for row, ours in zip(theirs, rows_of(name), strict=True):
        assert np.array_equal(row["hyper_inputs"], ours["hyper_inputs"])
        assert np.array_equal(row["encoder_input_tokens"], ours["inputs"])
        targets = row["decoder_target_tokens"]
        assert np.array_equal(targets, ours["targets"])
        moved = np.concatenate([[0], targets[:-1]])
        count = int((targets != 0).sum())
        assert np.array_equal(row["decoder_input_tokens"][:count], moved[:count])
        assert np.array_equal(row["decoder_loss_weights"], targets != 0)
        assert {a.dtype for a in row.values()} == {np.dtype(np.int32)}


def test_label_words_are_drawn_anew_and_alike_in_shots_and_target():
    name = registered("toy_labels", "rows")
    answers = {f"question {i}": i % 2 for i in range(toy_tasks.COUNT)}
    drawn = []
    for row in rows_of(name):
        question, target = pair(row)
        said = re.fullmatch(r"is (zop|mib|tak)", target)
        words = defaultdict(set)
        words[answers[question]].add(said[1])
        for x, y in shots_of(row["hyper_inputs"]):
            words[answers[x]].add(y)  # a shot shows the label word alone
        assert all(len(of_label) == 1 for of_label in words.values())
        assert len({w for (w,) in words.values()}) == len(words)
        drawn.append(tuple(sorted((k, *v) for k, v in words.items())))
    assert len(set(drawn)) > 3


def test_a_tasks_own_context_takes_the_shots_where_it_says():
    vocabulary = toy_tasks.VOCABULARY
    for row in rows_of(registered("toy_context", "rows")):
        ids = [int(i) for i in row["hyper_inputs"] if i]
        before = [X, *vocabulary.encode("be brief")]
        after = [X - 1, *vocabulary.encode("end")]  # <extra_id_0> has the last id
        assert ids[: len(before)] == before and ids[-len(after) :] == after
        shots = shots_of(ids[len(before) : -len(after)])
        assert len(shots) == SHOTS and pair(row)[0] not in dict(shots)


def test_a_context_of_ids_is_given_as_it_is():
    rows = rows_of(registered("toy_ids", "rows"))
    for i, row in enumerate(rows):
        assert [int(j) for j in row["hyper_inputs"] if j] == [7, 8, i + 9]
    assert len(rows) == toy_tasks.COUNT


def test_ids_and_text_give_the_same_rows():
    text, ids = registered("toy_text", "rows"), registered("toy_tokenised", "rows")
    one, other = ([pair(r) for r in rows_of(n)] for n in (text, ids))
    assert one == other


def test_the_few_shot_baseline_reads_its_context_before_the_input():
    name = registered("toy_many", "baseline", context="downstream")
    lengths = {"inputs": 400 + 12 + 2, "targets": 16}
    converter = seqio.EncDecFeatureConverter(pack=False)
    for row in rows_of(name, lengths, converter):
        ids = [int(i) for i in row["encoder_input_tokens"] if i]
        assert ids.pop() == Y
        start = len(ids) - 1 - ids[::-1].index(X)
        question = text_of(ids[start + 1 :])
        shots = dict(shots_of(ids[:start]))
        assert len(shots) == SHOTS and question not in shots
        assert any(full.startswith(question) for full in TASK_OF)


def test_hosts_share_the_examples():
    name = registered("toy_many", "fewer", too_few="fewer")
    shards = [rows_of(name, shard_info=seqio.ShardInfo(i, 2)) for i in range(2)]
    assert sum((Counter(map(pair, rows)) for rows in shards), Counter()) == ALL


def test_a_mixture_of_rows_keeps_the_rates():
    name = registered("toy_rated", "rows")
    mixture = seqio.get_mixture_or_task(name)
    rates = {task.name: mixture.get_rate(task) for task in mixture.tasks}
    assert rates == {"toy_many_rows": 3.0, "toy_text_rows": 1.0}
    data = seqio.get_dataset(
        name, LONG, RowConverter(), num_epochs=None, shuffle=True, seed=3
    )
    rows = list(data.take(400).as_numpy_iterator())
    share = sum(pair(row) in PAIRS for row in rows) / len(rows)
    assert abs(share - 0.75) < 4 * (0.75 * 0.25 / 400) ** 0.5
    for row in rows:
        assert pair(row)[0] not in dict(shots_of(row["hyper_inputs"]))


def test_too_few_examples_are_told_left_out_or_put_up_with():
    row = RowFormat(lengths=LONG, max_shots=9)

    def rows(too_few):
        settings = RowFormat(**(vars(row) | {"too_few": too_few}))
        suffix = f"nine_{too_few}"
        return rows_of(register_rows("toy_many", settings, window=16, suffix=suffix))

    with pytest.raises(Exception, match="UserError: task 'b' has 8 different examples"):
        rows("error")
    kept = {TASK_OF[pair(r)[0]] for r in rows("skip")}
    assert kept == {"a", "c"}
    counts = Counter(len(shots_of(r["hyper_inputs"])) for r in rows("fewer"))
    assert counts == {9: 52, 8: 26}


def test_settings_that_cannot_be_served_are_refused():
    with pytest.raises(UserError, match="targets_per_context=2"):
        register_rows("toy_text", RowFormat(targets_per_context=2))
    with pytest.raises(UserError, match="window is 16; 16 shots and a target need"):
        register_rows("toy_text", RowFormat(), window=16)
    with pytest.raises(UserError, match="no seqio task or mixture is called 'toy_tex'"):
        register_rows("toy_tex")
    for converter in (RowConverter, EncDecRowConverter):
        with pytest.raises(UserError, match="rows are not packed"):
            converter(pack=True)
    name = registered("toy_many", "rows")
    assert registered.__wrapped__("toy_many", "rows") == name  # the same again is fine
    with pytest.raises(UserError, match="registered already, with other settings"):
        register_rows("toy_many", RowFormat(max_shots=2), suffix="rows")
    baseline = registered("toy_many", "baseline", context="downstream")
    converter = seqio.EncDecFeatureConverter(pack=False)
    with pytest.raises(UserError, match="which leaves none for the input"):
        rows_of(baseline, {"inputs": 402, "targets": 16}, converter)


@pytest.mark.parametrize("lengths", [None, LONG | {"targets": 3}])
def test_seqios_evaluator_judges_with_the_tasks_metrics(lengths):
    # With targets cut to 3 tokens the references are still the whole texts.
    name = registered("toy_many", "rows")
    evaluator = seqio.Evaluator(
        name,
        RowConverter(),
        eval_split="train",
        sequence_length=lengths,
        logger_cls=[],
    )
    answers = {x: y for x, y in PAIRS if not x.startswith("b")}

    def predict(dataset):
        found = []
        for number, row in dataset.as_numpy_iterator():
            answer = answers.get(text_of(row["inputs"]), "no idea")
            ids = [*toy_tasks.VOCABULARY.encode(answer), EOS]
            # As a decoder with a fixed number of steps has them.
            found.append((number, ids + [0] * (20 - len(ids))))
        return found[::-1]  # in any order

    results, _ = evaluator.evaluate(compute_metrics=True, predict_fn=predict)
    right = 100.0 * 52 / 78
    assert results.result()[name] == pytest.approx(
        {"exact_match": right, "accuracy": right}
    )


def test_any_of_several_references_is_right():
    name = registered("toy_references", "rows")
    task = seqio.get_mixture_or_task(name)
    data = task.get_dataset(LONG, "train", shuffle=False)
    for i, row in enumerate(data.as_numpy_iterator()):
        said = [r.decode() for r in row["references"]]
        assert said == [f"Answer  {i % 3}", "né"] and row["group"] == b"sums"


def test_the_example_of_the_documentation_prints_what_it_says(tmp_path, capsys):
    page = (ROOT / "docs" / "seqio.md").read_text()
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    printed = re.search(r"It prints\n\n```\n(.*?)```", page, re.DOTALL)[1]
    (tmp_path / "example.py").write_text(code)
    runpy.run_path(str(tmp_path / "example.py"))
    assert capsys.readouterr().out == printed


def test_real_instructions_become_rows(shared):
    import sentencepiece

    model = shared / "data" / "t5" / "vocab" / "t5_cc_all_32000.model"
    if not model.exists():
        pytest.skip(f"{model} is not here")
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    row = RowFormat(max_shots=4, too_few="fewer")
    name = register_rows("sni_def_shots_test", row, modules=["tasks.sni"])
    origin = seqio.get_mixture_or_task("sni_def_shots_test")
    examples = defaultdict(dict)
    definitions = {}
    source = origin.source.get_dataset("test", shuffle=False)
    for features in source.as_numpy_iterator():
        x, y = (processor.encode(features[k].decode()) for k in ("inputs", "targets"))
        examples[features["task"]].setdefault(tuple(x), []).append(tuple(y))
        text = features["context"].decode()
        assert text.startswith("<x> ") and text.endswith(" <shots>")
        definitions[features["task"]] = processor.encode(text[4:-8].strip())
    lengths = {"hyper_inputs": 1024, "inputs": 384, "targets": 128}
    task = seqio.get_mixture_or_task(name)
    count = whole = 0
    for features in task.get_dataset(lengths, "test", shuffle=False).take(300):
        features = {k: v.numpy() for k, v in features.items()}
        mine = examples[features["task"]]
        ids = features["hyper_inputs"].tolist()
        definition = [32_100, *definitions[features["task"]]]
        assert ids[: len(definition)] == definition[:1024] and len(ids) <= 1024
        pieces = _split(ids[len(definition) :], 32_100)
        x = features["inputs"].tolist()
        for i, piece in enumerate(pieces):
            if 32_101 not in piece:  # a first shot that was too long
                assert i == len(pieces) - 1 == 0 and len(ids) == 1024
                continue
            at = piece.index(32_101)
            shown, said = tuple(piece[:at]), tuple(piece[at + 1 :])
            assert shown[:384] != tuple(x) or len(shown) > 384
            whole += said in mine.get(shown, [])
            count += 1
        assert tuple(x) in {one[:384] for one in mine}
    assert count > 500 and whole >= count - 3  # cut ones are rare


def _split(ids: list[int], at: int) -> list[list[int]]:
    pieces: list[list[int]] = []
    for i in ids:
        if i == at:
            pieces.append([])
        else:
            pieces[-1].append(i)
    return pieces
