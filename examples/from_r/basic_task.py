"""One task: it runs elsewhere while this program goes on."""

import kumi


def expensive_computation(x):
    return sum(value**2 for value in x)


my_data = [1, 2, 3]
task = kumi.submit(expensive_computation, my_data)

print(task.done())  # False while it runs
print(task.result())  # waits if need be
