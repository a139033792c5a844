"""The compiled text read: shapes, and how often a loop runs, cases made by hand."""

import pytest

from hypert5_jax.planning import hlo

LOOP = """HloModule by_hand

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {{
  %p = (s32[], f32[8]{{0}}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[8]{{0}} get-tuple-element(%p), index=1
  %stride = s32[] constant({stride})
  %next = s32[] add(%i, %stride)
  ROOT %out = (s32[], f32[8]{{0}}) tuple(%next, %x)
}}

%condition (q: (s32[], f32[8])) -> pred[] {{
  %q = (s32[], /*index=1*/f32[8]{{0}}) parameter(0)
  %j = s32[] get-tuple-element(%q), index=0
  %bound = s32[] constant({bound})
  ROOT %less = pred[] compare(%j, %bound), direction={direction}
}}

ENTRY %main (a: f32[8]) -> (s32[], f32[8]) {{
  %a = f32[8]{{0}} parameter(0)
  %start = s32[] constant({start})
  %begin = (s32[], f32[8]{{0}}) tuple(%start, %a)
  ROOT %loop = (s32[], f32[8]{{0}}) while(%begin), condition=%condition, body=%body
}}
"""


def trips(text):
    module = hlo.parse(text)
    return hlo.trip_count(module, "main", module.computations["main"]["loop"])


@pytest.mark.parametrize(
    ("start", "bound", "stride", "direction", "expected"),
    [
        (0, 24, 1, "LT", 24),
        (0, 24, 1, "LE", 25),
        (3, 24, 2, "LT", 11),  # 3, 5, … 23
        (24, 0, -1, "GT", 24),
        (0, 7, 7, "NE", 1),
        (5, 5, 1, "LT", 0),
    ],
)
def test_a_loop_is_counted_from_its_counter(start, bound, stride, direction, expected):
    values = {"start": start, "bound": bound, "stride": stride, "direction": direction}
    assert trips(LOOP.format(**values)) == expected


def test_what_the_compiler_wrote_down_comes_first():
    text = LOOP.format(start=0, bound=24, stride=1, direction="LT")
    end = "body=%body"
    known = f'{end}, backend_config={{"known_trip_count":{{"n":"5"}}}}'
    assert trips(text.replace(end, known)) == 5


def test_a_bound_that_another_part_of_the_loop_carries_is_found():
    text = LOOP.format(start=0, bound=9, stride=1, direction="LT")
    text = text.replace("(s32[], f32[8])", "(s32[], f32[8], s32[])")
    text = text.replace("tuple(%next, %x)", "tuple(%next, %x, %n)")
    text = text.replace(
        "%next =", "%n = s32[] get-tuple-element(%p), index=2\n  %next ="
    )
    text = text.replace(
        "%bound = s32[] constant(9)", "%bound = s32[] get-tuple-element(%q), index=2"
    )
    text = text.replace("tuple(%start, %a)", "tuple(%start, %a, %many)")
    text = text.replace("%begin =", "%many = s32[] constant(13)\n  %begin =")
    assert trips(text) == 13


def test_a_loop_that_may_stop_early_is_counted_to_its_end():
    text = LOOP.format(start=0, bound=24, stride=1, direction="LT")
    text = text.replace("ROOT %less", "%less")
    text = text.replace(
        "direction=LT\n",
        "direction=LT\n  %going = pred[] custom-call(%q)\n"
        "  ROOT %both = pred[] and(%going, %less)\n",
    )
    assert trips(text) == 24


def test_a_loop_nobody_can_count_is_said_to_be_one():
    text = LOOP.format(start=0, bound=24, stride=1, direction="LT")
    assert trips(text.replace("add(%i, %stride)", "multiply(%i, %stride)")) is None


def test_shapes_have_their_bytes_and_their_memory():
    text = """ENTRY %main (a: bf16[32,1024]) -> (bf16[32,1024], pred[8], s4[10]) {
  ROOT %a = (bf16[32,1024]{1,0:T(8,128)(2,1)S(1)}, pred[8]{0}, s4[10]{0}) parameter(0)
}"""
    (one,) = hlo.parse(text).computations["main"].values()
    assert [s.dims for s in one.shapes] == [(32, 1024), (8,), (10,)]
    assert [s.nbytes for s in one.shapes] == [65536, 8, 5]
    assert [s.in_hbm for s in one.shapes] == [False, True, True]


def test_text_that_is_no_module_is_refused():
    with pytest.raises(ValueError, match="ENTRY"):
        hlo.parse("HloModule nothing")
