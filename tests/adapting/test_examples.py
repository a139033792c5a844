"""Files of examples as people have them; every mistake is named with its line."""

import json

import pytest

from hypert5_jax.adapting.examples import TextInput, read_examples, read_inputs
from hypert5_jax.core.errors import UserError

PAIRS = [("a fine film", "good"), ("dull, and long", "bad")]
LINES = "".join(json.dumps({"input": a, "target": b}) + "\n" for a, b in PAIRS)


def pairs(path):
    return [(e.input, e.target) for e in read_examples(str(path)).examples]


def written(tmp_path, name, content):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("few.jsonl", LINES),
        ("few.jsonl", "\ufeff\n" + LINES.replace("\n", "\r\n")),
        ("few.jsonl", LINES.replace('"input"', '"inputs"').replace("target", "output")),
        ("few.ndjson", LINES),
        ("few.JSONL", LINES),
        ("few.json", json.dumps([{"input": a, "targets": b} for a, b in PAIRS])),
        ("few.CSV", 'input,target\na fine film,good\n"dull, and long",bad\n'),
        ("few.csv", 'n,n,input,target\n,,a fine film,good\n,,"dull, and long",bad\n'),
        ("few.csv", 'input,target\na fine film,good\n"dull, and long",bad\n'),
        (
            "few.tsv",
            "id\tinput\ttarget\n1\ta fine film\tgood\n2\tdull, and long\tbad\n",
        ),
    ],
)
def test_one_content_in_every_kind_of_file(tmp_path, name, content):
    assert pairs(written(tmp_path, name, content)) == PAIRS


def test_separators_of_unicode_do_not_end_a_line(tmp_path):
    line = '{"input": "a\u2028b\x85c", "target": "d"}'
    assert pairs(written(tmp_path, "few.jsonl", line)) == [("a\u2028b\x85c", "d")]


def test_a_task_file_gives_its_definition_and_two_positive_examples(tmp_path):
    task = {
        "Definition": [" Say yes. "],
        "Positive Examples": [
            {"input": c, "output": c * 2, "explanation": ""} for c in "abc"
        ],
    }
    file = written(tmp_path, "task.json", json.dumps(task))
    found = read_examples(str(file))
    assert found.instruction == "Say yes."
    assert pairs(file) == [("a", "aa"), ("b", "bb")]


def test_the_public_task_files_are_read(shared):
    files = sorted((shared / "data" / "sni" / "tasks").glob("*.json"))
    assert files
    for file in files:
        found = read_examples(str(file))
        task = json.loads(file.read_text())
        assert found.instruction == task["Definition"][0].strip()
        assert [e.input for e in found.examples] == [
            p["input"] for p in task["Positive Examples"][:2]
        ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("few.jsonl", "", "few.jsonl holds no examples"),
        ("few.csv", "", "few.csv holds no examples"),
        ("few.csv", "input,target\n", "holds no examples"),
        ("few.json", "[]", "holds no examples"),
        (
            "few.jsonl",
            LINES + '{"input": "a"}',
            "few.jsonl:3 has no field `target`.*`in",
        ),
        ("few.jsonl", '\n{"target": "a"}', "few.jsonl:2 has no field `input`"),
        ("few.jsonl", LINES + "{'input'", "few.jsonl:3 is not JSON.*column 2"),
        ("few.jsonl", '["a", "b"]', "few.jsonl:1 is .*expected an object"),
        (
            "few.jsonl",
            '{"input": "a", "target": " "}',
            "few.jsonl:1: the target is empty",
        ),
        ("few.jsonl", '{"input": "a", "target": 3}', "few.jsonl:1: `target` is 3"),
        ("few.jsonl", '{"input": "a", "target": null}', "no field `target`"),
        ("few.jsonl", '{"input": "", "inputs": "", "target": "b"}', "both `input`"),
        (
            "few.jsonl",
            b'{"input": "a"\n"\xe9"}',
            r"few.jsonl:2 is not UTF-8 \(byte 0xe9",
        ),
        ("few.jsonl", "[" * 100_000, "few.jsonl:1"),
        ("few.csv", "text,label\na,b\n", "few.csv:1 names the columns 'text', 'label'"),
        ("few.csv", "input,target\na,b,c\n", "few.csv:2 has more columns"),
        ("few.csv", "input,target\na\n", "few.csv:2 has no field `target`"),
        ("few.csv", 'input,target\n"a,b\n', "few.csv:2 is no table row"),
        ("few.json", '{"a": 1}', "neither a list of examples nor a Super-Natural"),
        ("few.json", "{\n'", "few.json:2 is not JSON"),
        ("few.json", '{"Definition": []}', "`Definition` is empty"),
        ("few.txt", "a\n", "of no known kind"),
        ("few.csv", "input,target,target\na,b,c\n", "few.csv:1 has `target` twice"),
        ("few.jsonl", '{"input": "a", "input": "b"}', "few.jsonl:1 has `input` twice"),
        (
            "few.jsonl",
            r'{"input": "a \ud800", "target": "b"}',
            r"few.jsonl:1: `input` is 'a \\ud800', which holds half a character",
        ),
        ("few.json", r'{"Definition": "\ud800"}', "`Definition` is .* half a char"),
        (
            "few.jsonl",
            '{"input": ' + "1" * 5000 + "}",
            "few.jsonl:1 is not JSON.*digits",
        ),
    ],
)
def test_mistakes_have_a_place(tmp_path, name, content, message):
    with pytest.raises(UserError, match=message):
        read_examples(str(written(tmp_path, name, content)))


def test_inputs_are_lines_rows_or_objects(tmp_path):
    def read(name, content):
        return read_inputs(str(written(tmp_path, name, content)))

    plain = [TextInput("a b"), TextInput(""), TextInput("c")]
    assert read("in.txt", "a b\r\n\nc\n") == plain
    assert read("in.csv", "input,n\na b,1\nc,2\n") == plain[::2]
    lines = '{"input": "a", "options": ["x", "y"]}\n{"input": "b"}\n'
    found = read("in.jsonl", lines)
    assert found == [TextInput("a", ("x", "y")), TextInput("b")]
    listed = f"[{','.join(lines.splitlines())}]"
    for name, content in (
        ("in.NDJSON", lines),
        ("in.json", listed),
        ("in.JSON", listed),
    ):
        assert read(name, content) == found
    with pytest.raises(UserError, match="in.json is no list of inputs"):
        read("in.json", '{"input": "a"}')
    with pytest.raises(UserError, match="in.json: entry 2 is 'b'; expected an object"):
        read("in.json", '[{"input": "a"}, "b"]')
    with pytest.raises(UserError, match="in.json holds no inputs"):
        read("in.json", "[]")
    for content, message in (
        (r'{"input": "a", "options": ["\ud800"]}', "in.jsonl:1: `options` is .*half a"),
        ('{"input": "a", "options": "x"}', "in.jsonl:1: `options` is 'x'"),
        ('{"inpt": "a"}', "in.jsonl:1 has no field `input`.*`inpt`"),
        ("", "holds no inputs"),
    ):
        with pytest.raises(UserError, match=message):
            read("in.jsonl", content)
    with pytest.raises(UserError, match="cannot read .*absent"):
        read_inputs(str(tmp_path / "absent.txt"))
