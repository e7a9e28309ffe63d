"""From text files to batches of token ids: readers, tokenizers, preprocessing, indexed dataset, samples, splits,
loader.

Importing this package imports neither torch nor DeepSpeed, nor any tokenizer library.
"""

from megadape.data.build import DataSettings, Splits, build_splits, token_stream
from megadape.data.indexed import IndexedDataset
from megadape.data.indexed_format import best_dtype
from megadape.data.indexed_writer import IndexedDatasetWriter
from megadape.data.loader import batch_indices, micro_batches
from megadape.data.manifest import DatasetManifest, TokenizerManifest, load_manifest, load_tokenizer, rebuild_tokenizer
from megadape.data.preprocess import PreprocessSettings, Progress, preprocess, preprocess_files
from megadape.data.readers import CorpusReader, Document
from megadape.data.samples import SampleIndex, TokenSamples, build_sample_index
from megadape.data.splits import SplitSequences, split_sequences
from megadape.data.tokenizers import Tokenizer, TokenizerSettings, tokenizer_settings

__all__ = [
    "CorpusReader",
    "DataSettings",
    "DatasetManifest",
    "Document",
    "IndexedDataset",
    "IndexedDatasetWriter",
    "PreprocessSettings",
    "Progress",
    "SampleIndex",
    "SplitSequences",
    "Splits",
    "TokenSamples",
    "Tokenizer",
    "TokenizerManifest",
    "TokenizerSettings",
    "batch_indices",
    "best_dtype",
    "build_sample_index",
    "build_splits",
    "load_manifest",
    "load_tokenizer",
    "micro_batches",
    "preprocess",
    "preprocess_files",
    "rebuild_tokenizer",
    "split_sequences",
    "token_stream",
    "tokenizer_settings",
]
