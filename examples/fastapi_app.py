"""Long tasks behind a web server: start one, watch its progress, cancel it, while the server answers everybody else.

    pip install 'kumi[web]'
    uvicorn --app-dir examples --timeout-graceful-shutdown 1 fastapi_app:app

Nothing in here blocks the event loop, and no thread is used: `await task` and `async for` over its reports are woken by
kumi's core.
"""

import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import kumi
from estimate import estimate_pi
from fastapi import FastAPI, HTTPException
from fastapi.responses import HTMLResponse, StreamingResponse

TASKS_MAX = 1000  # of those whose result nobody has fetched; above it the oldest that is done is forgotten

tasks: dict[int, kumi.Task[float]] = {}
numbers = itertools.count(1)
clicks = itertools.count(1)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with kumi.Controller(name="web") as app.state.crew:
        yield
        for task in tasks.values():  # leaving the block would wait for them
            task.cancel()


app = FastAPI(lifespan=lifespan)


@app.post("/tasks", status_code=202)
async def start(rounds: int) -> dict[str, int]:
    task = app.state.crew.try_submit(estimate_pi, rounds)
    if task is None or not has_place():
        raise HTTPException(503, "too much to do: try again later")
    number = next(numbers)
    tasks[number] = task
    return {"number": number}


def has_place() -> bool:
    if len(tasks) >= TASKS_MAX:
        tasks.pop(next((number for number, task in tasks.items() if task.done()), 0), None)
    return len(tasks) < TASKS_MAX


@app.get("/tasks/{number}")
async def result(number: int) -> dict[str, float | str]:
    """Answers when the task is done."""
    task = find(number)
    try:
        return {"state": "success", "value": await task}
    except kumi.TaskCancelled:
        return {"state": "cancel"}
    except Exception as error:
        return {"state": task.state(), "error": str(error)}
    finally:
        tasks.pop(number, None)


@app.get("/tasks/{number}/progress")
async def progress(number: int) -> StreamingResponse:
    """The task's reports as they come, as server-sent events."""
    return StreamingResponse(events(find(number)), media_type="text/event-stream")


async def events(task: kumi.Task[float]) -> AsyncIterator[str]:
    async for share in task.reports():
        yield f"data: {json.dumps(share)}\n\n"
    yield "event: end\ndata:\n\n"


@app.delete("/tasks/{number}")
async def cancel(number: int) -> dict[str, bool]:
    return {"cancelled": find(number).cancel()}


def find(number: int) -> kumi.Task[float]:
    if number not in tasks:
        raise HTTPException(404, f"no task {number}: it was never started, or its result was fetched before")
    return tasks[number]


@app.post("/clicks")
async def click() -> dict[str, int]:
    """Something else that the server has to do."""
    return {"clicks": next(clicks)}


@app.get("/", response_class=HTMLResponse)
async def page() -> str:
    return PAGE


PAGE = """
<!doctype html>
<meta charset="utf-8">
<title>kumi and FastAPI</title>
<style> body { font: 16px sans-serif; max-width: 30em; margin: 2em auto } progress { width: 100% } </style>
<h1>How much is pi?</h1>
<p><label>Rounds <input id="rounds" type="number" value="200"></label>
<button id="start">Start</button> <button id="cancel" disabled>Cancel</button></p>
<p><progress id="progress" value="0"></progress></p>
<p id="state">idle</p>
<p><button id="click">Click</button> The server has counted <span id="clicks">0</span> clicks.</p>
<script>
const at = id => document.getElementById(id)
// "no-store": else Chromium holds back a DELETE until the GET of the same address is answered.
const ask = async (method, path) => (await fetch(path, { method, cache: "no-store" })).json()
let number

at("click").onclick = async () => { at("clicks").textContent = (await ask("POST", "/clicks")).clicks }
at("cancel").onclick = () => ask("DELETE", `/tasks/${number}`)
at("start").onclick = async () => {
  at("start").disabled = true
  number = (await ask("POST", `/tasks?rounds=${at("rounds").value}`)).number
  at("cancel").disabled = false
  at("state").textContent = "running"
  const reports = new EventSource(`/tasks/${number}/progress`)
  reports.onmessage = event => { at("progress").value = JSON.parse(event.data) }
  reports.addEventListener("end", () => reports.close())
  const end = await ask("GET", `/tasks/${number}`)
  reports.close()
  at("state").textContent = end.state == "success" ? `pi is about ${end.value}` : end.error ?? end.state
  at("start").disabled = false
  at("cancel").disabled = true
}
</script>
"""
