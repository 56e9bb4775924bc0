"""How fast kumi is, measured beside its peers in the same run.

One question per file (`throughput`, `round_trip`, `start`, `memory`, `large_argument`,
`large_result`, `shared`); each has `answer(effort, peers)`.
`harness` times, judges and prints; `peers` holds one small class per library; `machine` knows where we run.

    python -m benchmarks                       # everything, a few minutes
    python -m benchmarks throughput --quick    # one question, rough figures
"""
