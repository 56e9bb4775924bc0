"""Progress: how many tasks are done, said whenever one is."""

import kumi


def slow_fn(i):
    return i**2


n_tasks = 100

with kumi.Controller(workers=4) as crew:
    for i in range(n_tasks):
        crew.push(slow_fn, i)

    results = []
    for record in crew.records():
        results.append(record.get())
        print(f"\rProgress: {len(results)}/{n_tasks}", end="")

print()
