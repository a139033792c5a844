"""Rendering promptsource's templates: by hand, and against public rendered rows."""

import json
from pathlib import Path
from random import Random

import pytest

from hypert5_jax.core.errors import UserError

pytest.importorskip("jinja2", reason="Jinja2, of the extra `data`, is not installed")
pytest.importorskip("yaml", reason="PyYAML, of the extra `data`, is not installed")

from hypert5_jax.preparation.p3.promptsource import Template, read_templates

YAML = """dataset: colours
templates:
  1a: !Template
    answer_choices: light ||| dark
    id: 1a
    jinja: '{{colour}} is? ||| {{ answer_choices[label] }}'
    metadata: !TemplateMetadata
      original_task: true
      metrics:
      - Accuracy
    name: light/dark?
  2b: !Template
    answer_choices: null
    id: 2b
    jinja: "{% if label %}Name one ||| {{colour}}{% endif %}"
    name: only dark
"""
ROW = {"colour": "ink", "label": 1}


def template(jinja, choices="", truncate=True):
    return Template(Path("t.yaml"), "mine", jinja, choices, truncate)


def render(jinja, row, choices="", truncate=True, draw=None):
    draw = draw or Random(0)
    return template(jinja, choices, truncate).render(row, draw, "rows.jsonl:7")


def test_templates_are_read_by_the_title_that_p3_names_them_with(tmp_path):
    (tmp_path / "templates.yaml").write_text(YAML)
    found = read_templates(tmp_path / "templates.yaml")
    assert sorted(found) == ["light_dark_", "only_dark"]
    made = found["light_dark_"].render(ROW, Random(0), "")
    assert (made.inputs, made.targets) == ("ink is?", "dark")
    assert made.options == ("light", "dark")
    # Nothing rendered is no example.
    made = found["only_dark"].render(ROW | {"label": 0}, Random(0), "")
    assert (made.inputs, made.targets, made.options) == ("", "", ())


@pytest.mark.parametrize(
    "jinja, row, expected",
    [
        (" a  |||\n b ", {}, ("a", "b")),
        ("a ||| b ||| c", {}, ("", "")),
        ("a", {}, ("", "")),
        ("a ||| {% if x == 2 %}b{% endif %}", {"x": 1}, ("a", "")),
        # The data's own separators do not divide.
        ("{{x}} ||| {{x}}", {"x": "p ||| q"}, ("p ||| q", "p ||| q")),
        ("{% for a, b in zip(x, y) %}{{a}}{{b}}{% endfor %}|||c", {"x": [1, 2], "y": "uv"}, ("1u2v", "c")),
        ("{{ x | most_frequent | join(',') }}|||c", {"x": list("abcba")}, ("a,b", "c")),
        ("{{ [] | most_frequent }}|||c", {}, ("None", "c")),
        # An index beyond a field is nothing; so is a label of -1 in a dict.
        ('{{ x[3] }}a|||{{ {"0": "b"}[y] }}', {"x": [1], "y": -1}, ("a", "")),
        ("{% if z is defined %}{{z}}{% endif %}a|||b", {}, ("a", "b")),
        ("{{ a_b }}|||c", {"a-b": "d"}, ("d", "c")),
    ],
)  # fmt: skip
def test_prompt_and_answer(jinja, row, expected):
    made = render(jinja, row, truncate=False)
    assert (made.inputs, made.targets) == expected


def test_a_variable_is_cut_at_a_word_as_in_the_published_p3():
    words = "word " * 500  # 2,500 characters
    cut, whole = (render("{{x}}!|||y", {"x": words}, truncate=t) for t in (True, False))
    assert whole.inputs == words + "!"
    # 2,048 with the dots: 409 whole words of five characters are 2,045.
    assert cut.inputs == ("word " * 409)[:-1] + "...!"
    # Up to five characters more are left.
    assert render("{{x}}|||y", {"x": "z" * 2053}).inputs == "z" * 2053
    assert render("{{x}}|||y", {"x": "z" * 2054}).inputs == "z" * 2045 + "..."


def test_choice_is_drawn_from_the_rows_own_generator():
    jinja, row = "{{ ['a', 'b', 'c'] | choice }}|||d", {}
    made = [render(jinja, row, draw=Random(seed)).inputs for seed in range(40)]
    assert set(made) == {"a", "b", "c"}
    again = [render(jinja, row, draw=Random(seed)).inputs for seed in range(40)]
    assert made == again


@pytest.mark.parametrize(
    "jinja, row, message",
    [
        ("{{ premise }}|||b", {"text": "a"}, r"'premise' is undefined\); the row has .* text"),
        ("{% if label == 1 %}a{% endif %}|||b", {}, "'label' is undefined"),
        ("{% for p in parts %}{{p}}{% endfor %}|||b", {}, "'parts' is undefined"),
        ("{{ 1 / x }}|||b", {"x": 0}, "ZeroDivisionError"),
        ("{{ x[0] }}|||{{ [] | choice }}", {"x": "a"}, "IndexError"),
        ("{{ x.__class__.__mro__ }}|||b", {"x": "a"}, "unsafe|undefined"),
        ("{{ a }}|||b", {"a": 1, "answer_choices": []}, "rendered already"),
    ],
)  # fmt: skip
def test_a_template_that_fails_is_named_with_the_row(jinja, row, message):
    with pytest.raises(UserError, match=message) as told:
        render(jinja, row, truncate=False)
    assert "rows.jsonl:7" in str(told.value) and "\n" not in str(told.value)
    if "rendered already" not in message:
        assert "t.yaml: template 'mine' fails" in str(told.value)


def test_a_template_that_is_no_jinja_is_named():
    with pytest.raises(UserError, match="t.yaml: template 'mine' is no Jinja"):
        render("{% if %}|||", {})


@pytest.mark.parametrize(
    "content, message",
    [
        ("templates: [", "is not promptsource's"),
        ("a: 1", "KeyError: 'templates'"),
        ("templates: {1: !Template {name: a}}", "KeyError: 'jinja'"),
        ("templates: {1: !!python/object/apply:os.getcwd []}", "not promptsource's"),
    ],
)
def test_a_file_that_is_not_promptsources_is_told(tmp_path, content, message):
    (tmp_path / "t.yaml").write_text(content)
    with pytest.raises(UserError, match=message):
        read_templates(tmp_path / "t.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        read_templates(tmp_path / "none.yaml")


class _Scripted:
    """Draws the numbered item."""

    def __init__(self, number):
        self.number = number

    def choice(self, items):
        return items[self.number]


def test_public_rows_are_rendered_as_promptsource_renders_them(shared):
    # They were rendered whole (truncate=False) and, where a template draws, at random.
    folder = shared / "data" / "p3"
    rendered = sorted((folder / "eval_rendered").rglob("*.jsonl"))
    compared = drawn = 0
    for file in rendered:
        below = file.parent.relative_to(folder / "eval_rendered")
        (raw,) = (folder / "eval_raw" / below).glob("*.jsonl")
        found = read_templates(folder / "templates" / below / "templates.yaml", False)
        # The file names lost the underscores at their ends.
        made = {title.strip("_"): t for title, t in found.items()}[file.stem.strip("_")]
        rows = map(json.loads, raw.read_text().splitlines())
        for row, line in zip(rows, file.read_text().splitlines(), strict=False):
            fields = json.loads(line)
            expected = (
                fields["inputs"],
                fields["targets"],
                tuple(fields["answer_choices"]),
            )
            draws = (0, 1) if "| choice" in made.jinja else (0,)
            possible = [made.render(row, _Scripted(n), "") for n in draws]
            texts = [(one.inputs, one.targets, one.options) for one in possible]
            assert expected in texts, (file, line)
            compared += 1
            drawn += len(draws) > 1
    assert (len(rendered), compared, drawn) == (102, 5220, 60)
