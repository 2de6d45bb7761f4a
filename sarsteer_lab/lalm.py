"""An audio-language model and its processor as one object: prompts (a clip, text or both) ->
answers."""

import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import BatchFeature

from sarsteer_lab import families
from sarsteer_lab.families import adapter_layers
from sarsteer_lab.keys import content_key, settings_of
from sarsteer_lab.prompts import DECODING, Prompt, as_prompts, rough_length
from sarsteer_lab.speech import SAMPLE_RATE, check_waveform, read_clip
from sarsteer_lab.weights import weights_checksum


@dataclass(frozen=True)
class Running:
    """What the batch now running holds: `LALM.running` sets it, hooks read it at `LALM.now`.

    `rows`: places of its prompts among the `prompts` of the call (calls sort and split them).
    `at_end`: all positions but the prompts' last have run before. `decoding`: options of the
    `generate` call, if it is one. `looking`: whether it is a look at where numbers stop being
    finite.
    """

    rows: Sequence[int]
    prompts: Sequence[Prompt]
    at_end: bool = False
    decoding: Mapping[str, Any] | None = None
    looking: bool = False


class HookedModelError(RuntimeError):
    """Hooks are on a model whose results were to be kept: they could not be told from the plain
    model's."""


class NonFiniteError(RuntimeError):
    """A model has given numbers that are none (nan, inf). The message names the prompt and the
    layer."""

    def __init__(self, prompt: int, what: str) -> None:
        advice = "try another dtype (bfloat16, float32) or attention, and a smaller alpha if it is steered"
        super().__init__(f"prompt {prompt}: its {what} are not finite (nan or inf): {advice}")


@dataclass(frozen=True, eq=False)
class Encoded:
    """A prompt in the chat format (a clip is its placeholder tokens), its clip at 16 kHz, a key of
    both."""

    text: str
    waveform: Float[np.ndarray, "samples"] | None
    key: str


class LALM:
    """A model and its processor. `load_lalm` makes one; the constructor takes parts that are
    already loaded, also a text model and its tokenizer, and a model in peft's wrapper, whose LoRA
    stays on.

    Attributes: `model`, `processor`, `tokenizer`, `name`; `family`, its row of the families table;
    `core`, the part that generates text, `trunk`, the same without the vocabulary head, `decoder`,
    its text decoder with `n_layers` `layers` (layer `l` of every capture and vector is
    `layers[l]`'s output) of width `d_model`, and `text_config`, its settings; `audio_token_id`,
    None for a model that hears nothing; `now`, what is `running`, or None. `turn(model, scale)` is
    a safety dial, `safety` its setting, None without one.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        name: str,
        turn: Callable[[nn.Module, float], None] | None = None,
        family: str | None = None,
    ) -> None:
        if hasattr(model, "get_base_model"):  # peft's wrapper, around a model that holds its layers
            if any(adapter.is_prompt_learning for adapter in model.peft_config.values()):
                raise ValueError(
                    f"{name}: its adapter's virtual tokens move positions; use LoRA or its like"
                )
            model = model.get_base_model()
        self.model = model.eval()
        self.processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.name = name
        self.family = families.find_family(model.config, family)
        self.core = families.find_core(model)
        self.decoder = families.find_decoder(model)
        self.trunk = families.find_trunk(model)
        self.audio_token_id = families.audio_token_id(model)
        self.now: Running | None = None
        self.layers: nn.ModuleList = self.decoder.layers
        self.text_config: Any = self.core.config.get_text_config()
        self.n_layers, self.d_model = len(self.layers), int(self.text_config.hidden_size)
        self.safety: float | None = None if turn is None else 0.0
        self._turn = turn
        self._vocabulary: tuple[tuple[int, int], str] = ((0, 0), "")

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
        """The longest clip that the processor takes, in seconds; None for no limit (or no
        hearing)."""
        return self.family.max_seconds and self.family.max_seconds(self.processor)

    def set_safety(self, scale: float) -> None:
        """Turn the pocket model's safety dial: 0 is the unaligned model, 1 the full text-safety
        delta.

        The weights depend on `scale` alone, not on earlier settings. Raises ValueError without a
        dial.
        """
        if self._turn is None:
            raise ValueError(f"{self.name} has no safety dial: only the pocket model has one")
        self._turn(self.model, scale)
        self.safety = scale

    @property
    def ends(self) -> Int[Tensor, "token"]:
        """Ids of the tokens that end an answer."""
        ids = self.core.generation_config.eos_token_id
        return torch.tensor(ids if isinstance(ids, Sequence) else [ids], device=self.device)

    @property
    def fingerprint(self) -> str:
        """Hash of configuration, processor settings and weights, on which all that a model computes
        depends.

        Every byte of every weight counts, however it was changed: it is computed at each use, as
        fast as memory is (`store.weights_checksum`).
        """
        vocabulary = (id(self.tokenizer), len(self.tokenizer))
        if self._vocabulary[0] != vocabulary:
            self._vocabulary = (vocabulary, content_key(self.tokenizer.get_vocab()))
        # Most families call it a feature extractor, some an audio processor.
        parts = [
            getattr(self.processor, name, None) for name in ("feature_extractor", "audio_processor")
        ]
        parts = [self.model.config, getattr(self.core, "generation_config", None), *parts]
        settings = settings_of(part.to_dict() for part in parts if part is not None)
        return content_key(settings, self._vocabulary[1], weights_checksum(self.model))

    def key(self, *parts: Any) -> str:
        """A key for something this model has computed: its fingerprint, device and dtype, and
        `parts`.

        `parts` (see `store.content_key`) have to say all else that decides the result. The weights
        are read each time, so for many results go on with `content_key(shared, own)`. Raises
        HookedModelError inside of `with steer(...)` and under other hooks.
        """
        if families.foreign_hooks(self.model):
            raise HookedModelError(
                f"hooks are on {self.name}, so what it computes cannot be kept as the plain model's: do this "
                "outside of `with steer(...)`, without hooks of your own"
            )
        return content_key(self.fingerprint, str(self.dtype), self.device.type, *parts)

    def encode(self, prompts: Sequence[Prompt]) -> list[Encoded]:
        """Each prompt in the chat format, its clip as the model hears it, a key of both (or their
        errors)."""
        read = [(self.chat(prompt), self.waveform(prompt)) for prompt in prompts]
        return [Encoded(text, clip, content_key(text, clip)) for text, clip in read]

    def waveform(self, prompt: Prompt) -> Float[np.ndarray, "samples"] | None:
        """The prompt's clip at 16 kHz, read and checked (ClipError); None for a typed prompt."""
        if isinstance(prompt.audio, np.ndarray):
            return check_waveform(prompt.audio, SAMPLE_RATE, max_seconds=self.max_audio_seconds)
        return (
            None
            if prompt.audio is None
            else read_clip(prompt.audio, max_seconds=self.max_audio_seconds)
        )

    def chat(self, prompt: Prompt) -> str:
        """The prompt in the chat format, generation prompt included; a clip is its placeholder
        tokens.

        Raises ValueError for an empty prompt, a spoken one if this model takes no audio, and for a
        text that contains the audio placeholder itself.
        """
        if not prompt.text and prompt.audio is None:
            raise ValueError("a prompt needs text, audio or both; this one has neither")
        if self.audio_token_id is not None:
            placeholder = self.tokenizer.convert_ids_to_tokens(self.audio_token_id)
            if placeholder in prompt.text or placeholder in (prompt.system or ""):
                raise ValueError(
                    f"the text holds {placeholder!r}, it stands for audio; pass it as `audio`"
                )
        elif prompt.audio is not None:
            raise ValueError(f"{self.name} takes no audio: give it a typed prompt (audio=None)")
        return self.family.render(self.processor, families.conversation(prompt))

    def batch(self, prompts: Sequence[Prompt]) -> BatchFeature:
        """Inputs for typed and spoken prompts together, left-padded, on the model's device, in its
        dtype."""
        prompts = as_prompts(prompts)
        self.tokenizer.padding_side = (
            "left"  # captured and steered positions are counted from the end
        )
        if any(part.training for part in self.model.modules()):
            warnings.warn(
                f"{self.name} was in training mode: it is set back to eval()", stacklevel=3
            )
            self.model.eval()
        if not self.fit_together(prompts):
            raise ValueError(
                f"{self.family.name} hears padding or has an adapter for speech, so typed prompts and clips "
                "of other lengths cannot share a batch; `generate`, `capture` and `next_token_logits` keep "
                "them apart"
            )
        makers = (families.conversation, self.chat, self.waveform)
        inputs = self.family.encode(
            self.processor, *([make(one) for one in prompts] for make in makers)
        )
        return inputs.to(self.device, dtype=self.dtype)

    def fit_together(self, prompts: Sequence[Prompt]) -> bool:
        """Whether these prompts may share a batch (see `Family.mixes`)."""
        return len(set(map(self._kind, prompts))) <= 1

    def _kind(self, prompt: Prompt) -> int:
        """Prompts of one kind may share a batch: 0 for typed ones, and for all where the family
        mixes."""
        clip = None if self.family.mixes else self.waveform(prompt)
        return 0 if clip is None else len(clip)

    @contextmanager
    def running(self, running: Running) -> Iterator[None]:
        """Say what the forward passes of the block run: steering and adapters for speech go by
        it."""
        layers = [] if self.family.adapter is None else adapter_layers(self.model)
        outer, before = self.now, [not layer.disable_adapters for layer in layers]
        spoken = any(running.prompts[row].audio is not None for row in running.rows)
        try:
            self.now = running
            for layer in layers:
                layer.enable_adapters(spoken)
            yield
        finally:
            self.now = outer
            for layer, on in zip(layers, before, strict=True):
                layer.enable_adapters(on)

    def batches(
        self, prompts: Sequence[Prompt], batch_size: int, description: str, decoding: Any = None
    ) -> Generator[tuple[list[int], BatchFeature], None, None]:
        """Batches of prompts of similar length, the longest first, each with its prompts' indices.

        Shows a progress bar after 2 s. Each batch is `running` until the next: use
        `contextlib.closing`.
        """
        alike: dict[int, list[int]] = {}
        for row in sorted(range(len(prompts)), key=lambda i: -rough_length(prompts[i])):
            alike.setdefault(self._kind(prompts[row]), []).append(row)
        starts = [(rows, at) for rows in alike.values() for at in range(0, len(rows), batch_size)]
        groups = [rows[at : at + batch_size] for rows, at in starts]
        for rows in tqdm(groups, desc=description, unit="batch", delay=2, leave=False):
            inputs = self.batch([prompts[row] for row in rows])
            with self.running(Running(rows, prompts, decoding=decoding)):
                yield rows, inputs

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 48,
        batch_size: int = 16,
        seed: int = 0,
        **options: Any,
    ) -> list[str]:
        """The model's answers alone, in the order of the prompts, without special tokens.

        Deterministic: greedy unless `do_sample`, and sampling starts from `seed` without touching
        torch's global state. The repetition penalty that some checkpoints ship is off, so that
        greedy means greedy. `options` go to transformers' `generate` (do_sample, num_beams,
        temperature, stop_strings, ...).

        Raises ValueError for options that are not in `DECODING`, NonFiniteError, and what steering
        refuses.
        """
        prompts = as_prompts(prompts)
        if refused := sorted(
            name for name in options.keys() - DECODING if options[name] is not None
        ):
            reason = "a prompt gets one answer, token by token on the default cache, by"
            raise ValueError(
                f"generate takes no {', '.join(refused)}: {reason} {', '.join(sorted(DECODING))}"
            )
        if options.get("stop_strings") is not None:
            options["tokenizer"] = self.tokenizer
        answers, devices = [""] * len(prompts), [self.device] if self.device.type == "cuda" else []
        decoded = closing(
            self.decode(prompts, batch_size, max_new_tokens=max_new_tokens, **options)
        )
        with torch.random.fork_rng(devices), decoded as batches:
            torch.manual_seed(seed)
            for rows, tokens in batches:
                texts = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
                for row, text in zip(rows, texts, strict=True):
                    answers[row] = text.strip()
        return answers

    @torch.no_grad()
    def decode(
        self, prompts: Sequence[Prompt], batch_size: int, *, do_sample: bool = False, **options: Any
    ) -> Generator[tuple[list[int], Int[Tensor, "row token"]], None, None]:
        """The tokens of `generate`'s answers, padded, each batch with its prompts' indices, as
        `batches`."""
        settings: dict[str, Any] = {"repetition_penalty": 1.0, "num_beams": 1}
        settings["pad_token_id"] = self.tokenizer.pad_token_id
        if not do_sample:
            settings |= dict.fromkeys(("temperature", "top_p", "top_k"))
        settings |= {**options, "do_sample": do_sample}
        reading = closing(self.batches(prompts, batch_size, "answers", settings))
        with reading as batches, head_on_last_position(self.core), finite_logits(self):
            for rows, inputs in batches:
                yield (
                    rows,
                    self.core.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :],
                )

    @torch.no_grad()
    def next_token_logits(
        self, prompts: Sequence[Prompt], *, batch_size: int = 16
    ) -> Float[Tensor, "prompt vocab"]:
        """Logits of answers' first tokens, float32, in the prompts' order. Raises
        NonFiniteError."""
        prompts = as_prompts(prompts)
        logits = torch.zeros(len(prompts), self.text_config.vocab_size, device=self.device)
        reading = closing(self.batches(prompts, batch_size, "logits"))
        with reading as batches, head_on_last_position(self.core), finite_logits(self):
            for rows, inputs in batches:
                logits[rows] = self.core(**inputs, use_cache=False).logits[:, -1].float()
        return logits


@contextmanager
def head_on_last_position(core: Any) -> Iterator[None]:
    """Let the vocabulary head see only the last position: no other logits of a prompt are ever
    used.

    (Qwen2-Audio has no `logits_to_keep`: 16 prompts of 300 positions would give 1.5 GB of them in
    bfloat16.)
    """
    head = core.get_output_embeddings()
    with head.register_forward_pre_hook(lambda _, args: (args[0][:, -1:], *args[1:])):
        yield


def check_logits(lalm: LALM, logits: Float[Tensor, "row *position vocab"]) -> None:
    """Raise NonFiniteError for logits of running prompts that are none, after a look at where that
    begins."""
    finite, now = logits.isfinite().flatten(1).all(1), lalm.now
    if now is None or not now.rows or now.looking or finite.all():
        return
    prompt = now.rows[
        int(finite.byte().argmin()) * len(now.rows) // len(finite)
    ]  # its beams stand together
    with lalm.running(Running([prompt], now.prompts, looking=True)):
        inputs = lalm.batch([now.prompts[prompt]])
        states = lalm.core(**inputs, output_hidden_states=True, use_cache=False).hidden_states[1:]
    broken = [layer for layer, state in enumerate(states) if not state.isfinite().all()]
    raise NonFiniteError(prompt, f"states from layer {broken[0]} on" if broken else "logits")


@contextmanager
def finite_logits(lalm: LALM) -> Iterator[None]:
    """`check_logits` of every forward pass in the block."""
    head = lalm.core.get_output_embeddings()
    with head.register_forward_hook(lambda _module, _args, logits: check_logits(lalm, logits)):
        yield
