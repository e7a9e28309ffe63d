"""The pair of files: golden bytes, reading, refusal of damaged files, safety of writing."""

import os
import pickle
import re
import resource
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megadape.data import IndexedDataset, IndexedDatasetWriter, best_dtype
from megadape.errors import DataError

GOLDEN = [[[5, 6, 7]], [[1]], [], [[9, 10], [11, 12, 13, 14]]]
GOLDEN_BIN = bytes.fromhex("050006000700010009000a000b000c000d000e00")
GOLDEN_IDX = bytes.fromhex(
    "4d4d4944494458000001000000000000000804000000000000000500000000000000"
    "03000000010000000200000004000000"
    "0000000000000000060000000000000008000000000000000c00000000000000"
    "00000000000000000100000000000000020000000000000002000000000000000400000000000000"
)
TYPES = ["u1", "i1", "i2", "i4", "i8", "u2"]


def write(prefix: Path, documents: list[list[list[int]]], dtype: str = "u2") -> Path:
    with IndexedDatasetWriter(prefix, dtype) as writer:
        for document in documents:
            writer.add_document(document)
    return prefix


def read(dataset: IndexedDataset) -> list[list[list[int]]]:
    bounds = dataset.document_index.tolist()
    return [[sequence.tolist() for sequence in dataset[a:b]] for a, b in pairwise(bounds)]


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    return write(tmp_path / "golden", GOLDEN)


def test_bytes_equal_the_golden_pair(golden: Path) -> None:
    assert golden.with_suffix(".bin").read_bytes() == GOLDEN_BIN
    assert golden.with_suffix(".idx").read_bytes() == GOLDEN_IDX
    assert sorted(path.name for path in golden.parent.iterdir()) == ["golden.bin", "golden.idx"]


def test_documents_written_in_bulk_give_the_same_bytes(tmp_path: Path) -> None:
    one = write(tmp_path / "one", [[[5, 6]], [], [[7]], [], [[8, 9, 10]]])
    with IndexedDatasetWriter(tmp_path / "bulk", "u2") as writer:
        writer.add_documents([5, 6, 7], [2, 0, 1])
        writer.add_documents([], [])
        writer.add_documents([8, 9, 10], [0, 3])
    for ending in (".bin", ".idx"):
        assert (tmp_path / f"bulk{ending}").read_bytes() == one.with_suffix(ending).read_bytes()


@given(
    documents=st.lists(st.lists(st.lists(st.integers(0, 127), max_size=5), max_size=3), max_size=6),
    dtype=st.sampled_from(TYPES),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_reads_what_was_written(tmp_path: Path, documents: list[list[list[int]]], dtype: str) -> None:
    dataset = IndexedDataset(write(tmp_path / "any", documents, dtype))
    assert dataset.dtype == np.dtype(dtype)
    assert read(dataset) == documents
    assert dataset.sizes.tolist() == [len(sequence) for document in documents for sequence in document]


@pytest.mark.parametrize("kind", [int, np.int8, np.int32, np.uint16, np.int64, np.uint64])
def test_any_integer_type_is_an_index(golden: Path, kind: type[int]) -> None:
    dataset = IndexedDataset(str(golden))
    assert dataset[kind(3)].tolist() == [11, 12, 13, 14]


def test_indexes_and_slices(golden: Path) -> None:
    dataset = IndexedDataset(golden)
    assert len(dataset) == 4
    assert dataset[-1].tolist() == [11, 12, 13, 14]
    assert [s.tolist() for s in dataset[::-2]] == [[11, 12, 13, 14], [1]]
    assert [s.tolist() for s in dataset[2:99]] == [[9, 10], [11, 12, 13, 14]]
    assert dataset.get(3, 1, 2).tolist() == [12, 13]
    assert dataset.get(3, 4).tolist() == []
    assert [len(s) for s in dataset] == [3, 1, 2, 4]
    for wrong in (4, -5, np.int64(4)):
        with pytest.raises(IndexError, match="of 4"):
            dataset[wrong]
    with pytest.raises(IndexError, match="which has 4"):
        dataset.get(3, 2, 3)
    with pytest.raises(TypeError):
        dataset[1.0]  # type: ignore[call-overload]


def test_a_pickled_dataset_opens_again(golden: Path) -> None:
    content = pickle.dumps(IndexedDataset(golden))
    assert len(content) < 1000
    assert read(pickle.loads(content)) == GOLDEN  # noqa: S301 - our own bytes


def test_dots_in_a_prefix_are_kept(tmp_path: Path) -> None:
    write(tmp_path / "v1.5", GOLDEN)
    assert (tmp_path / "v1.5.bin").exists()
    assert read(IndexedDataset(tmp_path / "v1.5")) == GOLDEN


@pytest.mark.parametrize("ending", [".bin", ".idx"])
def test_one_file_of_the_pair_is_not_the_prefix(golden: Path, ending: str) -> None:
    with pytest.raises(DataError, match=f"without its ending, {re.escape(str(golden))}$"):
        IndexedDataset(f"{golden}{ending}")


@pytest.mark.parametrize(
    ("vocabulary", "name"), [(257, "uint16"), (65499, "uint16"), (65500, "int32"), (128256, "int32")]
)
def test_best_dtype(vocabulary: int, name: str) -> None:
    assert best_dtype(vocabulary).name == name


def damaged(index: int, value: bytes) -> bytes:
    return GOLDEN_IDX[:index] + value + GOLDEN_IDX[index + len(value) :]


DAMAGES = {
    "empty": (b"", "is not an index"),
    "another file": (b"TNTIDX\0\0" + GOLDEN_IDX[8:], "is not an index"),
    "half a header": (GOLDEN_IDX[:20], "truncated: 20 bytes"),
    "cut": (GOLDEN_IDX[:-1], "has 121 bytes, but its header .* means 122"),
    "one byte more": (GOLDEN_IDX + b"\0", "has 123 bytes"),
    "version": (damaged(9, b"\2"), "format version 2"),
    "float": (damaged(17, b"\6"), "floating-point tokens"),
    "double": (damaged(17, b"\7"), "floating-point tokens"),
    "unknown type": (damaged(17, b"\11"), "unknown token type code 9"),
    "huge count": (damaged(18, b"\xff" * 8), "bytes, but its header"),
    "huge document count": (damaged(26, b"\xff" * 8), "bytes, but its header"),
    "size": (damaged(34, b"\4"), "places sequence 1 where"),
    "negative size": (damaged(34, b"\xff\xff\xff\xff"), "negative number of tokens"),
    "offset": (damaged(50, b"\2"), "places sequence 0 where"),
    "last size": (damaged(46, b"\5"), "golden.bin has 20 bytes, but its index means .*22"),
    "documents start": (damaged(82, b"\1"), "runs from 1 to 4"),
    "documents end": (damaged(114, b"\3"), "runs from 0 to 3"),
    "documents decrease": (damaged(90, b"\3"), "decreases"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_index_is_refused(golden: Path, case: str) -> None:
    content, message = DAMAGES[case]
    golden.with_suffix(".idx").write_bytes(content)
    with pytest.raises(DataError, match=message):
        IndexedDataset(golden)


@given(content=st.binary(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_are_read_as_something_else(golden: Path, content: bytes) -> None:
    for idx in (content, GOLDEN_IDX[: len(content)] + content):
        golden.with_suffix(".idx").write_bytes(idx)
        with pytest.raises(DataError):
            IndexedDataset(golden)


@pytest.mark.parametrize("content", [b"", GOLDEN_BIN[:-1], GOLDEN_BIN[:-2], GOLDEN_BIN + b"\0\0"])
def test_data_of_the_wrong_size_is_refused(golden: Path, content: bytes) -> None:
    golden.with_suffix(".bin").write_bytes(content)
    with pytest.raises(DataError, match=rf"golden.bin has {len(content)} bytes, but its index means 20"):
        IndexedDataset(golden)


@pytest.mark.parametrize("ending", [".bin", ".idx"])
def test_a_missing_half_is_named(golden: Path, ending: str) -> None:
    golden.with_suffix(ending).unlink()
    with pytest.raises(DataError, match=f"there is no .*golden{ending} .*incomplete"):
        IndexedDataset(golden)


def test_the_multimodal_variant_must_be_asked_for(golden: Path) -> None:
    with golden.with_suffix(".idx").open("ab") as file:
        file.write(bytes([0, 1, 0, 1]))
    with pytest.raises(DataError, match="multimodal=True"):
        IndexedDataset(golden)
    dataset = IndexedDataset(golden, multimodal=True)
    assert dataset.modes is not None
    assert dataset.modes.tolist() == [0, 1, 0, 1]
    assert read(pickle.loads(pickle.dumps(dataset))) == GOLDEN  # noqa: S301 - our own bytes


@pytest.mark.parametrize(
    ("dtype", "sequence", "message"),
    [
        ("u2", [65536], "65536 does not fit uint16"),
        ("u2", [-1], "-1 does not fit"),
        ("i4", [2**31], "does not fit int32"),
        ("i8", np.array([2**63], np.uint64), "does not fit int64"),
        ("u2", [1.0], "must be integers"),
        ("u2", ["a"], "must be integers"),
        ("u2", [2**70], "must be integers"),
        ("u2", 5, "list of sequences"),
        ("u2", [[1, 2], [3, 4]], "list of sequences"),
    ],
)
def test_ids_that_do_not_fit_are_refused(tmp_path: Path, dtype: str, sequence: npt.ArrayLike, message: str) -> None:
    writer = IndexedDatasetWriter(tmp_path / "x", dtype)
    with pytest.raises(DataError, match=message):
        writer.add_document([[1], sequence])
    assert list(tmp_path.iterdir()) == []


def test_types_without_a_code_are_refused(tmp_path: Path) -> None:
    for dtype in ("f4", "u4", "u8"):
        with pytest.raises(DataError, match="cannot hold tokens of type"):
            IndexedDatasetWriter(tmp_path / "x", dtype)


def _add_and_fail(writer: IndexedDatasetWriter) -> None:
    writer.add_document([[1]])
    raise RuntimeError


def test_an_error_leaves_the_old_pair_and_nothing_else(golden: Path) -> None:
    writer = IndexedDatasetWriter(golden, "u2")
    with pytest.raises(RuntimeError), writer:
        _add_and_fail(writer)
    assert sorted(path.name for path in golden.parent.iterdir()) == ["golden.bin", "golden.idx"]
    assert read(IndexedDataset(golden)) == GOLDEN


def test_nothing_can_be_added_after_the_end(tmp_path: Path) -> None:
    writer = IndexedDatasetWriter(tmp_path / "x", "u2")
    writer.add_document([[1, 2]])
    written = writer.finalize()
    assert (written.documents, written.sequences, written.tokens) == (1, 1, 2)
    with pytest.raises(DataError, match="finished"):
        writer.add_document([[3]])
    assert read(IndexedDataset(tmp_path / "x")) == [[[1, 2]]]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=f"cannot create the folder {re.escape(str(tmp_path / 'file'))}"):
        IndexedDatasetWriter(tmp_path / "file" / "x", "u2")


def test_a_full_disk_is_an_error_that_leaves_nothing(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    code = (
        "import sys\nfrom megadape.data import IndexedDatasetWriter\nfrom megadape.errors import DataError\n"
        "try:\n    with IndexedDatasetWriter(sys.argv[1], 'i4') as w:\n"
        "        for _ in range(100): w.add_document([range(10_000)])\n"
        "except DataError as error: print(error)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, preexec_fn=limit)
    assert done.stdout.startswith(f"cannot write {tmp_path / 'x.bin'}: File too large")
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_the_old_pair_and_its_leftovers_are_swept(golden: Path) -> None:
    code = (
        "import os, signal, sys\nfrom megadape.data import IndexedDatasetWriter\n"
        "w = IndexedDatasetWriter(sys.argv[1], 'u2'); w.add_document([range(100)])\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(golden)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert read(IndexedDataset(golden)) == GOLDEN
    assert len(list(golden.parent.iterdir())) == 3
    write(golden, [[[1]]])
    assert sorted(path.name for path in golden.parent.iterdir()) == ["golden.bin", "golden.idx"]
    assert read(IndexedDataset(golden)) == [[[1]]]


def test_no_moment_of_the_renaming_shows_an_index_of_other_data(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the folder before and after every rename and removal of a real write."""
    seen = []

    def watched(name: str) -> None:
        real = getattr(Path, name)

        def step(path: Path, *arguments: object, **options: object) -> object:
            try:
                seen.append(read(IndexedDataset(golden)))
            except DataError as error:
                seen.append(str(error))
            return real(path, *arguments, **options)

        monkeypatch.setattr(Path, name, step)

    watched("replace")
    watched("unlink")
    write(golden, [[[1, 2, 3], [4]], [[5, 6, 7, 8]], [], [[9, 10]]])  # as many tokens and sequences as the old pair
    states = [state for state in seen if not isinstance(state, str)]
    assert len(seen) >= 4
    assert all(state == GOLDEN for state in states)
    assert [error for error in seen if isinstance(error, str) and "there is no" not in error] == []


def test_two_writers_at_once_do_not_mix(tmp_path: Path) -> None:
    first, second = IndexedDatasetWriter(tmp_path / "x", "u2"), IndexedDatasetWriter(tmp_path / "x", "u2")
    first.add_document([[1]])
    second.add_document([[2, 3]])
    first.finalize()
    second.finalize()
    assert read(IndexedDataset(tmp_path / "x")) == [[[2, 3]]]


MEGATRON_DOCUMENTS = [[[1, 2], [3]], [], [[4]], [], [], [[5, 6, 7]]]


@pytest.mark.filterwarnings("ignore")
def test_megatron_core_reads_ours_and_we_read_theirs(tmp_path: Path) -> None:
    try:
        from megatron.core.datasets.indexed_dataset import IndexedDataset as Theirs
        from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
    except ImportError as error:
        message = f"megatron-core cannot be imported ({error}): pip install --no-deps megatron-core"
        if "CI" in os.environ:
            pytest.fail(message)
        pytest.skip(message)
    import torch

    for dtype in (np.uint16, np.int32, np.int64, np.uint8):
        ours = write(tmp_path / f"ours-{np.dtype(dtype).name}", MEGATRON_DOCUMENTS, np.dtype(dtype).str)
        theirs = Theirs(str(ours))
        assert [theirs[i].tolist() for i in range(len(theirs))] == [[1, 2], [3], [4], [5, 6, 7]]
        assert theirs.document_indices.tolist() == [0, 2, 2, 3, 3, 3, 4]

        prefix = tmp_path / f"theirs-{np.dtype(dtype).name}"
        builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
        for document in MEGATRON_DOCUMENTS:
            tokens = [token for sequence in document for token in sequence]
            builder.add_document(torch.tensor(tokens, dtype=torch.int64), [len(sequence) for sequence in document])
        builder.finalize(f"{prefix}.idx")
        assert read(IndexedDataset(prefix)) == MEGATRON_DOCUMENTS
        for ending in (".bin", ".idx"):
            assert Path(f"{prefix}{ending}").read_bytes() == Path(f"{ours}{ending}").read_bytes()


def test_importing_the_room_imports_no_heavy_library() -> None:
    code = "import sys, megadape.data; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert "megadape" in modules
    assert not modules & {"torch", "deepspeed", "sentencepiece", "tokenizers", "tiktoken", "transformers"}
