"""Several prompts kept ready, so that a sweep over steering reads every clip once.

Steering acts on the prompt's last position and on generated tokens (arXiv 2510.17633). What stands
before is the same under every steering: it runs once per batch, its keys and values stay, and each
setting costs decoding steps alone. `live.LivePrompt` does the same for one prompt, with
probabilities.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sarsteer_lab.activations import capture, check_finite, record_states
from sarsteer_lab.engine.audio_cache import remember_clips
from sarsteer_lab.engine.contrast import common_tails
from sarsteer_lab.engine.key_values import RoomyLayer, blank, keeps_plain_cache, with_room
from sarsteer_lab.families import foreign_hooks
from sarsteer_lab.lalm import LALM, Running, check_logits
from sarsteer_lab.prompts import Prompt, as_prompts, rough_length
from sarsteer_lab.steering import SteeringError, Watch
from sarsteer_lab.weights import weights_checksum

READ_ROWS = 16
"""Prompts that are read together, those of similar length: little is padded then, and the audio
tower, whose states are long, keeps in the processor's cache (on two CPU cores 36 ms a clip; 75 with
64 clips)."""

FULL_ENOUGH = 0.75
"""Rows that have ended leave the batch once no more than this share of it is still running."""

LOOK_EVERY = 3
"""Steps between two looks at what the answers say so far."""

OPENING = 16
"""Positions for which room is made where an answer's opening is followed."""


class PreparedBatch:
    """Prompts whose positions but the last have run, on a model without hooks.

    Its methods answer under whatever steering holds when they are called: `steer` (one strength, or
    one per prompt) and `gates.steer_gated`. They raise SteeringError for hooks that act on the
    whole prompt (`project_out`, your own) and once any weight has changed (`LALM.set_safety`); so
    does making one inside of `with steer(...)` or with hooks of your own. The model remembers clips
    from then on. The prompts run as one batch; where that cannot be
    (`key_values.keeps_plain_cache`, clips that may not share a batch), they are read anew each
    time, with the same answers.
    """

    @torch.no_grad()
    def __init__(self, lalm: LALM, prompts: Sequence[Prompt]) -> None:
        _refuse_hooks(lalm)
        remember_clips(lalm)
        self.lalm = lalm
        self.prompts = as_prompts(prompts)
        self._cache: Any = None
        self._weights = weights_checksum(lalm.model)
        self._all: Sequence[int] = range(len(self.prompts))
        if not keeps_plain_cache(lalm) or not lalm.fit_together(self.prompts):
            return
        order = sorted(range(len(self.prompts)), key=lambda row: -rough_length(self.prompts[row]))
        parts = [order[at : at + READ_ROWS] for at in range(0, len(order), READ_ROWS)]
        read = [lalm.batch([self.prompts[row] for row in rows]) for rows in parts]
        length = max(inputs["input_ids"].shape[1] for inputs in read)
        self._last = read[0]["input_ids"].new_zeros(len(order), 1)
        self._mask = read[0]["attention_mask"].new_zeros(len(order), length)
        for rows, inputs in zip(parts, read, strict=True):
            ids, mask = inputs.pop("input_ids"), inputs.pop("attention_mask")
            start = length - ids.shape[1]
            self._last[rows], self._mask[rows, start:] = ids[:, -1:], mask
            with lalm.running(Running(rows, self.prompts)):
                past = lalm.trunk(
                    input_ids=ids[:, :-1],
                    attention_mask=mask[:, :-1],
                    # Where they will stand in the whole batch, whose rows all end at one place.
                    position_ids=torch.arange(start, length - 1, device=ids.device)[None],
                    use_cache=True,
                    **inputs,
                ).past_key_values
            if self._cache is None:
                self._cache = blank(past, len(order), length - 1)
            for whole, part in zip(self._cache.layers, past.layers, strict=True):
                whole.keys[rows, :, start:], whole.values[rows, :, start:] = part.keys, part.values
        self._length = length - 1

    @torch.no_grad()
    def retexted(self, prompts: Sequence[Prompt]) -> "PreparedBatch":
        """The same clips under other texts; what both begin with is not read again, if it ends
        alike for all.

        Itself if the prompts are the same. Raises SteeringError as the first one does.
        """
        prompts = as_prompts(prompts)
        if prompts == self.prompts:
            return self
        self._check()
        _refuse_hooks(self.lalm)
        tails = (
            common_tails(self.lalm, [self.prompts, prompts]) if self._cache is not None else None
        )
        if tails is None:
            return PreparedBatch(self.lalm, prompts)
        self._rewind()
        other = copy.copy(self)
        other.prompts = prompts
        before, after = (self._last.new_tensor(tail).expand(len(prompts), -1) for tail in tails)
        other._cache = with_room(self._cache, len(after[0]) + OPENING)
        if len(before[0]) > 1:
            other._cache.crop(1 - len(before[0]))
        mask = self._mask[:, : self._mask.shape[1] - len(before[0])]
        other._mask = torch.cat([mask, mask.new_ones(after.shape)], dim=1)
        other._last = after[:, -1:]
        if len(after[0]) > 1:
            with self.lalm.running(Running(self._all, prompts)):
                self.lalm.trunk(
                    input_ids=after[:, :-1],
                    attention_mask=other._mask[:, :-1],
                    past_key_values=other._cache,
                    use_cache=True,
                )
        other._length = int(other._cache.get_seq_length())
        return other

    def repeated(self, times: int) -> "PreparedBatch":
        """All prompts `times` over, as rows of one batch (first each once, then each once more
        ...).

        For `times` settings at once: see `under_each`.
        """
        if times == 1:
            return self
        other = copy.copy(self)
        other.prompts = self.prompts * times
        other._all = range(len(other.prompts))
        if self._cache is not None:
            self._rewind()
            other._cache = with_room(
                self._cache, OPENING, torch.arange(len(self.prompts)).repeat(times)
            )
            other._mask, other._last = self._mask.repeat(times, 1), self._last.repeat(times, 1)
        return other

    @torch.no_grad()
    def states(self, layers: Sequence[int]) -> Float[Tensor, "prompt layer d_model"]:
        """Last-token states of some layers, float32: those of `activations.capture`, up to
        rounding."""
        self._check()
        if self._cache is None:
            return capture(self.lalm, self.prompts, layers=layers)
        found = torch.zeros(
            len(self.prompts), len(layers), self.lalm.d_model, device=self.lalm.device
        )

        def keep(at: int, stream: Tensor) -> None:
            found[:, at] = stream[:, -1]

        self._rewind()
        with record_states(self.lalm, layers, keep):
            self._first(self._cache)
        for row, states in enumerate(found):
            check_finite(states, row, layers)
        return found

    @torch.no_grad()
    def next_token_logits(self) -> Float[Tensor, "prompt vocab"]:
        """Logits of the answers' first tokens, float32: those of `lalm.next_token_logits`, up to
        rounding."""
        if self._cache is not None:
            return self.after(())
        self._check()
        return self.lalm.next_token_logits(self.prompts, batch_size=len(self.prompts))

    @torch.no_grad()
    def generate(
        self, max_new_tokens: int, settled: Callable[[str], bool] | None = None
    ) -> list[str]:
        """Greedy answers in the prompts' order: those of `lalm.generate`, up to rounding of the
        last digits.

        A row that has ended leaves the batch. With `settled`, a row also ends, a few tokens late,
        once this says of its text that enough is known (`phrases.refusal_is_settled`), so that the
        text is cut short.
        """
        self._check()
        if self._cache is None:
            size = len(self.prompts)
            return self.lalm.generate(self.prompts, max_new_tokens=max_new_tokens, batch_size=size)
        self._rewind()
        stops = self.lalm.ends
        pad = self.lalm.tokenizer.pad_token_id
        chosen = self._last.new_full((len(self._last), max_new_tokens), pad)
        # Of the rows still in the batch: where each stands among all, and whether it goes on.
        rows = torch.arange(len(chosen), device=chosen.device)
        left = self._all
        running = torch.ones_like(rows, dtype=torch.bool)
        cache, mask = with_room(self._cache, max_new_tokens), self._mask
        logits = self._first(cache)
        for at in range(max_new_tokens):
            tokens = logits.argmax(-1)
            chosen[rows[running], at] = tokens[running]
            running = running & ~torch.isin(tokens, stops)
            if settled is not None and at % LOOK_EVERY == LOOK_EVERY - 1:
                said = self.lalm.tokenizer.batch_decode(
                    chosen[rows, : at + 1], skip_special_tokens=True
                )
                running &= running.new_tensor([not settled(text) for text in said])
            if at + 1 == max_new_tokens or not running.any():
                break
            if running.sum() <= FULL_ENOUGH * len(rows):
                cache = with_room(cache, max_new_tokens - at, running.nonzero()[:, 0])
                rows, mask, tokens = rows[running], mask[running], tokens[running]
                left = rows.tolist()
                running = running[running]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            logits = self._step(tokens[:, None], mask, cache, Running(left, self.prompts))
        texts = self.lalm.tokenizer.batch_decode(chosen, skip_special_tokens=True)
        return [text.strip() for text in texts]

    @torch.no_grad()
    def opening_probabilities(
        self, openings: Sequence[str], *, negligible: float = 0.0, first: Tensor | None = None
    ) -> Float[Tensor, "prompt"]:
        """The probability that a sampled answer begins with one of `openings` (0 to 1), for each
        prompt.

        The sum over openings of the product of their tokens' probabilities, followed as a tree, so
        that shared beginnings run once. Beginnings below `negligible` count as impossible. `first`
        may hold what `after(())` has just given, as probabilities. Raises as `after` does.
        """
        tokenizer = self.lalm.tokenizer
        sequences = {
            tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in openings
        }
        sure = torch.ones(len(self.prompts), device=self.lalm.device)
        return self._follow((), sure, sequences, negligible, first)

    def _follow(
        self,
        begun: tuple[int, ...],
        chances: Float[Tensor, "prompt"],
        sequences: set[tuple[int, ...]],
        negligible: float,
        first: Tensor | None = None,
    ) -> Float[Tensor, "prompt"]:
        """Probability of the sequences that begin with `begun`, which itself has probability
        `chances`."""
        if begun in sequences:
            return chances  # whatever follows, the opening is complete
        following = {s[len(begun)] for s in sequences if s[: len(begun)] == begun}
        total = torch.zeros_like(chances)
        if not following or (chances < negligible).all():
            return total
        chances = chances.where(chances >= negligible, 0.0)
        probabilities = self.after(begun).softmax(-1) if first is None else first
        for token in sorted(following):
            then = chances * probabilities[:, token]
            total = total + self._follow((*begun, token), then, sequences, negligible)
        return total

    @torch.no_grad()
    def after(self, begun: Sequence[int | Int[Tensor, "prompt"]]) -> Float[Tensor, "prompt vocab"]:
        """Logits, float32, of the token after every answer has begun with the tokens `begun`.

        A tensor holds each answer's own. All but the last of them must have been run by the call
        before, as they are when a tree is followed (so that weights and hooks are looked at only
        where it begins). Raises ValueError for a model that is read anew each time.
        """
        if self._cache is None:
            raise ValueError(
                f"{self.lalm.name} cannot go on from a prompt that has run, so answers cannot be followed "
                "token by token: ask it with `lalm.generate` and `lalm.next_token_logits`"
            )
        if not begun:
            self._check()
        if not isinstance(self._cache.layers[0], RoomyLayer):
            self._cache = with_room(self._cache, OPENING)
        self._rewind(len(begun))
        if not begun:
            return self._first(self._cache).float()
        last = begun[-1]
        ids = (
            last[:, None]
            if isinstance(last, Tensor)
            else self._last.new_full(self._last.shape, last)
        )
        mask = torch.cat([self._mask, self._mask.new_ones(len(ids), len(begun))], dim=1)
        return self._step(ids, mask, self._cache, Running(self._all, self.prompts)).float()

    def _check(self) -> None:
        """Raise SteeringError if what has been read does not belong to the model as it now is."""
        _refuse_other_hooks(self.lalm)
        if weights_checksum(self.lalm.model) != self._weights:
            raise SteeringError(
                "weights have changed since these prompts were read; make a new one"
            )

    def _rewind(self, position: int = 0) -> None:
        """Forget what was decoded from `position` tokens after the prompts' last but one on."""
        if surplus := int(self._cache.get_seq_length()) - self._length - position:
            self._cache.crop(-surplus)

    def _first(self, cache: Any) -> Float[Tensor, "prompt vocab"]:
        """Run the prompts' last position, the one that steering takes for the prompt's end."""
        return self._step(
            self._last, self._mask, cache, Running(self._all, self.prompts, at_end=True)
        )

    def _step(
        self, ids: Int[Tensor, "row 1"], mask: Int[Tensor, "row seen"], cache: Any, running: Running
    ) -> Float[Tensor, "row vocab"]:
        with self.lalm.running(running):
            out = self.lalm.core(
                input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True
            )
            logits = out.logits[:, -1]
            check_logits(self.lalm, logits)
        return logits


@contextmanager
def under_each(
    ready: PreparedBatch,
    pushes: Sequence[Callable[[Float[Tensor, "row"]], AbstractContextManager[None]]],
    strengths: Sequence[Float[Tensor, "prompt"]],
) -> Iterator[PreparedBatch]:
    """One batch of all prompts under each push, a block of rows for each, while the block lasts.

    A push is steering that takes a strength for each row (`steer`, `gates.steer_gated`); it gets its own
    `strengths` for the rows of its block, 0 for all others. Small batches leave most of a processor idle:
    14 prompts under nine pushes decode at less than half of the price of nine batches of 14.
    """
    rows = ready.repeated(len(pushes))
    with ExitStack() as steering:
        for at, (push, strength) in enumerate(zip(pushes, strengths, strict=True)):
            alpha = torch.zeros(len(pushes), len(strength))
            alpha[at] = strength
            steering.enter_context(push(alpha.flatten()))
        yield rows


def _refuse_hooks(lalm: LALM) -> None:
    if foreign_hooks(lalm.model):
        raise SteeringError(
            "hooks are on the model (steer, project_out, or your own): what is read now would keep their "
            "mark; make it outside of the block, and ask it inside"
        )


def _refuse_other_hooks(lalm: LALM) -> None:
    """Raise SteeringError if there are hooks on the model but `pushing`'s that leave the prompt
    alone."""
    for hook in foreign_hooks(lalm.model):
        watch = getattr(getattr(hook, "func", hook), "__self__", None)
        if not isinstance(watch, Watch) or watch.positions == "every":
            raise SteeringError(
                "hooks are on the model that act on the whole prompt (project_out, or your own), but all of "
                "it except its last position has been read without them; use lalm.generate and its like"
            )
