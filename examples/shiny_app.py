"""Long tasks in Shiny for Python: a button starts one, another one cancels it, and the page stays responsive.

    pip install 'kumi[web]'
    shiny run examples/shiny_app.py

Two ways to the same end. The left card uses Shiny's `extended_task`, which has a status and can be cancelled. The right
one awaits the task in a coroutine of its own. In both, progress comes by `kumi.report`. Never await a long task in an
effect itself: Shiny lets the other effects of the session wait for it.
"""

import asyncio

import kumi
from estimate import estimate_pi
from shiny import App, Inputs, Outputs, Session, module, reactive, render, ui

crew = kumi.Controller(name="shiny")


@module.ui
def card(title: str) -> ui.Tag:
    return ui.card(
        ui.card_header(title),
        ui.input_numeric("rounds", "Rounds", 200),
        ui.layout_columns(ui.input_action_button("start", "Start"), ui.input_action_button("cancel", "Cancel")),
        ui.output_text("shown"),
        ui.output_text("state"),
    )


async def show(value: reactive.Value[str], text: str) -> None:
    """Changes what the page shows, from a coroutine that runs beside the session."""
    async with reactive.lock():
        value.set(text)
        await reactive.flush()


async def follow(task: kumi.Task[float], progress: reactive.Value[str]) -> float:
    """Shows the reports of a task as they come, and returns its result. Cancelling this cancels the task."""
    try:
        async for share in task.reports():
            await show(progress, f"{share:.0%}")
        return await task
    except asyncio.CancelledError:
        task.cancel()
        raise


@module.server
def by_extended_task(input: Inputs, output: Outputs, session: Session) -> None:
    progress = reactive.value("")

    @reactive.extended_task
    async def estimate(rounds: int) -> float:
        return await follow(crew.submit(estimate_pi, rounds), progress)

    @reactive.effect
    @reactive.event(input.start)
    def _() -> None:
        estimate(input.rounds())

    @reactive.effect
    @reactive.event(input.cancel)
    def _() -> None:
        estimate.cancel()

    @render.text
    def shown() -> str:
        return progress()

    @render.text
    def state() -> str:
        return f"pi is about {estimate.result()}" if estimate.status() == "success" else estimate.status()


@module.server
def by_await(input: Inputs, output: Outputs, session: Session) -> None:
    progress, status = reactive.value(""), reactive.value("initial")
    task: kumi.Task[float] | None = None
    following: asyncio.Task[None] | None = None  # asyncio itself would not keep it

    async def wait_for(task: kumi.Task[float]) -> None:
        try:
            await show(status, f"pi is about {await follow(task, progress)}")
        except kumi.TaskCancelled:
            await show(status, "cancelled")

    @reactive.effect
    @reactive.event(input.start)
    def _() -> None:
        nonlocal task, following
        if following is None or following.done():
            status.set("running")
            task = crew.submit(estimate_pi, input.rounds())
            following = asyncio.create_task(wait_for(task))

    @reactive.effect
    @reactive.event(input.cancel)
    def _() -> None:
        if task is not None:
            task.cancel()

    @render.text
    def shown() -> str:
        return progress()

    @render.text
    def state() -> str:
        return status()


def server(input: Inputs, output: Outputs, session: Session) -> None:
    by_extended_task("extended")
    by_await("plain")

    @render.text
    def clicks() -> str:
        return f"{input.click()} clicks"


page = ui.page_fixed(
    ui.h1("How much is pi?"),
    ui.layout_columns(card("extended", "extended_task"), card("plain", "await")),
    ui.layout_columns(ui.input_action_button("click", "Click"), ui.output_text("clicks")),
)
app = App(page, server)
app.on_shutdown(crew.terminate)
