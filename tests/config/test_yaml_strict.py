"""Strict YAML: what plain values mean, and what is refused with its line."""

from __future__ import annotations

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from megadape.config.tree import Origin
from megadape.config.yaml_strict import Parsed, parse


def read(text: str) -> Parsed:
    return parse(text, lambda mark: Origin("file.yaml", mark.line + 1))


def value_of(text: str) -> object:
    parsed = read(f"key: {text}")
    assert parsed.problems == []
    assert parsed.root is not None
    return parsed.root.plain()["key"]


def problems_of(text: str) -> list[str]:
    return [str(problem) for problem in read(text).problems]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-1.5e+2", -150.0),
        ("3.14", 3.14),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("7", 7),
        ("-7", -7),
        ("+7", 7),
        ("0", 0),
        ("0x1F", 31),
        ("true", True),
        ("True", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
    ],
)
def test_core_schema(text: str, expected: object) -> None:
    value = value_of(text)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    "text",
    [
        "12:30:00", "010", "0o10", "00", "-010", "1_000", "1_000.5", "yes", "no", "on", "off", "y", "Y", "tRue",
        "2024-01-01", "2024-01-01T10:00:00Z", "0b11", "1e", "e5", ".", "1.2.3", "nan", "inf", "=", "<<", "1,000", "+",
    ],
)  # fmt: skip
def test_stays_what_was_typed(text: str) -> None:
    assert value_of(text) == text


def test_quotes_and_the_tag_str_make_text() -> None:
    assert [value_of(text) for text in ("'5'", '"true"', "!!str 5", "''")] == ["5", "true", "5", ""]


def test_not_a_number_is_read() -> None:
    assert math.isnan(value_of(".nan"))  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "\n\n"])
def test_an_empty_file_is_an_empty_mapping(text: str) -> None:
    parsed = read(text)
    assert parsed.problems == []
    assert parsed.root is not None
    assert parsed.root.plain() == {}


def test_every_key_knows_its_line() -> None:
    parsed = read("a: 1\nb:\n  c: [1,\n    2]\n  d:\n    - x: 1\n      y: 2\n")
    assert parsed.root is not None
    lines = {
        path: parsed.root.origin_at(path).line
        for path in [("a",), ("b",), ("b", "c"), ("b", "c", 1), ("b", "d"), ("b", "d", 0), ("b", "d", 0, "y")]
    }
    assert list(lines.values()) == [1, 2, 3, 4, 5, 6, 7]


def test_anchors_repeat_a_value() -> None:
    parsed = read("a: &shared {x: 1}\nb: *shared\n")
    assert parsed.root is not None
    assert parsed.root.plain() == {"a": {"x": 1}, "b": {"x": 1}}


def test_equal_keys_give_both_lines() -> None:
    assert problems_of("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\na: 2\n") == [
        "file.yaml:5: b.c: the key is given twice, first at file.yaml:3; keep one",
        "file.yaml:6: a: the key is given twice, first at file.yaml:1; keep one",
    ]


@pytest.mark.parametrize("key", ["1", "1.5", "true", "null", "~"])
def test_keys_must_be_text(key: str) -> None:
    assert problems_of(f"a:\n  {key}: x\n") == [
        f'file.yaml:2: a: a key must be text, not {key}; put it in quotes: "{key}"'
    ]
    assert problems_of(f'"{key}": x\n') == []


@pytest.mark.parametrize(
    ("text", "start", "words"),
    [
        ("a:\n\tb: 1\n", "file.yaml:2:1: ", "a tab stands where only spaces are allowed"),
        ("a: 1\nb: c: d\n", "file.yaml:2:5: ", "a colon is not allowed here"),
        ("a: [1, 2\nb: 3\n", "file.yaml:2:2: ", "malformed YAML"),
        ("a: 'x\n", "file.yaml:2:1: ", "malformed YAML"),
        ("a: 1\n---\nb: 2\n", "file.yaml:2:1: ", "a second document"),
        ("a: *nowhere\n", "file.yaml:1:4: ", "undefined alias"),
        ("a: 1\nb: \x00\n", "file.yaml:2:4: ", "U+0000"),
        ('a: 1\nb: "\\U99999999"\n', "file.yaml:2:7: ", "not a Unicode character"),
        ("a: !!python/object/apply:os.system [ls]\n", "file.yaml:1: a: ", "os.system is not allowed"),
        ("a: !!timestamp 2024-01-01\n", "file.yaml:1: a: ", "!!timestamp is not allowed"),
        ("a: !!set {x}\n", "file.yaml:1: a: ", "!!set is not allowed"),
        ("a: !!int x\n", "file.yaml:1: a: ", '"x" does not fit its tag !!int'),
        ("x: &x {a: 1}\ny:\n  <<: *x\n", "file.yaml:3: y: ", "merge keys (<<) are not supported"),
        ("? [a]\n: 1\n", "file.yaml:1: ", "not a list or a mapping"),
        ("a: &a [*a]\n", "file.yaml:1: a[0]: ", "the alias stands inside the value that it repeats"),
        ('a: "\\ud800"\n', "file.yaml:1: a: ", "surrogate"),
        ("a: " + "1" * 5000, "file.yaml:1: a: ", "5,000 digits"),
        ("a: " + "[" * 100 + "]" * 100, "file.yaml:1: a[0][0]: ", "more than 64 levels"),
        ("[" * 5000, "file.yaml:1:", "nested too deeply"),
    ],
)  # fmt: skip
def test_refused_with_its_place(text: str, start: str, words: str) -> None:
    (problem,) = problems_of(text)
    assert problem.startswith(start)
    assert words in problem


def test_aliases_cannot_grow_without_limit() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    (problem,) = problems_of("\n".join(lines))
    assert "expand to more than 100,000 values" in problem


@given(st.text(st.sampled_from("ab:-?[]{},&*!|>'\"%@`#\n\t \\xuU01.~<\ud800\x00é")) | st.text())
def test_any_text_is_data_or_a_problem(text: str) -> None:
    parsed = read(text)
    assert parsed.root is not None or parsed.problems


@given(st.from_regex(r"[-+]?[0-9]{1,4}(\.[0-9]{0,3})?([eE][-+]?[0-9]{1,2})?", fullmatch=True))
def test_numbers_are_those_of_python_unless_zeros_lead(text: str) -> None:
    whole = text.lstrip("+-").replace("E", "e").partition("e")[0].partition(".")[0]
    if len(whole) > 1 and whole.startswith("0"):
        assert value_of(text) == text
    else:
        assert value_of(text) == float(text)


@given(st.integers(min_value=2**63) | st.integers(max_value=-(2**63)))
def test_whole_numbers_beyond_64_bits_are_refused_where_they_stand(number: int) -> None:
    (problem,) = problems_of(f"a: 1\nb:\n  c: {number}\n")
    assert "3: b.c: the number is beyond 9,223,372,036,854,775,807" in problem


@given(
    st.recursive(
        st.integers(-(2**63) + 1, 2**63 - 1) | st.text("abc 1:#'\"\n"),
        lambda inner: st.dictionaries(st.text("xyz", min_size=1), inner),
    )
)
def test_reads_what_pyyaml_writes(value: object) -> None:
    parsed = read(yaml.safe_dump({"key": value}))
    assert parsed.problems == []
    assert parsed.root is not None
    assert parsed.root.plain() == {"key": value}
