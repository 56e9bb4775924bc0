"""Four workers that stay: they start at once, and end with the block."""

import kumi


def slow_function(i):
    return i**2


with kumi.daemons(4):
    tasks = [kumi.submit(slow_function, i) for i in range(1, 101)]
    output = [task.result() for task in tasks]

print(sum(output))
