"""A map: the results are in the order of the input."""

import kumi


def process_chunk(chunk):
    return sum(chunk)


data_chunks = [[1, 2], [3, 4], [5, 6]]

with kumi.Controller(workers=4) as crew:
    results = crew.map(process_chunk, data_chunks).results()

print(results)
