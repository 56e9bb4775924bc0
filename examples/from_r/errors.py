"""Errors: what a task raises stands in its record, and is raised by its result."""

import kumi


def risky_function(x):
    return 100 / x


with kumi.Controller(workers=2) as crew:
    crew.with_options(name="risky").push(risky_function, 0)
    for record in crew.records():
        if record.status != "success":
            print(f"Task {record.name} failed: {record.error}")

    try:
        crew.submit(risky_function, 0).result()
    except ZeroDivisionError as error:
        print(f"Task failed: {error}")
