"""Is one method better than another? Paired by seed and by evaluation text; interval, exact test, effect, and how many.

The unit of a comparison is the seed: two methods that were trained from one seed and read the same texts give one
difference. Texts of one evaluation set are not independent of each other and are the same for all seeds, so they never
count as repetitions; the bootstrap alone asks what other texts would have given.
"""

from megadape.evaluation.statistics.bootstrap import crossed_bootstrap
from megadape.evaluation.statistics.comparison import PairedComparison, adjust_comparisons, compare_pairs
from megadape.evaluation.statistics.discovery import adjust_for_discoveries
from megadape.evaluation.statistics.estimates import Interval, effect_size, hedges_factor, paired_t
from megadape.evaluation.statistics.pairs import Pairs, SeedLosses, pair_losses
from megadape.evaluation.statistics.signflip import MOST_ENUMERATED, can_decide, sign_flip_test, smallest_p
from megadape.evaluation.statistics.wording import LEVEL, describe_power, seeds_needed

__all__ = [
    "LEVEL",
    "MOST_ENUMERATED",
    "Interval",
    "PairedComparison",
    "Pairs",
    "SeedLosses",
    "adjust_comparisons",
    "adjust_for_discoveries",
    "can_decide",
    "compare_pairs",
    "crossed_bootstrap",
    "describe_power",
    "effect_size",
    "hedges_factor",
    "pair_losses",
    "paired_t",
    "seeds_needed",
    "sign_flip_test",
    "smallest_p",
]
