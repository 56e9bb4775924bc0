"""The long task of the web examples: it takes as long as it is told, and says how far it is."""

import random

import kumi


def estimate_pi(rounds: int) -> float:
    """Throws darts at a square, and counts those that hit the circle in it. Runs on a worker."""
    darts, hits = 100_000, 0
    for done in range(1, rounds + 1):
        hits += sum(random.random() ** 2 + random.random() ** 2 < 1 for _ in range(darts))
        kumi.report(done / rounds)
    return 4 * hits / (rounds * darts)
