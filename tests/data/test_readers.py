"""Readers: every format and compression, the order of files, and errors that name file, line and content."""

import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megadape.data import CorpusReader
from megadape.errors import DataError

Compress = Callable[[bytes], bytes]


def zstd_frames(content: bytes) -> bytes:
    """Several frames and a skippable one, cut anywhere in the text."""
    third = len(content) // 3 + 1
    parts = [content[i : i + third] for i in range(0, len(content), third)]
    skippable = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"
    return skippable + b"".join(zstandard.compress(part) for part in parts)


def gzip_members(content: bytes) -> bytes:
    half = len(content) // 2
    return gzip.compress(content[:half]) + gzip.compress(content[half:])


COMPRESSIONS: dict[str, Compress] = {"": bytes, ".gz": gzip_members, ".zst": zstd_frames}


def texts(*inputs: Path | str, **options: object) -> list[str]:
    return [document.text for document in CorpusReader(inputs, **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize("ending", COMPRESSIONS)
@given(documents=st.lists(st.text(), min_size=1), blank=st.sampled_from(["\n", "\r\n", "\n\n  \n"]), last=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_json_lines(tmp_path: Path, ending: str, documents: list[str], blank: str, last: bool) -> None:
    content = blank.join(json.dumps({"id": n, "text": text}) for n, text in enumerate(documents)) + blank * last
    path = tmp_path / f"x.jsonl{ending}"
    path.write_bytes(COMPRESSIONS[ending](content.encode()))
    assert texts(path) == documents


@pytest.mark.parametrize("ending", COMPRESSIONS)
@pytest.mark.parametrize("indent", [None, 2])
def test_json_lists_and_json_lines_in_json_files(tmp_path: Path, ending: str, indent: int | None) -> None:
    records = [{"text": "one\n"}, {"text": ""}, {"text": "drei ü"}]
    path = tmp_path / f"x.json{ending}"
    path.write_bytes(COMPRESSIONS[ending](b"\n " + json.dumps(records, indent=indent).encode()))
    assert texts(path) == ["one\n", "", "drei ü"]
    path.write_bytes(COMPRESSIONS[ending]("\n".join(map(json.dumps, records)).encode()))
    assert texts(path) == ["one\n", "", "drei ü"]


@pytest.mark.parametrize("ending", COMPRESSIONS)
def test_a_text_file_is_one_document_byte_for_byte(tmp_path: Path, ending: str) -> None:
    text = "first\r\nsecond\n\n\0 üñ\u2028\x85 end"
    path = tmp_path / f"x.txt{ending}"
    path.write_bytes(COMPRESSIONS[ending](text.encode()))
    assert texts(path) == [text]


@pytest.mark.parametrize("name", ["x.txt", "x.jsonl", "x.json"])
def test_a_byte_order_mark_is_no_text(tmp_path: Path, name: str) -> None:
    content = "word" if name == "x.txt" else '{"text": "word"}'
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content.encode())
    assert texts(tmp_path / name) == ["word"]


def test_other_keys_and_positions(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"body": "a"}\n\n{"body": "b", "text": 5}\n')
    documents = list(CorpusReader([path], json_key="body"))
    assert [(document.text, document.source, document.line) for document in documents] == [
        ("a", path, 1),
        ("b", path, 3),
    ]


def tree(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def test_folders_and_globs_are_sorted_and_recursive(tmp_path: Path) -> None:
    tree(tmp_path, "b.txt", "a/z.txt", "a/b/c.txt", "a.txt", "B.TXT", "note.md", ".hidden.txt", ".git/x.txt")
    expected = ["B.TXT", "a.txt", "a/b/c.txt", "a/z.txt", "b.txt"]
    assert texts(tmp_path) == expected
    assert texts(f"{tmp_path}/**/*.txt") == ["a.txt", "a/b/c.txt", "a/z.txt", "b.txt"]
    assert texts(f"{tmp_path}/[ab].txt") == ["a.txt", "b.txt"]
    assert texts(f"{tmp_path}/a*") == ["a.txt", "a/b/c.txt", "a/z.txt"]


def test_inputs_keep_their_order_and_a_file_is_read_once(tmp_path: Path) -> None:
    tree(tmp_path, "a.txt", "b.txt", "c.txt")
    assert texts(tmp_path / "c.txt", tmp_path, tmp_path / "a.txt") == ["c.txt", "a.txt", "b.txt"]


def test_a_file_whose_name_looks_like_a_glob(tmp_path: Path) -> None:
    tree(tmp_path, "x[1].txt")
    assert texts(tmp_path / "x[1].txt") == ["x[1].txt"]


def test_further_suffixes_are_plain_text(tmp_path: Path) -> None:
    tree(tmp_path, "a.py", "b.txt", "c.md", "d.rst")
    assert texts(tmp_path, text_suffixes=(".py", "MD")) == ["a.py", "b.txt", "c.md"]
    with pytest.raises(DataError, match=r"d.rst has no known format: files must end in one of \.txt"):
        texts(tmp_path / "d.rst")


def test_excluded_files_are_passed_over(tmp_path: Path) -> None:
    tree(tmp_path, "a.txt", "b.txt")
    assert texts(tmp_path, exclude=(tmp_path / "a.txt",)) == ["b.txt"]


def test_sources_are_counted_and_hashed_as_stored(tmp_path: Path) -> None:
    contents = {"a.txt": b"hello", "b.jsonl.gz": gzip.compress(b'{"text": "x"}\n' * 1000)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    reader = CorpusReader([tmp_path])
    assert reader.read_bytes == 0
    assert len(list(reader)) == 1001
    assert reader.read_bytes == reader.total_bytes == sum(map(len, contents.values()))
    for source, content in zip(reader.sources, contents.values(), strict=True):
        assert (source.size, source.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_files_that_are_not_utf8_are_an_error_or_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\ntwo \xff three")
    (tmp_path / "b.txt").write_bytes(b"fine")
    with pytest.raises(DataError, match=r"a.txt, line 2: byte 0xff is not valid UTF-8; it begins b'\\xff three'"):
        texts(tmp_path)
    reader = CorpusReader([tmp_path], skip_undecodable=True)
    assert [document.text for document in reader] == ["fine"]
    assert reader.undecodable == [tmp_path / "a.txt"]


GOOD = b'{"text": "good"}\n'
BAD_LINES = [
    (b'{"text": "cut', r"not valid JSON \(.*\); it begins b'\{\"text\": \"cut"),
    (b'{"text": NaN}', "the value of 'text' must be a string, not a number"),
    (b'{"text": "x", "score": nan}', "not valid JSON"),
    (b'{"text": "\\ud800"}', r"the value of 'text' holds half of a surrogate pair, '\\ud800'"),
    (b'{"text": "\xff"}', r"byte 0xff is not valid UTF-8; it begins b'\\xff\"}'"),
    (b'{"text": "a", "more": ' + b"[" * 100_000, r"not valid JSON \(nested too deeply\)"),
    (b'{"text": "a"} {"text": "b"}', "not valid JSON"),
    (b'{"other": 1, "third": 2}', r"no key 'text' \(its keys: 'other', 'third'\)"),
    (b"{}", r"no key 'text' \(its keys: none\)"),
    (b'{"text": null}', "the value of 'text' must be a string, not a null"),
    (b'{"text": 5}', "must be a string, not a number"),
    (b'{"text": ["a"]}', "must be a string, not a list"),
    (b'{"text": true}', "must be a string, not a boolean"),
    (b'"a string"', "a JSON object is wanted, not a string"),
    (b'["a"]', "a JSON object is wanted, not a list"),
    (b"null", "a JSON object is wanted, not a null"),
    (b"plain words", "not valid JSON"),
]


@pytest.mark.parametrize("ending", COMPRESSIONS)
@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_a_bad_line_is_named(tmp_path: Path, ending: str, line: bytes, message: str) -> None:
    path = tmp_path / f"x.jsonl{ending}"
    path.write_bytes(COMPRESSIONS[ending](GOOD * 2 + b"\n" + line + b"\n" + GOOD))
    with pytest.raises(DataError, match=rf"x.jsonl{ending}, line 4: .*{message}"):
        texts(path)


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ('[\n {"text": "a"},\n {"text": 5}\n]', 3, 'must be a string, not a number; it begins b\'{"text": 5}'),
        ('[{"text": "a"}, "b"]', 1, "a JSON object is wanted, not a string"),
        ('\n\n[\n{"text": "a"},\n\n\n{"no": 1}]', 7, "has no key 'text'"),
        ('[\n{"text": "a"}\n{"text": "b"}]', 3, "not valid JSON"),
        ('\n[\n{"text": NaN}]', 3, "must be a string, not a number"),
    ],
)
def test_a_bad_element_of_a_list_is_named(tmp_path: Path, content: str, line: int, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(DataError, match=rf"x.json, line {line}: .*") as error:
        texts(path)
    assert message in str(error.value)


@pytest.mark.parametrize("ending", [".gz", ".zst"])
@pytest.mark.parametrize("keep", [0.3, 0.7, 0.999])
def test_a_truncated_file_is_an_error_and_not_its_end(tmp_path: Path, ending: str, keep: float) -> None:
    lines = b"".join(b'{"text": "%s"}\n' % hashlib.sha256(b"%d" % n).hexdigest().encode() for n in range(20_000))
    whole = {".gz": gzip.compress, ".zst": zstandard.compress}[ending](lines)
    path = tmp_path / f"x.jsonl{ending}"
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(DataError, match=rf"x.jsonl{ending}, (after )?line \d+: "):
        texts(path)


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_file_that_is_not_compressed_is_named(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x.txt{ending}"
    path.write_bytes(b"plain text")
    with pytest.raises(DataError, match=rf"x.txt{ending}, after line 0: the file is truncated or damaged"):
        texts(path)


def test_inputs_that_give_nothing_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"there is no .*missing\.txt"):
        texts(tmp_path / "missing.txt")
    with pytest.raises(DataError, match=r"no file matches .*\*\.txt"):
        texts(f"{tmp_path}/*.txt")
    with pytest.raises(DataError, match=r"empty gives no file to read: files must end in one of \.txt"):
        texts(tmp_path / "empty")
    with pytest.raises(DataError, match="neither a file nor a folder"):
        texts("/dev/null")
