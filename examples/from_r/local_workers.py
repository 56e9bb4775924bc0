"""A controller: workers come with the work, and its pushed tasks leave records."""

import kumi


def slow_function(x):
    return x * 2


my_data = 21

with kumi.Controller(kumi.Local(), workers=4, seconds_idle=10) as crew:
    crew.with_options(name="task1").push(slow_function, my_data)

    crew.wait("all")
    record = crew.pop()  # None if nothing is finished
    print(record.name, record.status, record.result)
    print(crew.collect())  # the records of all others: there are none
