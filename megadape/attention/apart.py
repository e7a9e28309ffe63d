"""Documents kept apart by any backend: each is attended to as if it came alone."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from megadape.attention.cuts import join
from megadape.attention.request import Backend, Request


@dataclass(frozen=True)
class Apart:
    """Gives the inner backend ordinary calls, each of some documents of about one length.

    It does not matter what the backend knows of documents; what it refuses, it refuses of these calls.
    """

    inner: Backend

    @property
    def name(self) -> str:
        """Of the inner backend."""
        return self.inner.name

    def refuses(self, request: Request) -> str | None:
        """As the inner backend."""
        if request.documents is None:
            return self.inner.refuses(request)
        reasons = (self.inner.refuses(part) for part in request.parts)
        return next((reason for reason in reasons if reason is not None), None)

    def __call__(self, request: Request) -> Tensor:
        """As in ``Backend``."""
        if request.documents is None:
            return self.inner(request)
        return join([self.inner(part) for part in request.parts], request.cuts, len(request.q))
