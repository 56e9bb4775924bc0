"""Large data in chunks: each is cut out when its turn is near, eight ahead at most."""

import kumi
import pandas as pd


def process_chunk(chunk):
    return chunk.groupby("group", as_index=False)["value"].sum()


def chunks(data, size):
    for start in range(0, len(data), size):
        yield data.iloc[start : start + size]


big_data = pd.DataFrame({"group": ["a", "b"] * 50_000, "value": 1})

with kumi.Controller(workers=2) as crew:
    results = list(crew.map(process_chunk, chunks(big_data, size=10_000), buffersize=8))

final = pd.concat(results).groupby("group")["value"].sum()
print(final.to_dict())
