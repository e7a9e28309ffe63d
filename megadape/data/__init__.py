"""From text files to batches of token ids: readers, tokenizers, preprocessing, indexed dataset, samples, splits,
blend, loader.

Importing this package imports neither torch nor DeepSpeed, nor any tokenizer library.
"""

from megadape.data.blend import BlendedSamples, BlendIndex, Samples, build_blend_index
from megadape.data.build import Splits, build_splits, token_stream
from megadape.data.indexed import IndexedDataset
from megadape.data.indexed_format import best_dtype
from megadape.data.indexed_writer import IndexedDatasetWriter
from megadape.data.loader import LoaderSettings, batch_indices, micro_batches
from megadape.data.manifest import DatasetManifest, TokenizerManifest, load_manifest, load_tokenizer, rebuild_tokenizer
from megadape.data.preprocess import (
    Interrupted,
    Part,
    PreprocessSettings,
    Progress,
    merge_parts,
    preprocess,
    preprocess_files,
    preprocess_keys,
    preprocess_part,
)
from megadape.data.readers import CorpusReader, Document
from megadape.data.run_data import RunData, open_run_data, open_training_samples
from megadape.data.samples import SampleIndex, TokenSamples, build_sample_index
from megadape.data.settings import BlendedDataset, BlendPart, DataSettings
from megadape.data.splits import SplitSequences, split_sequences
from megadape.data.tokenizers import Tokenizer, TokenizerSettings, tokenizer_settings

__all__ = [
    "BlendIndex",
    "BlendPart",
    "BlendedDataset",
    "BlendedSamples",
    "CorpusReader",
    "DataSettings",
    "DatasetManifest",
    "Document",
    "IndexedDataset",
    "IndexedDatasetWriter",
    "Interrupted",
    "LoaderSettings",
    "Part",
    "PreprocessSettings",
    "Progress",
    "RunData",
    "SampleIndex",
    "Samples",
    "SplitSequences",
    "Splits",
    "TokenSamples",
    "Tokenizer",
    "TokenizerManifest",
    "TokenizerSettings",
    "batch_indices",
    "best_dtype",
    "build_blend_index",
    "build_sample_index",
    "build_splits",
    "load_manifest",
    "load_tokenizer",
    "merge_parts",
    "micro_batches",
    "open_run_data",
    "open_training_samples",
    "preprocess",
    "preprocess_files",
    "preprocess_keys",
    "preprocess_part",
    "rebuild_tokenizer",
    "split_sequences",
    "token_stream",
    "tokenizer_settings",
]
