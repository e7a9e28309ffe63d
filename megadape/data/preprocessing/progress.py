"""How far a preprocessing is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a preprocessing is; of several keys, documents count once and tokens and bytes together."""

    documents: int = 0
    empty_documents: int = 0
    bad: int = 0
    """Records that give no document."""
    passed_over: int = 0
    """Records that the conditions leave out."""
    tokens: int = 0
    text_bytes: int = 0
    """UTF-8 bytes of the texts tokenized so far."""
    read_bytes: int = 0
    """Bytes of the inputs read so far, as they are stored."""
    total_bytes: int = 0
    """Bytes of all inputs; 0 when they are not known."""
    seconds: float = 0.0
    """Of this run."""
    resumed_documents: int = 0
    """Documents that an earlier run has done."""
    resumed_text_bytes: int = 0
    """UTF-8 bytes of those."""
    done: bool = False

    @property
    def documents_per_second(self) -> float:
        """Documents tokenized per second of this run."""
        return (self.documents - self.resumed_documents) / self.seconds if self.seconds else 0.0

    @property
    def megabytes_per_second(self) -> float:
        """10^6 bytes of text per second of this run (bytes, not characters)."""
        return (self.text_bytes - self.resumed_text_bytes) / 1e6 / self.seconds if self.seconds else 0.0

    def summary(self) -> str:
        """What became of the records, and how fast."""
        records = self.documents + self.bad + self.passed_over
        return (
            f"{records:,} records: {self.documents:,} documents, {self.bad:,} bad, "
            f"{self.passed_over:,} passed over; {self.megabytes_per_second:.1f} MB/s"
        )

    @property
    def fraction(self) -> float:
        """Part of the input that is read, 0 to 1; 0 until the end when its size is not known."""
        if self.done:
            return 1.0
        return min(1.0, self.read_bytes / self.total_bytes) if self.total_bytes else 0.0
