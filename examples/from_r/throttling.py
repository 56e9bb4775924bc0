"""Throttling: tasks are made as the results are read, ten ahead at most."""

import kumi


def process(task):
    return task + 1


def pending_tasks():  # it may go on for ever
    yield from range(100)


max_concurrent = 10
total = 0

with kumi.Controller(workers=4) as crew:
    for result in crew.map(process, pending_tasks(), buffersize=max_concurrent):
        total += result

print(total)
