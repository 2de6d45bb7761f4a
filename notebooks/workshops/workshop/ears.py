"""Checks of workshop 0, from clip to answer, and what the other workshops' checks share."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor, nn

from sarsteer_lab import load_prompts
from sarsteer_lab.course.checks.tools import call, need, need_close
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt, Request
from sarsteer_lab.speech import clip_seconds, read_clip
from workshop.mine import step

WITHIN = 2e-3
"""By how much states and logits of the same computation may differ, as a share of their length:
rounding."""


def requests(n: int) -> list[Request]:
    """Spoken requests of different lengths: neither the first nor the last is the longest."""
    harmless = load_prompts("validation", "harmless")
    by_length = sorted(harmless, key=lambda request: clip_seconds(request.clip or ""))
    return [by_length[0], by_length[-1], *by_length[5 : 3 + n]][:n]


@contextmanager
def hooks_counted(lalm: LALM) -> Iterator[Callable[[], int]]:
    """Says how many hooks an answer has left on the model; takes them off, or later checks would
    fail too."""

    def hooks() -> set[tuple[nn.Module, int]]:
        return {
            (part, key)
            for part in lalm.model.modules()
            for key, hook in part._forward_hooks.items()
            if not getattr(hook, "__module__", "").startswith("transformers.")
        }

    before = hooks()
    try:
        yield lambda: len(hooks() - before)
    finally:
        for part, key in hooks() - before:
            del part._forward_hooks[key]


def same(found: Tensor, right: Tensor, lalm: LALM) -> bool:
    """Whether vectors (the last axis) are alike up to rounding, layer by layer."""
    if found.shape != right.shape:
        return False
    within = WITHIN if lalm.dtype == torch.float32 else 0.05
    scale = right.float().norm(dim=-1).clamp_min(1e-6)
    return bool(((found.float() - right.float()).norm(dim=-1) / scale < within).all())


def need_same(
    found: Tensor, right: Tensor, otherwise: str, mistakes: dict[str, Any], lalm: LALM
) -> None:
    """As `tools.need_close`, for states. `mistakes` may be functions, called only when something is
    wrong."""
    if not same(found, right, lalm):
        for words, make in mistakes.items():
            need(not same(found, make() if callable(make) else make, lalm), words)
        need(False, otherwise)


@step
def check_read_wave(read_wave: object) -> str:
    """`read_wave(path)`: a clip as float32 numbers, one channel, at 16,000 a second."""
    left, right = (0.3 * part for part in np.random.default_rng(0).standard_normal((2, 8000)))
    with tempfile.TemporaryDirectory() as folder:
        stereo, slow = Path(folder) / "stereo.wav", Path(folder) / "slow.wav"
        soundfile.write(stereo, np.stack([left, right], axis=1), 16000, subtype="FLOAT")
        soundfile.write(slow, left, 8000)
        wave = call(read_wave, stereo)
        need(
            not isinstance(wave, tuple),
            "it returns a tuple: the wave alone is wanted, without the rate",
        )
        need(isinstance(wave, np.ndarray), f"an array is wanted, not a {type(wave).__name__}")
        need(wave.shape != (8000, 2), "both channels of a stereo clip come out: average them")
        need(
            wave.shape != (2,),
            "the mean went over the wrong axis: over time, not over the channels",
        )
        need(wave.shape == (8000,), f"a clip of 8000 samples comes out with shape {wave.shape}")
        need(
            wave.dtype == np.float32,
            f"the numbers are {wave.dtype}; the model wants float32 from -1 to 1",
        )
        mistakes = {
            "one channel is thrown away: average them": left,
            "the other channel is thrown away: average them": right,
            "the channels are added up, so the clip is twice as loud: average them": left + right,
        }
        need_close(
            wave, (left + right) / 2, "these are not the clip's samples", mistakes, within=1e-6
        )
        try:
            read_wave(slow)  # type: ignore[operator]
        except ValueError as error:
            need(
                "slow.wav" in str(error),
                "the error for another sampling rate does not name the file",
            )
        else:
            need(
                False,
                "a clip with 8000 samples a second passes as if it had 16000, and sounds an octave high: raise a "
                "ValueError",
            )
    clip = requests(1)[0].clip
    assert clip is not None
    need_close(
        call(read_wave, clip), read_clip(clip), "a shipped clip is read differently", within=1e-6
    )
    return "the same numbers as the library reads"


@step
def check_chat(chat: object, lalm: LALM) -> str:
    """`chat(processor, prompt)`: the prompt in the model's chat format, as text."""
    spoken, typed = (
        Prompt("Answer the request in the audio.", np.zeros(16000, np.float32)),
        Prompt("Hi there"),
    )
    render, sound = lalm.processor.apply_chat_template, {"type": "audio"}

    def rendered(*content: dict[str, str], begun: bool = True) -> str:
        turns = [{"role": "user", "content": list(content)}]
        return render(turns, tokenize=False, add_generation_prompt=begun)

    for prompt, clips in ((typed, []), (spoken, [sound])):
        words, kind = {"type": "text", "text": prompt.text}, "spoken" if clips else "typed"
        text = call(chat, lalm.processor, prompt)
        need(
            isinstance(text, str),
            f"text is wanted, not a {type(text).__name__}: apply_chat_template tokenizes unless it is told not to",
        )
        right = lalm.chat(prompt)
        if text == right:
            continue
        for mistake, wrong in {
            "nothing says that the assistant's turn begins (add_generation_prompt): the last position would be "
            "the end of the user's turn": rendered(*clips, words, begun=False),
            "the clip stands behind the text; this course puts it before": rendered(words, *clips),
            "the clip's place is missing": rendered(words),
            "a typed prompt gets a place for a clip: it has none": rendered(sound, words),
            "the text is missing": rendered(*clips, {"type": "text", "text": ""}),
        }.items():
            need(text != wrong, f"{kind}: {mistake}")
        need(False, f"a {kind} prompt becomes {text!r:.300}, which is not this model's chat format")
    return "one user turn, the clip's place before the text, and the assistant's turn begun"


@step
def check_encode(encode: object, lalm: LALM) -> str:
    """`encode(lalm, prompts)`: inputs for several prompts of different lengths, padded on the
    left."""
    spoken = [request.spoken() for request in requests(3)]
    typed = [request.typed() for request in requests(3)]
    mixed = [spoken[1], typed[0], spoken[0]]
    for prompts, what in (
        (spoken, "spoken prompts"),
        (typed, "typed prompts"),
        (mixed, "mixed prompts"),
    ):
        if lalm.fit_together(lalm.encode(prompts)):
            right = lalm.inputs(prompts)
            lalm.tokenizer.padding_side = "right"  # as many tokenizers come
            _same_inputs(call(encode, lalm, prompts), right, what, lalm)
    return "padded on the left, each clip with its own text, on the model's device"


def _same_inputs(found: Any, right: Any, what: str, lalm: LALM) -> None:
    need(
        hasattr(found, "keys") and "input_ids" in found,
        "the processor's inputs are wanted, with `input_ids`",
    )
    ids, mask = found["input_ids"], found.get("attention_mask")
    need(
        isinstance(ids, Tensor), "the ids are lists: ask the processor for tensors (return_tensors)"
    )
    need(
        mask is not None,
        "the attention mask is missing: the model could not tell padding from text",
    )
    need(
        mask[:, -1].all(),
        f"{what}: padding on the right. The last position of a shorter prompt is padding then, and what is read or "
        "steered there means nothing: pad on the left",
    )
    missing = sorted(set(right) - set(found))
    need(not missing, f"{what}: {', '.join(missing)} missing: does the processor get the clips?")
    need(
        ids.shape == right["input_ids"].shape,
        f"{what}: ids of shape {tuple(ids.shape)}: does your `chat` write the texts?",
    )
    if not torch.equal(ids.cpu(), right["input_ids"].cpu()):
        places = [
            (each == lalm.audio_token_id).sum(1).tolist() for each in (ids, right["input_ids"])
        ]
        turned = places[0] != places[1] and sorted(places[0]) == sorted(places[1])
        need(not turned, f"{what}: the clips are in another order than the texts")
        need(False, f"{what}: the ids are not those of the chat texts")
    for key in right:
        value, wanted = found[key], right[key]
        need(
            value.device == wanted.device,
            f"{what}: `{key}` is on {value.device}, the model on {wanted.device}",
        )
        need(
            value.dtype == wanted.dtype,
            f"{what}: `{key}` is {value.dtype}, the model wants {wanted.dtype}",
        )
        if value.shape == wanted.shape and not torch.equal(value, wanted):
            turned = any(torch.equal(value, wanted.roll(n, 0)) for n in range(1, len(wanted)))
            turned = turned or torch.equal(value, wanted.flip(0))
            need(not turned, f"{what}: the clips are in another order than the texts")
        need(
            torch.equal(value, wanted),
            f"{what}: `{key}` differs from what the processor makes of these clips",
        )


@step
def check_answer_ids(answer_ids: object, lalm: LALM) -> str:
    """`answer_ids(lalm, prompts, max_new_tokens)`: the ids of the greedy answers alone, padded."""
    prompts, n = [request.spoken() for request in requests(3)], 6
    right, settings = library_ids(lalm, prompts, n), lalm.core.generation_config
    length = lalm.inputs(prompts)["input_ids"].shape[1]
    found = call(answer_ids, lalm, prompts, n)
    need(isinstance(found, Tensor), f"a tensor of ids is wanted, not a {type(found).__name__}")
    need(
        found.ndim == 2 and len(found) == 3,
        f"shape {tuple(found.shape)}, but (prompt, token) is wanted",
    )
    need(
        found.shape[1] <= n or not torch.equal(found[:, length:], right),
        "the prompt's own ids still stand before the answer: generate returns both",
    )
    need(found.shape[1] <= n, f"{found.shape[1]} tokens, but at most {n} were asked for")
    cut = found.shape[1] < right.shape[1] and torch.equal(found, right[:, -found.shape[1] :])
    need(not cut, "the answer's first tokens are cut off together with the prompt")
    need(torch.equal(found, right), "these are not the tokens of the greedy answer")
    brought = {"do_sample": True, "temperature": 5.0, "repetition_penalty": 1.0}
    for change, mistake in (
        (
            brought,
            "a checkpoint may ask for sampling: say do_sample=False, or its answers are drawn by lot",
        ),
        (
            brought | {"do_sample": False, "repetition_penalty": 5.0},
            "a checkpoint may bring a repetition penalty, and the answer is not the greedy one: say "
            "repetition_penalty=1.0",
        ),
    ):
        with _settings(settings, change):
            need(torch.equal(call(answer_ids, lalm, prompts, n), right), mistake)
    return "greedy, whatever the checkpoint's own settings say"


def library_ids(lalm: LALM, prompts: list[Prompt], n: int) -> Tensor:
    """The tokens of the library's greedy answers to prompts in one batch, in their order."""
    batch = lalm.batch(lalm.encode(prompts), range(len(prompts)))
    return lalm.decode(batch, max_new_tokens=n)


@contextmanager
def _settings(config: Any, changes: dict[str, Any]) -> Iterator[None]:
    before = {name: getattr(config, name) for name in changes}
    try:
        for name, value in changes.items():
            setattr(config, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(config, name, value)


@step
def check_answers(answers: object, lalm: LALM) -> str:
    """`answers(lalm, prompts, max_new_tokens)`: the greedy answers as text."""
    prompts, n = [request.spoken() for request in requests(3)], 6
    ids, found = library_ids(lalm, prompts, n), call(answers, lalm, prompts, n)
    need(isinstance(found, list), f"a list of texts is wanted, not a {type(found).__name__}")
    need(
        len(found) == 3 and all(isinstance(text, str) for text in found),
        "one text for each prompt is wanted",
    )
    if found != (right := lalm.generate(prompts, max_new_tokens=n)):
        special = lalm.tokenizer.batch_decode(ids)
        need(found != special, "special tokens (end of turn, padding) are still in the texts")
        need([text.strip() for text in found] != right, "white space is left at the ends: strip it")
        need(sorted(found) != sorted(right), "the answers are in another order than the prompts")
        need(False, "these texts are not those of the greedy answers")
    return "the model speaks: " + " | ".join(f"{text!r:.40}" for text in right)
