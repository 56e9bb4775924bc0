"""How fast kumi is, measured beside its peers in the same run.

One question per file (`throughput`, `cost`, `seeded`, `round_trip`, `start`, `memory`, `million`, `large_argument`,
`large_result`, `shared`, `workers`, `crowd`, `gil`); each has `answer(effort, peers)`. `instructions` counts those of
the brain; `programs` are parts of the core that run alone.
`harness` times, judges and prints; `peers` holds one small class per library; `machine` knows where we run.

    python -m benchmarks                       # everything, a few minutes
    python -m benchmarks throughput --quick    # one question, rough figures
"""
