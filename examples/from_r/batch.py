"""A batch: the results are taken as they come, by name."""

import kumi


def process(item):
    return item.upper()


data_list = ["a", "b", "c"]

with kumi.Controller(workers=4) as crew:
    for i, item in enumerate(data_list, start=1):
        crew.with_options(name=f"task_{i}").push(process, item)

    results = {}
    for record in crew.records():  # until no task is left
        results[record.name] = record.get()  # raises if it failed

print(sorted(results.items()))
