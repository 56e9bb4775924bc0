"""A group: several kinds of workers behind one face, and each task says which it needs."""

import kumi


def fast_fn(x):
    return x + 1


def slow_fn(y):
    return y**2


small = kumi.Controller(name="small", workers=4)
large = kumi.Controller(name="large", workers=2)

with kumi.ControllerGroup(small, large) as group:
    group.with_options(name="quick_task").push(fast_fn, 1)  # to the first
    group.with_options(name="heavy_task", controller="large").push(slow_fn, 3)

    for record in sorted(group.records(), key=lambda record: record.name):
        print(record.name, record.controller, record.get())
