"""Edit distance by the textbook, to compare a library's with."""

import numpy as np


def count_edits(found, wanted):
    """Levenshtein's distance by the textbook's table."""
    table = np.zeros((len(found) + 1, len(wanted) + 1), dtype=int)
    table[:, 0], table[0] = np.arange(len(found) + 1), np.arange(len(wanted) + 1)
    for i, a in enumerate(found, start=1):
        for j, b in enumerate(wanted, start=1):
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (a != b))
    return table[-1, -1]
