"""Several prompts kept ready, so that a sweep over steering reads every clip once.

Steering acts on the prompt's last position and on generated tokens (arXiv 2510.17633). What stands
before is the same under every steering: it runs once per batch, its keys and values stay, and each
setting costs decoding steps alone. `live.LivePrompt` does the same for one prompt.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import BatchFeature

from sarsteer_lab.activations import capture, check_finite, first_pass, record_states
from sarsteer_lab.batch import Batch, Encoded, Prompts
from sarsteer_lab.decoding import check_logits
from sarsteer_lab.engine.audio_cache import remember_clips
from sarsteer_lab.engine.contrast import common_tails
from sarsteer_lab.engine.key_values import RoomyLayer, blank, keeps_plain_cache, with_room
from sarsteer_lab.families import foreign_hooks
from sarsteer_lab.lalm import LALM
from sarsteer_lab.steering import Steering
from sarsteer_lab.steering_guard import Guard, SteeringError
from sarsteer_lab.weights import weights_checksum

READ_ROWS = 16
"""Prompts that are read together, those of similar length: little is padded then, and the audio
tower, whose states are long, keeps in the processor's cache (on two CPU cores 36 ms a clip; 75 with
64 clips)."""

FULL_ENOUGH = 0.75
"""Rows that have ended leave the batch once no more than this share of it is still running."""

OPENING = 16
"""Positions for which room is made where an answer's opening is followed."""


@dataclass(frozen=True, eq=False)
class Reading:
    """What is kept of prompts of which all positions but the last have run.

    `cache` holds keys and values of `length` positions, `last` the token that has not run, and
    `mask` says which positions, the last one included, are no padding.
    """

    cache: Any
    last: Int[Tensor, "prompt 1"]
    mask: Int[Tensor, "prompt position"]

    @property
    def length(self) -> int:
        """Positions that have run."""
        return self.mask.shape[1] - 1


def read_prompts(lalm: LALM, prompts: Sequence[Encoded]) -> Reading:
    """Run all positions of some prompts but the last, and put their keys and values together."""
    batches = list(lalm.batches(prompts, READ_ROWS, "prompts"))
    width = max(batch.inputs["input_ids"].shape[1] for batch in batches)
    first = batches[0].inputs
    last = first["input_ids"].new_zeros(len(prompts), 1)
    mask = first["attention_mask"].new_zeros(len(prompts), width)
    cache = None
    for batch in batches:
        inputs, rows = dict(batch.inputs), batch.rows
        ids, seen = inputs.pop("input_ids"), inputs.pop("attention_mask")
        start = width - ids.shape[1]
        last[rows] = ids[:, -1:]
        mask[rows, start:] = seen
        # Where they will stand in the whole batch, whose rows all end at one place.
        places = torch.arange(start, width - 1, device=ids.device)[None]
        inputs |= {"input_ids": ids[:, :-1], "attention_mask": seen[:, :-1]}
        with lalm.announce(batch):
            past = lalm.trunk(**inputs, position_ids=places, use_cache=True).past_key_values
        if cache is None:
            cache = blank(past, len(prompts), width - 1)
        for whole, part in zip(cache.layers, past.layers, strict=True):
            whole.keys[rows, :, start:] = part.keys
            whole.values[rows, :, start:] = part.values
    return Reading(cache, last, mask)


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
    def __init__(self, lalm: LALM, prompts: Prompts) -> None:
        _refuse_hooks(lalm)
        remember_clips(lalm)
        self.lalm = lalm
        self.prompts = lalm.encode(prompts)
        self._weights = weights_checksum(lalm.model)
        self._reading: Reading | None = None
        if keeps_plain_cache(lalm) and lalm.fit_together(self.prompts):
            self._reading = read_prompts(lalm, self.prompts)

    def _with(self, prompts: Sequence[Encoded], reading: Reading | None) -> "PreparedBatch":
        """Another batch of the same model, of which this much has been read."""
        other = PreparedBatch.__new__(PreparedBatch)
        other.lalm, other._weights = self.lalm, self._weights
        other.prompts, other._reading = list(prompts), reading
        return other

    @torch.no_grad()
    def retexted(self, prompts: Prompts) -> "PreparedBatch":
        """The same clips under other texts.

        What both begin with is not read again, if they end alike for all clips. Itself if the
        prompts are the same. Raises SteeringError as the first one does.
        """
        encoded = self.lalm.encode(prompts)
        if [prompt.key for prompt in encoded] == [prompt.key for prompt in self.prompts]:
            return self
        self._check()
        _refuse_hooks(self.lalm)
        reading = self._reading
        tails = None if reading is None else common_tails(self.lalm, [self.prompts, encoded])
        if reading is None or tails is None:
            return PreparedBatch(self.lalm, encoded)
        self._rewind()
        old_tail, tail = (reading.last.new_tensor(tail) for tail in tails)
        tokens = tail.expand(len(encoded), -1)  # prompt position
        cache = with_room(reading.cache, len(tail) + OPENING)
        if len(old_tail) > 1:
            cache.crop(1 - len(old_tail))
        shared = reading.mask[:, : reading.mask.shape[1] - len(old_tail)]
        mask = torch.cat([shared, shared.new_ones(tokens.shape)], dim=1)
        if len(tail) > 1:
            beginning = {"input_ids": tokens[:, :-1], "attention_mask": mask[:, :-1]}
            with self.lalm.announce(self._batch(encoded, range(len(encoded)), beginning)):
                self.lalm.trunk(**beginning, past_key_values=cache, use_cache=True)
        return self._with(encoded, Reading(cache, tokens[:, -1:], mask))

    def repeated(self, times: int) -> "PreparedBatch":
        """All prompts `times` over, as rows of one batch: each once, then each once more, ...

        For `times` settings at once: see `under_each`.
        """
        reading = self._reading
        if times == 1:
            return self
        if reading is not None:
            self._rewind()
            rows = torch.arange(len(self.prompts)).repeat(times)
            cache = with_room(reading.cache, OPENING, rows)
            last, mask = reading.last.repeat(times, 1), reading.mask.repeat(times, 1)
            reading = Reading(cache, last, mask)
        return self._with(self.prompts * times, reading)

    @torch.no_grad()
    def states(self, layers: Sequence[int]) -> Float[Tensor, "prompt layer d_model"]:
        """Last-token states of some layers: those of `activations.capture`, up to rounding."""
        self._check()
        if self._reading is None:
            return capture(self.lalm, self.prompts, layers=layers)
        self._rewind()
        with record_states(self.lalm, layers) as recorded:
            self._first(self._reading.cache)
        states = first_pass(self.lalm, recorded)
        check_finite(states, layers)
        return states

    @torch.no_grad()
    def next_token_logits(self) -> Float[Tensor, "prompt vocab"]:
        """Logits of answers' first tokens: those of `lalm.next_token_logits`, up to rounding."""
        if self._reading is not None:
            return self.after(())
        self._check()
        return self.lalm.next_token_logits(self.prompts, batch_size=len(self.prompts))

    @torch.no_grad()
    def generate(self, max_new_tokens: int) -> list[str]:
        """Greedy answers in the prompts' order: those of `lalm.generate`, up to rounding.

        A row that has ended leaves the batch.
        """
        self._check()
        reading, tokenizer = self._reading, self.lalm.tokenizer
        if reading is None:
            options = {"max_new_tokens": max_new_tokens, "batch_size": len(self.prompts)}
            return self.lalm.generate(self.prompts, **options)
        self._rewind()
        size = (len(self.prompts), max_new_tokens)
        answers = reading.last.new_full(size, tokenizer.pad_token_id)  # prompt token
        cache, mask = with_room(reading.cache, max_new_tokens), reading.mask
        rows = torch.arange(len(answers), device=answers.device)  # of the prompts in the batch
        running = torch.ones_like(rows, dtype=torch.bool)
        logits = self._first(cache)
        for place in range(max_new_tokens):
            tokens = logits.argmax(-1)
            answers[rows[running], place] = tokens[running]
            running = running & ~torch.isin(tokens, self.lalm.ends)
            if place + 1 == max_new_tokens or not running.any():
                break
            if running.sum() <= FULL_ENOUGH * len(rows):
                cache = with_room(cache, max_new_tokens - place, running.nonzero()[:, 0])
                rows, mask, tokens = rows[running], mask[running], tokens[running]
                running = running[running]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            logits = self._step(tokens[:, None], mask, cache, rows.tolist())
        texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
        return [text.strip() for text in texts]

    @torch.no_grad()
    def after(self, begun: Sequence[int | Int[Tensor, "prompt"]]) -> Float[Tensor, "prompt vocab"]:
        """Logits, float32, of the token after every answer has begun with the tokens `begun`.

        A tensor holds each answer's own. All but the last of them must have been run by the call
        before, as they are when a tree is followed (so that weights and hooks are looked at only
        where it begins). Raises ValueError for a model that is read anew each time.
        """
        reading = self._reading
        if reading is None:
            raise ValueError(
                f"{self.lalm.name} cannot go on from a prompt that has run, so answers cannot be "
                "followed token by token: ask it with `lalm.generate` and `lalm.next_token_logits`"
            )
        if not begun:
            self._check()
        if not isinstance(reading.cache.layers[0], RoomyLayer):
            reading = replace(reading, cache=with_room(reading.cache, OPENING))
            self._reading = reading
        self._rewind(len(begun))
        if not begun:
            return self._first(reading.cache).float()
        token = begun[-1]
        if isinstance(token, Tensor):
            ids = token[:, None]
        else:
            ids = reading.last.new_full(reading.last.shape, token)
        mask = torch.cat([reading.mask, reading.mask.new_ones(len(ids), len(begun))], dim=1)
        return self._step(ids, mask, reading.cache, range(len(self.prompts))).float()

    def _check(self) -> None:
        """Raise SteeringError if what has been read does not belong to the model as it now is."""
        _refuse_other_hooks(self.lalm)
        if weights_checksum(self.lalm.model) != self._weights:
            changed = "weights have changed since these prompts were read"
            raise SteeringError(f"{changed}; make a new one")

    def _rewind(self, decoded: int = 0) -> None:
        """Forget what was decoded beyond the first tokens: so many less the prompts' last one."""
        assert self._reading is not None
        kept = self._reading.length + decoded
        if surplus := int(self._reading.cache.get_seq_length()) - kept:
            self._reading.cache.crop(-surplus)

    def _first(self, cache: Any) -> Float[Tensor, "prompt vocab"]:
        """Run the prompts' last position, the one that steering takes for the prompt's end."""
        assert self._reading is not None
        rows = range(len(self.prompts))
        return self._step(self._reading.last, self._reading.mask, cache, rows, at_end=True)

    def _step(
        self,
        ids: Int[Tensor, "row 1"],
        mask: Int[Tensor, "row seen"],
        cache: Any,
        rows: Sequence[int],
        at_end: bool = False,
    ) -> Float[Tensor, "row vocab"]:
        """One position more of the prompts in these `rows`."""
        inputs = {"input_ids": ids, "attention_mask": mask}
        with self.lalm.announce(self._batch(self.prompts, rows, inputs, at_end)):
            output = self.lalm.core(**inputs, past_key_values=cache, use_cache=True)
        logits = output.logits[:, -1]
        check_logits(logits, rows)
        return logits

    def _batch(
        self,
        prompts: Sequence[Encoded],
        rows: Sequence[int],
        inputs: dict[str, Tensor],
        at_end: bool = False,
    ) -> Batch:
        spoken = any(prompts[row].waveform is not None for row in rows)
        return Batch(BatchFeature(inputs), rows, len(prompts), spoken, at_end=at_end)


@contextmanager
def under_each(
    ready: PreparedBatch,
    pushes: Sequence[Callable[[Float[Tensor, "row"]], AbstractContextManager[None]]],
    strengths: Sequence[Float[Tensor, "prompt"]],
) -> Iterator[PreparedBatch]:
    """One batch of all prompts under each push, a block of rows for each, while the block lasts.

    A push is steering that takes a strength for each row (`steer`, `gates.steer_gated`); it gets
    its own `strengths` for the rows of its block, 0 for all others. Small batches leave most of a
    processor idle: 14 prompts under nine pushes decode at less than half of the price of nine
    batches of 14.
    """
    rows = ready.repeated(len(pushes))
    with ExitStack() as steering:
        for number, (push, strength) in enumerate(zip(pushes, strengths, strict=True)):
            alpha = torch.zeros(len(pushes), len(strength))
            alpha[number] = strength
            steering.enter_context(push(alpha.flatten()))
        yield rows


def _refuse_hooks(lalm: LALM) -> None:
    if foreign_hooks(lalm.model):
        raise SteeringError(
            "hooks are on the model (steer, project_out, or your own): what is read now would keep "
            "their mark; make it outside of the block, and ask it inside"
        )


def _refuse_other_hooks(lalm: LALM) -> None:
    """Raise SteeringError if there are hooks that do not leave the prompt alone, as steering's."""
    for hook in foreign_hooks(lalm.model):
        owner = getattr(getattr(hook, "func", hook), "__self__", None)
        if not isinstance(owner, Steering | Guard):
            raise SteeringError(
                "hooks are on the model that act on the whole prompt (project_out, or your own), "
                "but all of it except its last position has been read without them; use "
                "lalm.generate and its like"
            )
