"""Passkey retrieval (Mohtashami and Jaggi, 2023, arXiv 2305.16300): a key of digits, said at some depth of a long text,
is asked for at its end.

    texts     keys and texts, made from a seed: the same trials for every model with the same tokenizer
    reading   one reading of a text scores all candidates
    plan      pieces of work, and results from what they gave
"""
