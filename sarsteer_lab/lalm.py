"""An audio-language model and its processor as one object: from prompts to answers.

The way of a prompt: `encode` resolves it once (chat format, clip, key), `batches` puts prompts of
similar length together, and `read`, `decode` or `logits` take a batch through the model. A `Batch`
says what it holds to those who watch the model run: steering, adapters for speech, checks.
"""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import BatchFeature, LogitsProcessorList

from sarsteer_lab import families, fitting
from sarsteer_lab.access import Access
from sarsteer_lab.batch import Batch, Encoded, Prompts, Watcher, split_into_batches
from sarsteer_lab.chat import Processor, conversation, tokenizer_of
from sarsteer_lab.decoding import (
    ANSWER_TOKENS,
    check_decoding,
    decoding_settings,
    end_tokens,
    greedy_rules,
    head_on_last_position,
    seeded,
    tell_overruled,
)
from sarsteer_lab.encoding import chat_text, encode, read_waveform
from sarsteer_lab.keys import content_key, settings_of, versions
from sarsteer_lab.own_code import refuse_autocast, refuse_foreign, refuse_passed_by
from sarsteer_lab.prompts import Prompt
from sarsteer_lab.results import Results
from sarsteer_lab.thoughts import answer_texts
from sarsteer_lab.weights import weights_checksum

Turn = Callable[[Any, Mapping[str, float]], None]
"""Sets a model's weights to where its dials stand."""


class LALM:
    """A model and its processor. `load_lalm` makes one; the constructor takes loaded parts.

    These may also be a text model and its tokenizer, and a model in peft's wrapper, whose LoRA
    stays on. They stay as they are, but that the model is set to `eval()`, and that a tokenizer
    without a padding token pads with its end token.

    Attributes: `model`, `processor`, `tokenizer`, `name`; `family`, its row of the families table;
    `core`, the part that generates text, `trunk`, the same without the vocabulary head, `decoder`,
    its text decoder with `n_layers` `layers` (layer `l` of every capture and vector is
    `layers[l]`'s output) of width `d_model`, and `text_config`, its settings; `audio_token_id`,
    None for a model that hears nothing; `watchers`, the steering that is on, in its order;
    `access`, by which one thread at a time runs the model; `day`, the date that its chat template
    writes, if any; `results`, where what it computes is kept by those who keep it.
    `dials`: where each of the pocket model's dials stands (empty for other models), and
    `turn(model, dials)`, which sets its weights to that.
    """

    def __init__(
        self,
        model: Any,
        processor: Processor,
        *,
        name: str,
        dials: Mapping[str, float] | None = None,
        turn: Turn | None = None,
        family: str | None = None,
    ) -> None:
        self.model = families.without_wrapper(model, name).eval()
        self.processor = processor
        self.tokenizer = tokenizer_of(processor)
        self.name = name
        self.family = families.find_family(self.model.config, family)
        self.core = families.find_core(self.model)
        self.decoder = families.find_decoder(self.model)
        self.trunk = families.find_trunk(self.model)
        tell_overruled(self.core, name)
        self.audio_token_id = families.audio_token_id(self.model)
        self.layers: nn.ModuleList = self.decoder.layers
        self.text_config: families.Settings = self.core.config.get_text_config()
        self.n_layers = len(self.layers)
        self.d_model = int(self.text_config.hidden_size)
        self.watchers: list[Watcher] = []
        self.access = Access()
        self.day = date.today()
        self.results = Results()
        self.dials: dict[str, float] = dict(dials or {})
        self.turn = turn

    def __repr__(self) -> str:
        size = f"{self.n_layers} layers of {self.d_model}, {self.dtype}"
        return f"LALM({self.name!r}, {self.family.name}, {size}, {self.device})"

    @property
    def device(self) -> torch.device:
        """Where token ids and features go: the device of the embeddings."""
        return self.core.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the decoder's weights (of those that are not quantised)."""
        return next(
            weight.dtype for weight in self.layers.parameters() if weight.is_floating_point()
        )

    @property
    def max_audio_seconds(self) -> float | None:
        """The longest clip that the processor takes, in seconds; None: no limit, or no hearing."""
        return self.family.max_seconds and self.family.max_seconds(self.processor)

    @property
    def ends(self) -> Int[Tensor, "token"]:
        """Ids of tokens that end an answer (see `decoding.end_tokens`)."""
        return torch.tensor(end_tokens(self.core, self.tokenizer), device=self.device)

    @property
    def safety(self) -> float | None:
        """Where the pocket model's safety dial stands; None for a model that has none."""
        return self.dials.get("safety")

    def set_safety(self, scale: float) -> None:
        """Turn the pocket model's safety dial: 0 is the unaligned model, 1 the full delta.

        Raises ValueError for a model that has no such dial.
        """
        self.set_dials(safety=scale)

    def set_dials(self, **scales: float) -> None:
        """Turn some of the pocket model's dials; the others stay where they are.

        Weights depend on where the dials stand alone, not on how they came there. Raises
        ValueError for a dial that the model has not.
        """
        for dial in scales:
            if dial not in self.dials:
                raise ValueError(f"{self.name} has no {dial} dial: only the pocket model has one")
        settings = self.dials | scales
        with self.access.alone():
            if self.turn is not None:
                self.turn(self.model, settings)
            self.dials = settings

    def fingerprint(self) -> str:
        """Hash of all that decides what it computes: configuration, processor, weights.

        Every byte of every weight counts, however it was changed: it is computed at each call, as
        fast as memory is (`weights.weights_checksum`).
        """
        weights = weights_checksum(self.model)
        parts = [self.model.config, getattr(self.core, "generation_config", None)]
        for name in ("feature_extractor", "audio_processor"):  # what families call it
            parts.append(getattr(self.processor, name, None))
        settings = settings_of(part.to_dict() for part in parts if part is not None)
        vocabulary = json.dumps(self.tokenizer.get_vocab(), sort_keys=True, default=str)
        unusual = families.unusual(self.model, self.family)
        return content_key(settings, vocabulary, self.ends.tolist(), weights, *unusual)

    def key(self, *parts: object) -> str:
        """A key for something this model has computed: all that decides it, and `parts`.

        That is its fingerprint, device and dtype, and the versions of what computes. `parts` (see
        `keys.content_key`) have to say all else. The weights are read each time, so for many
        results go on with `content_key(shared, own)`. Raises HookedModelError inside of `with
        steer(...)`, under other hooks, and for replaced code (`own_code.refuse_foreign`).
        """
        self.access.refuse_others()
        refuse_foreign(self.model, self.name)
        where = (versions(), str(self.dtype), self.device.type)
        return content_key(self.fingerprint(), *where, *parts)

    def layer_indices(self, layers: Sequence[int] | None = None) -> tuple[int, ...]:
        """`layers`, which may count from the end, as indices from 0; None: all of them.

        Raises ValueError if one is out of range or repeated, TypeError for what is no number.
        """
        if layers is None:
            return tuple(range(self.n_layers))
        fitting.refuse_no_numbers(layers)
        indices = tuple(layer + self.n_layers if layer < 0 else layer for layer in layers)
        distinct = set(indices)
        if not indices or len(distinct) < len(indices) or not distinct <= set(range(self.n_layers)):
            last = self.n_layers - 1
            raise ValueError(f"layers={list(layers)}: give each of 0 to {last} at most once")
        return indices

    def encode(self, prompts: Prompts) -> list[Encoded]:
        """Each prompt in the chat format, with its clip as the model hears it and a key of both.

        A string is a typed prompt; what is encoded already stays as it is. Raises TypeError for a
        prompt that is not in a list, ClipError, and ValueError as `encoding.chat_text` does.
        """
        return encode(self, prompts)

    def chat(self, prompt: Prompt) -> str:
        """The prompt in the chat format (see `encoding.chat_text`)."""
        return chat_text(self, prompt, conversation(prompt))

    def waveform(self, prompt: Prompt) -> Float[np.ndarray, "samples"] | None:
        """The prompt's clip at 16 kHz, read and checked (ClipError); None for a typed prompt."""
        return read_waveform(self, prompt)

    def inputs(self, prompts: Prompts) -> BatchFeature:
        """The model's inputs for typed and spoken prompts together: left-padded, on its device.

        Raises ValueError for prompts that may not share a batch (`fit_together`).
        """
        refuse_autocast(self.device)
        encoded = self.encode(prompts)
        if any(part.training for part in self.model.modules()):
            state = "was in training mode: it is set back to eval()"
            warnings.warn(f"{self.name} {state}", stacklevel=3)
            self.model.eval()
        if not self.fit_together(encoded):
            reason = "typed prompts and clips of other lengths cannot share a batch"
            advice = "`generate`, `capture` and `next_token_logits` keep them apart"
            hears = f"{self.family.name} hears padding or has an adapter for speech"
            raise ValueError(f"{hears}, so {reason}; {advice}")
        given = [(prompt.messages, prompt.text, prompt.waveform) for prompt in encoded]
        inputs = self.family.encode(self.processor, *zip(*given, strict=True))
        fitting.check_inputs(inputs["input_ids"], [prompt.text for prompt in encoded], self)
        return inputs.to(self.device, dtype=self.dtype)

    def fit_together(self, prompts: Sequence[Encoded]) -> bool:
        """Whether these prompts may share a batch (see `Family.mixes`)."""
        return len({self.batch_group(prompt) for prompt in prompts}) <= 1

    def batch_group(self, prompt: Encoded) -> int:
        """Prompts of one group may share a batch: all if the family mixes, else equal lengths."""
        mixed = self.family.mixes or prompt.waveform is None
        return 0 if mixed else len(prompt.waveform)  # type: ignore[arg-type]

    def batches(
        self, prompts: Sequence[Encoded], batch_size: int, description: str
    ) -> Iterator[Batch]:
        """Batches of at most `batch_size` prompts of similar length, the longest first.

        Shows a progress bar after 2 s.
        """
        groups = [self.batch_group(prompt) for prompt in prompts]
        lengths = [prompt.length for prompt in prompts]
        batches = split_into_batches(range(len(prompts)), lengths, groups, batch_size)
        for prompt_numbers in tqdm(batches, desc=description, unit="batch", delay=2, leave=False):
            yield self.batch(prompts, prompt_numbers)

    def batch(self, prompts: Sequence[Encoded], prompt_numbers: Sequence[int]) -> Batch:
        """The prompts of these numbers as one batch."""
        together = [prompts[number] for number in prompt_numbers]
        spoken = any(prompt.waveform is not None for prompt in together)
        return Batch(self.inputs(together), prompt_numbers, len(prompts), spoken)

    @contextmanager
    def announce(self, batch: Batch) -> Iterator[None]:
        """Say which prompts the forward passes of the block hold.

        Steering gives each row its own strength by it; adapters for speech are on for clips alone.
        Other threads wait. Raises SteeringError if one of them steers the model, HookedModelError
        under torch.autocast and for a model around whose trunk methods are replaced.
        """
        refuse_autocast(self.device)
        refuse_passed_by({self.model, self.core} - {self.trunk}, self.name)
        with ExitStack() as block:
            block.enter_context(self.access.alone())
            block.enter_context(fitting.misfits_named(self.model, self.name))
            block.enter_context(families.speech_adapters(self.model, self.family, batch.spoken))
            for watcher in self.watchers:
                block.callback(setattr, watcher, "batch", watcher.batch)
                watcher.batch = batch
            yield

    @torch.no_grad()
    def read(self, batch: Batch) -> None:
        """Run a batch through all layers, for hooks that look at them: no logits, no cache."""
        with self.announce(batch):
            self.trunk(**batch.inputs, use_cache=False)

    @torch.no_grad()
    def decode(self, batch: Batch, **options: Any) -> Int[Tensor, "row token"]:
        """The tokens of a batch's answers, padded on the right; `options` as in `generate`."""
        settings = decoding_settings(self.core, self.tokenizer, options)
        running = replace(batch, decoding=settings)
        with self.announce(running), head_on_last_position(self.core, batch.prompt_numbers):
            sequences = self.core.generate(**batch.inputs, **settings)
        fitting.warn_of_positions(sequences.shape[1], self, fitting.ANSWERED)
        return sequences[:, batch.inputs["input_ids"].shape[1] :]

    def rules(
        self, ids: Int[Tensor, "row position"], mask: Int[Tensor, "row position"]
    ) -> LogitsProcessorList:
        """For decoding step by step behind the prompts `ids`: see `decoding.greedy_rules`."""
        settings = decoding_settings(self.core, self.tokenizer, {})
        return greedy_rules(self.core, ids, mask, settings)

    @torch.no_grad()
    def generate(
        self,
        prompts: Prompts,
        *,
        max_new_tokens: int = ANSWER_TOKENS,
        batch_size: int = 16,
        seed: int = 0,
        **options: Any,
    ) -> list[str]:
        """The model's answers alone, in the order of the prompts, without special tokens.

        Marks of thoughts stay, also that of a block which the chat template itself opens.

        Deterministic: greedy unless `do_sample`, and sampling starts from `seed` without touching
        torch's global state. The repetition penalty that some checkpoints ship is off, so that
        greedy means greedy. `options` go to transformers' `generate` (do_sample, num_beams,
        temperature, stop_strings, ...).

        Raises ValueError for options that are not in `DECODING`, NonFiniteError, and what steering
        refuses.
        """
        options["max_new_tokens"] = max_new_tokens
        check_decoding(options)
        encoded = self.encode(prompts)
        answers = [""] * len(encoded)
        with seeded(seed, self.device):
            for batch in self.batches(encoded, batch_size, "answers"):
                tokens = self.decode(batch, **options)
                begun = [encoded[number].text for number in batch.prompt_numbers]
                texts = answer_texts(self.tokenizer, begun, tokens)
                for number, text in zip(batch.prompt_numbers, texts, strict=True):
                    answers[number] = text
        return answers

    @torch.no_grad()
    def next_token_logits(
        self, prompts: Prompts, *, batch_size: int = 16
    ) -> Float[Tensor, "prompt vocab"]:
        """Logits of answers' first tokens, float32, in the prompts' order.

        Raises NonFiniteError.
        """
        encoded = self.encode(prompts)
        logits = torch.zeros(len(encoded), self.text_config.vocab_size, device=self.device).float()
        for batch in self.batches(encoded, batch_size, "logits"):
            with self.announce(batch), head_on_last_position(self.core, batch.prompt_numbers):
                output = self.core(**batch.inputs, use_cache=False)
            logits[batch.prompt_numbers] = output.logits[:, -1].float()
        return logits
