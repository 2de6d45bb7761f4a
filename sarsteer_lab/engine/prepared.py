"""A batch of prompts, prefilled once: a sweep over steering reads every clip once.

Steering acts on the prompt's last position and on generated tokens (arXiv 2510.17633). What stands
before is the same under every steering: it runs once per batch, its keys and values stay, and each
setting costs decoding steps alone. `live.LivePrompt` does the same for one prompt.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import BatchFeature

from sarsteer_lab.access import SteeringError, alone
from sarsteer_lab.activations import capture, check_finite, first_pass, record_states
from sarsteer_lab.batch import Batch, Encoded, Prompts
from sarsteer_lab.decoding import check_logits
from sarsteer_lab.engine.audio_cache import remember_clips
from sarsteer_lab.engine.contrast import common_tails
from sarsteer_lab.engine.key_values import RoomyLayer, keeps_plain_cache, with_room
from sarsteer_lab.engine.reading import Reading, read_prompts
from sarsteer_lab.families import foreign_hooks
from sarsteer_lab.fitting import ANSWERED, warn_of_positions
from sarsteer_lab.heads import HeadsOff
from sarsteer_lab.lalm import LALM
from sarsteer_lab.own_code import replaced_code
from sarsteer_lab.patching import Patching
from sarsteer_lab.steering import Steering
from sarsteer_lab.steering_guard import Guard
from sarsteer_lab.thoughts import answer_texts
from sarsteer_lab.weights import weights_checksum

FULL_ENOUGH = 0.75
"""Rows that have ended leave the batch once no more than this share of it is still running."""

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
    def __init__(self, lalm: LALM, prompts: Prompts) -> None:
        self.lalm = lalm
        self.prompts = lalm.encode(prompts)
        self._reading: Reading | None = None
        with lalm.access.alone():
            _refuse_hooks(lalm)
            remember_clips(lalm)
            self._weights = weights_checksum(lalm.model)
            if keeps_plain_cache(lalm) and lalm.fit_together(self.prompts):
                self._reading = read_prompts(lalm, self.prompts)

    @classmethod
    def that_has_read(
        cls, lalm: LALM, prompts: Sequence[Encoded], reading: Reading | None, weights: str
    ) -> "PreparedBatch":
        """A batch of prompts of which this much has been read, with weights of this checksum."""
        ready = cls.__new__(cls)
        ready.lalm, ready._weights = lalm, weights
        ready.prompts, ready._reading = list(prompts), reading
        return ready

    def _with(self, prompts: Sequence[Encoded], reading: Reading | None) -> "PreparedBatch":
        """Another batch of the same model, of which this much has been read."""
        return self.that_has_read(self.lalm, prompts, reading, self._weights)

    @alone
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
        old_tail, new_tail = tails
        n_shared = reading.mask.shape[1] - len(old_tail)
        tokens = reading.last.new_tensor(new_tail).expand(len(encoded), -1)  # prompt position
        ids = torch.cat([reading.ids[:, :n_shared], tokens], dim=1)
        mask = reading.mask[:, :n_shared]
        mask = torch.cat([mask, mask.new_ones(tokens.shape)], dim=1)
        cache = with_room(reading.cache, len(new_tail) + OPENING)
        n_stale = len(old_tail) - 1  # its last token has not run
        if n_stale:
            cache.crop(-n_stale)
        if len(new_tail) > 1:
            beginning = {"input_ids": tokens[:, :-1], "attention_mask": mask[:, :-1]}
            with self.lalm.announce(self._batch(encoded, range(len(encoded)), beginning)):
                self.lalm.trunk(**beginning, past_key_values=cache, use_cache=True)
        return self._with(encoded, Reading(cache, ids, mask))

    @alone
    def repeated(self, times: int) -> "PreparedBatch":
        """All prompts `times` over, as rows of one batch: each once, then each once more, ...

        For `times` settings at once: see `under_each`.
        """
        reading = self._reading
        if times == 1:
            return self
        if reading is not None:
            self._rewind()
            prompt_of_row = torch.arange(len(self.prompts)).repeat(times)
            cache = with_room(reading.cache, OPENING, prompt_of_row)
            ids, mask = reading.ids.repeat(times, 1), reading.mask.repeat(times, 1)
            reading = Reading(cache, ids, mask)
        return self._with(self.prompts * times, reading)

    @alone
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

    @alone
    @torch.no_grad()
    def next_token_logits(self) -> Float[Tensor, "prompt vocab"]:
        """Logits of answers' first tokens: those of `lalm.next_token_logits`, up to rounding."""
        if self._reading is not None:
            return self.after(())
        self._check()
        return self.lalm.next_token_logits(self.prompts, batch_size=len(self.prompts))

    @alone
    @torch.no_grad()
    def generate(self, max_new_tokens: int) -> list[str]:
        """Greedy answers in the prompts' order: those of `lalm.generate`, up to rounding.

        A row that has ended leaves the batch. Raises ValueError for what `decoding.greedy_rules`
        refuses of the checkpoint's generation settings.
        """
        self._check()
        reading, tokenizer = self._reading, self.lalm.tokenizer
        if reading is None:
            options = {"max_new_tokens": max_new_tokens, "batch_size": len(self.prompts)}
            return self.lalm.generate(self.prompts, **options)
        self._rewind()
        size = (len(self.prompts), max_new_tokens)
        answers = reading.last.new_full(size, tokenizer.pad_token_id)  # prompt token
        cache = with_room(reading.cache, max_new_tokens)
        ids, mask = reading.ids, reading.mask  # prompts and answers so far
        prompt_of_row = torch.arange(len(answers), device=answers.device)
        running = torch.ones_like(prompt_of_row, dtype=torch.bool)  # row
        rules = self.lalm.rules(ids, mask)
        logits = self._first(cache)
        for step in range(max_new_tokens):
            tokens = rules(ids, logits.float()).argmax(-1)  # row
            answers[prompt_of_row[running], step] = tokens[running]
            running = running & ~torch.isin(tokens, self.lalm.ends)
            if step + 1 == max_new_tokens or not running.any():
                break
            if running.sum() <= FULL_ENOUGH * len(running):
                stay = running.nonzero()[:, 0]
                cache = with_room(cache, max_new_tokens - step, stay)
                ids, mask, tokens = ids[stay], mask[stay], tokens[stay]
                prompt_of_row, running = prompt_of_row[stay], running[stay]
                rules = self.lalm.rules(reading.ids[prompt_of_row], reading.mask[prompt_of_row])
            ids = torch.cat([ids, tokens[:, None]], dim=1)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            logits = self._step(tokens[:, None], mask, cache, prompt_of_row.tolist())
        warn_of_positions(ids.shape[1] + 1, self.lalm, ANSWERED)
        return answer_texts(tokenizer, [prompt.text for prompt in self.prompts], answers)

    @alone
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
        if begun:
            self._rewind(len(begun))  # the prompts' last position, and all of `begun` but the last
            ids = _column(begun[-1], reading.last)
            mask = torch.cat([reading.mask, reading.mask.new_ones(len(ids), len(begun))], dim=1)
            return self._step(ids, mask, reading.cache, range(len(ids))).float()
        self._check()
        if not isinstance(reading.cache.layers[0], RoomyLayer):
            reading = replace(reading, cache=with_room(reading.cache, OPENING))
            self._reading = reading
        self._rewind()
        return self._first(reading.cache).float()

    @alone
    def chances(
        self, begun: Sequence[int | Int[Tensor, "prompt"]]
    ) -> Float[Tensor, "prompt vocab"]:
        """Probabilities of the token after every answer has begun with the tokens `begun`.

        Under the checkpoint's own generation settings (`LALM.rules`). Raises ValueError as `after`
        does, and for what they refuse.
        """
        logits, reading = self.after(begun), self._reading
        assert reading is not None
        columns = [_column(token, reading.last) for token in begun]
        ids = torch.cat([reading.ids, *columns], dim=1)
        return self.lalm.rules(reading.ids, reading.mask)(ids, logits).softmax(-1)

    def last_tokens(self, number: int) -> list[int]:
        """The last tokens of the first prompt; none for a model that is read anew each time."""
        return [] if self._reading is None else self._reading.ids[0, -number:].tolist()

    def _check(self) -> None:
        """Raise SteeringError if what has been read does not belong to the model as it now is."""
        _refuse_other_hooks(self.lalm)
        if weights_checksum(self.lalm.model) != self._weights:
            changed = "weights have changed since these prompts were read"
            raise SteeringError(f"{changed}; make a new one")

    def _rewind(self, n_kept: int = 0) -> None:
        """Forget all positions that have run behind the reading but the first `n_kept`."""
        assert self._reading is not None
        length = self._reading.length + n_kept
        for layer in self._reading.cache.layers:
            # Each its own: a pass that was interrupted has reached some of them alone.
            layer.crop(length - int(layer.get_seq_length()))

    def _first(self, cache: Any) -> Float[Tensor, "prompt vocab"]:
        """Run the prompts' last position, the one that steering takes for the prompt's end."""
        assert self._reading is not None
        numbers = range(len(self.prompts))
        return self._step(self._reading.last, self._reading.mask, cache, numbers, at_end=True)

    def _step(
        self,
        ids: Int[Tensor, "row 1"],
        mask: Int[Tensor, "row position"],
        cache: Any,
        prompt_numbers: Sequence[int],
        at_end: bool = False,
    ) -> Float[Tensor, "row vocab"]:
        """One position more of these prompts, a row each."""
        inputs = {"input_ids": ids, "attention_mask": mask}
        with self.lalm.announce(self._batch(self.prompts, prompt_numbers, inputs, at_end)):
            output = self.lalm.core(**inputs, past_key_values=cache, use_cache=True)
        logits = output.logits[:, -1]
        check_logits(logits, prompt_numbers)
        return logits

    def _batch(
        self,
        prompts: Sequence[Encoded],
        prompt_numbers: Sequence[int],
        inputs: dict[str, Tensor],
        at_end: bool = False,
    ) -> Batch:
        spoken = any(prompts[number].waveform is not None for number in prompt_numbers)
        return Batch(BatchFeature(inputs), prompt_numbers, len(prompts), spoken, at_end=at_end)


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
    together = ready.repeated(len(pushes))
    with ExitStack() as steering:
        for block, (push, strength) in enumerate(zip(pushes, strengths, strict=True)):
            alphas = torch.zeros(len(pushes), len(strength), dtype=torch.float32)  # block prompt
            alphas[block] = strength
            steering.enter_context(push(alphas.flatten()))
        yield together


def _column(
    token: int | Int[Tensor, "prompt"], like: Int[Tensor, "prompt 1"]
) -> Int[Tensor, "prompt 1"]:
    """A token for every prompt, one for all or each its own."""
    return token[:, None] if isinstance(token, Tensor) else like.new_full(like.shape, token)


def _refuse_hooks(lalm: LALM) -> None:
    if foreign_hooks(lalm.model):
        raise SteeringError(
            "hooks are on the model (steer, project_out, or your own): what is read now would keep "
            "their mark; make it outside of the block, and ask it inside"
        )
    _refuse_replaced(lalm)


def _refuse_replaced(lalm: LALM) -> None:
    change = next(replaced_code(lalm.model), None)
    if change is not None:
        advice = "use lalm.generate and its like"
        raise SteeringError(
            f"the model runs other code than it was loaded with ({change}): {advice}"
        )


def _refuse_other_hooks(lalm: LALM) -> None:
    """Raise SteeringError if there are hooks that do not leave the prompt alone, as steering's.

    Patches of earlier positions are refused where the prompts' last position runs (`Patching`).
    """
    for hook in foreign_hooks(lalm.model):
        owner = getattr(getattr(hook, "func", hook), "__self__", None)
        if not isinstance(owner, Steering | Patching | HeadsOff | Guard):
            raise SteeringError(
                "hooks are on the model that act on the whole prompt (project_out, or your own), "
                "but all of it except its last position has been read without them; use "
                "lalm.generate and its like"
            )
    _refuse_replaced(lalm)
