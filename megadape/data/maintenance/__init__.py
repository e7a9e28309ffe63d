"""What is done with finished datasets: look into them, check, merge, split, shuffle and measure them."""

from megadape.data.maintenance.deriving import DerivedDataset
from megadape.data.maintenance.dividing import split_dataset
from megadape.data.maintenance.inspection import (
    SOURCE_COLUMNS,
    DocumentView,
    Inspection,
    inspect_dataset,
    view_document,
)
from megadape.data.maintenance.merging import merge_datasets
from megadape.data.maintenance.metering import Tell
from megadape.data.maintenance.shuffling import shuffle_dataset
from megadape.data.maintenance.statistics import LengthHistogram, LengthStatistics, measure_lengths
from megadape.data.maintenance.validation import Verdict, validate_dataset

__all__ = [
    "SOURCE_COLUMNS",
    "DerivedDataset",
    "DocumentView",
    "Inspection",
    "LengthHistogram",
    "LengthStatistics",
    "Tell",
    "Verdict",
    "inspect_dataset",
    "measure_lengths",
    "merge_datasets",
    "shuffle_dataset",
    "split_dataset",
    "validate_dataset",
    "view_document",
]
