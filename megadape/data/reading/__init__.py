"""Corpora as documents: sources found and planned, cut into blocks that any process can read, accounted for."""
