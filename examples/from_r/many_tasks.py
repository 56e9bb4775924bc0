"""Many tasks: all are submitted before the first result is asked for."""

import kumi


def process_chunk(chunk):
    return sum(chunk)


data_chunks = [[1, 2], [3, 4], [5, 6]]

tasks = [kumi.submit(process_chunk, chunk) for chunk in data_chunks]

results = [task.result() for task in tasks]
print(results)
