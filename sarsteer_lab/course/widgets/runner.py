"""Work that a panel does between the notebook's cells, with a bar, a stop, and its errors shown."""

import asyncio
from collections.abc import Callable, Generator
from html import escape

from ipywidgets import HTML, Button, HBox, IntProgress, Widget


class Runner:
    """Runs what a panel's controls ask for, between the notebook's cells, never during one.

    JupyterLab delivers slider moves on a thread of their own, even while a cell runs; what steers
    the model must not overlap with a cell that uses it. So work is handed to the loop that runs the
    cells. Of several requests under one name only the latest counts. Long work comes as a
    generator: between two of its steps the loop is free, `bar` shows how far it is, and `stop` ends
    it. Without a loop (plain Python) everything runs at once. Errors go to `message`.
    """

    def __init__(self) -> None:
        self.message = HTML()
        self.bar = IntProgress(layout={"width": "220px"})
        self.stop = Button(description="Stop", icon="stop", layout={"width": "90px"})
        self.stop.on_click(lambda _: self.cancel())
        self.progress = HBox([self.bar, self.stop], layout={"visibility": "hidden"})
        self._waiting: dict[str, Callable[[], None]] = {}
        self._work: Generator[None, None, None] | None = None
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None

    def soon(self, name: str, work: Callable[[], None]) -> None:
        """Run `work` as soon as no cell runs."""
        if self._loop is None:
            self._guarded(work)
            return
        self._waiting[name] = work
        self._loop.call_soon_threadsafe(self._run_waiting, name)

    def listen(
        self, name: str, work: Callable[[], None], *controls: Widget, trait: str = "value"
    ) -> None:
        """Run `work` whenever the value (or another trait) of one of the controls has changed."""
        for control in controls:
            control.observe(lambda _: self.soon(name, work), trait)

    def steps(self, work: Generator[None, None, None], total: int) -> None:
        """Run long work of `total` steps, each up to a `yield`.

        Work that is still going on ends first.
        """
        self.cancel()
        self._work = work
        self.bar.value = 0
        self.bar.max = total
        self.progress.layout.visibility = "visible"
        if self._loop is None:
            while self._work is not None:
                self._guarded(self._step)
        else:
            self._loop.call_soon_threadsafe(self._advance, work)

    def cancel(self) -> None:
        """End the long work after its present step."""
        self._work = None
        self.progress.layout.visibility = "hidden"

    def say(self, text: str) -> None:
        """Show a line of text below the controls."""
        self.message.value = f"<small>{escape(text)}</small>"

    def _run_waiting(self, name: str) -> None:
        work = self._waiting.pop(name, None)
        if work is not None:
            self._guarded(work)

    def _guarded(self, work: Callable[[], None]) -> None:
        """Run `work`; an error is shown, because a callback's traceback would be lost."""
        try:
            work()
        except Exception as error:
            self.cancel()
            self.message.value = f"<b>{type(error).__name__}</b>: {escape(str(error))}"

    def _advance(self, work: Generator[None, None, None]) -> None:
        """A step of this work, and soon the next one; none once other work has taken its place."""
        if work is not self._work:
            return
        self._guarded(self._step)
        if work is self._work and self._loop is not None:
            # A moment in which the kernel can take messages, for instance a click on Stop.
            self._loop.call_later(0.02, self._advance, work)

    def _step(self) -> None:
        if self._work is None:
            return
        if next(self._work, self) is self:  # it has come to its end
            self.cancel()
        else:
            self.bar.value += 1
