"""The CHE study: the 15 tasks of the Chomsky hierarchy x methods x seeds, and the paper's table of them."""
