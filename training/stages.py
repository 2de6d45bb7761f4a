"""The stages of the pocket model's training, and what they share; `train` runs them."""

from __future__ import annotations

import copy
import json
import random
import shutil
from dataclasses import asdict, replace
from functools import cached_property
from itertools import chain
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaForCausalLM, Qwen2AudioProcessor

from sarsteer_lab.paths import data_folder
from sarsteer_lab.pocket.assemble import (
    base_language_model,
    build_model,
    build_processor,
    deltas_folder,
    merge_delta,
)
from sarsteer_lab.prompts import INSTRUCTION, REFUSAL, load_prompts
from training import DATA, YARDSTICK
from training.clips import Clip, read_clips, speak_corpus
from training.corpus import (
    Sentence,
    build_corpus,
    check_harmless,
    lexicon_of,
    read_sentences,
)
from training.ctc import TokenHead, head_file, token_counts, train_ctc
from training.lm_in_loop import train_in_loop
from training.loop import AudioSide, add_audio_rows, load_checkpoint
from training.open_text import open_sentences, scrambled
from training.readout import train_readout
from training.records import read_records, write_records
from training.safety import choose_scale, read_safety_prompts, scaled, train_safety
from training.tokens import plain_tokens
from training.voices import voices_of
from training.whisper import whisper_tower

CORPUS_SIZE = 6000
OPEN_SIZE = 20_000
# Kokoro is seventy times slower than the other engines: so many sentences of either kind.
KOKORO_SENTENCES = 2000
# So many of the open sentences are spoken once more with their words in another order.
SCRAMBLED_SENTENCES = 3000
# Each of flite's pseudo-voices speaks so many times as often as one of espeak-ng's 84: half of all.
FLITE_TIMES = 12
CTC_PRESENTATIONS = 24_000
IN_LOOP_PRESENTATIONS = 12_000
STAGES_WITH_LOGS = ("readout", "safety", "ctc", "in_loop")


class Training:
    """The stages, and what they share. All lies under `folder`; `seed` decides what is drawn."""

    def __init__(
        self,
        folder: Path,
        *,
        start: Path,
        to: Path | None = None,
        ctc: int,
        in_loop: int,
        seed: int = 0,
        fresh: bool = False,
        freeze_tower: bool = False,
        polish: bool = False,
        dtype: torch.dtype = torch.bfloat16,
        device: str = "cpu",
    ) -> None:
        """Nothing is loaded before a stage needs it.

        (d) and (e) go on from the audio side and adapter in `start`, or, `fresh`, from Whisper's
        encoder; `export` writes to `to`. With `freeze_tower` the tower stays as it is (from
        Whisper's encoder, (d) then is a linear probe of it). With `polish` (e) leaves the adapter
        as it is, and changes the audio side little. What is frozen computes in `dtype`, everything
        on `device`.
        """
        self.folder, self.start, self.to = folder, start, to or deltas_folder()
        self.seed, self.fresh = seed, fresh
        self.freeze_tower, self.polish = freeze_tower, polish
        self.dtype, self.device = dtype, device
        self.presentations = {"ctc": ctc, "in-loop": in_loop}
        folder.mkdir(parents=True, exist_ok=True)

    @cached_property
    def base(self) -> tuple[LlamaForCausalLM, Qwen2AudioProcessor]:
        """The language model, with read-out adapter and audio rows, and the model's processor."""
        language_model, tokenizer = base_language_model()
        processor = build_processor(tokenizer)
        merge_delta(language_model, load_file(self._weights("readout")))
        add_audio_rows(language_model, len(processor.tokenizer))
        return language_model.to(self.device), processor

    def _weights(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _begun(self, path: Path) -> dict[str, Tensor] | None:
        """The adapter to go on from: the one at `path`, if there is one and this is not `fresh`."""
        return load_file(path) if path.exists() and not self.fresh else None

    def take_shipped_adapters(self) -> None:
        """Go on with the shipped text adapters, as (d) and (e) do from the shipped audio side."""
        for path in (self._weights("readout"), self._weights("safety")):
            shipped = deltas_folder() / path.name
            if not path.exists() and shipped.exists():
                print(f"taking the shipped {path.name} (--fresh trains a new one)")
                shutil.copy(shipped, path)

    @property
    def corpus_file(self) -> Path:
        """The sentences, one JSON object a line, as they were trained on."""
        return DATA / "corpus.jsonl"

    def _safety_prompts(self) -> list[dict]:
        return read_safety_prompts(DATA / "safety_prompts.jsonl")

    def _prompt_texts(self) -> tuple[list[str], list[str]]:
        """The shipped prompts, and what no training sentence may repeat: they and harmful ones."""
        records = read_records(data_folder() / "prompts" / "prompts.jsonl")
        shipped = [record["text"] for record in records]
        harmful = [r["text"] for r in self._safety_prompts() if r["label"] == "harmful"]
        return shipped, shipped + harmful

    def sentences(self) -> list[Sentence]:
        """The corpus as written by the stage `corpus`."""
        return read_sentences(self.corpus_file)

    def corpus(self) -> None:
        """(a) Compose the sentences; none may be close to a harmful prompt, shipped or trained."""
        if self.corpus_file.exists():
            return
        shipped, never = self._prompt_texts()
        lexicon = lexicon_of([*shipped, INSTRUCTION, REFUSAL])
        sentences = build_corpus(lexicon, seed=self.seed, size=CORPUS_SIZE, excluded=never)
        check_harmless(sentences, never)
        random.Random(self.seed).shuffle(sentences)
        write_records(self.corpus_file, map(asdict, sentences))

    @property
    def open_file(self) -> Path:
        """The sentences that the base language model made up, as `corpus_file`."""
        return DATA / "open.jsonl"

    def open(self) -> None:
        """(a) Sentences of the base model's own, none close to a prompt or to the yardstick."""
        known = read_sentences(self.open_file) if self.open_file.exists() else []
        if len(known) >= OPEN_SIZE:
            return
        yardstick = (YARDSTICK / "sentences.txt").read_text(encoding="utf-8").splitlines()
        language_model, tokenizer = base_language_model()
        _, never = self._prompt_texts()
        sentences = open_sentences(
            language_model.to(self.device, self.dtype),
            tokenizer,
            count=OPEN_SIZE - len(known),
            excluded=[*never, *yardstick],
            seed=self.seed + len(known),
            known=[sentence.text for sentence in known],
        )
        with self.open_file.open("a", encoding="utf-8") as file:
            for sentence in sentences:
                file.write(json.dumps(asdict(sentence)) + "\n")

    def opened(self) -> tuple[list[Sentence], list[Sentence]]:
        """The open sentences, and some of them with their words in another order."""
        opened = read_sentences(self.open_file)
        shuffled = scrambled(opened[:SCRAMBLED_SENTENCES], seed=0)  # as they were spoken
        return opened, list(shuffled)

    def clips(self) -> None:
        """(b) Speak all sentences by hibari and by programs, some of both kinds by Kokoro.

        Some of the open ones are spoken in another order, too.
        """
        corpus = self.sentences()
        opened, shuffled = self.opened()
        hibari, kokoro = voices_of("hibari"), voices_of("kokoro")
        programs = voices_of("espeak-ng") + FLITE_TIMES * voices_of("flite")
        mixed: list[Sentence] = []
        for pair in zip(corpus[::-1], opened[::-1], strict=False):
            mixed += pair
        rounds = [
            (0, opened, hibari),
            (0, opened, programs),
            (1000, corpus, hibari),
            (1000, shuffled, programs),
            (2000, shuffled, hibari),
            (2000, corpus, programs),
            (0, mixed[: 2 * KOKORO_SENTENCES], kokoro),
        ]
        for first, chosen, speakers in rounds:
            speak_corpus(chosen, speakers, self.folder / "clips", seed=self.seed + 1, first=first)

    def readout(self) -> None:
        """(c) Train the adapter that repeats when asked to; from here on `base` has it."""
        if self._weights("readout").exists():
            return
        language_model, tokenizer = base_language_model()
        processor = build_processor(tokenizer)
        add_audio_rows(language_model, len(processor.tokenizer))
        language_model.to(self.device)
        path = self._weights("readout")
        train_readout(language_model, processor, self.sentences(), path, seed=self.seed)

    def safety(self) -> None:
        """(c) Train the typed safety adapter."""
        if self._weights("safety").exists():
            return
        language_model, processor = self.base
        train_safety(
            language_model,
            processor.tokenizer,
            self._safety_prompts(),
            self._weights("safety"),
            seed=self.seed,
            start=self._begun(deltas_folder() / "safety.safetensors"),
        )
        del self.base  # the adapter was injected into it

    def calibrate(self) -> None:
        """(c) Bring the safety adapter to the strength that does best on the validation split."""
        path = self._weights("safety")
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        if "scale" in metadata:
            return
        delta = load_file(path)
        language_model, processor = self.base
        listening = self.folder / "listening.safetensors"
        if listening.exists():  # as the model will be assembled
            merge_delta(language_model, load_file(listening))
        prompts = load_prompts("validation")
        scale, tried = choose_scale(language_model, processor.tokenizer, delta, prompts)
        del self.base  # its weights now hold the adapter
        for outcome in tried:
            print("safety scale", json.dumps(outcome))
        save_file(scaled(delta, scale), path, metadata={"scale": str(scale)})

    def _audio(self) -> tuple[AudioSide, TokenHead, list[Clip]]:
        """A fresh audio side with Whisper's encoder, its CTC head, the clips that may be heard."""
        language_model, processor = self.base
        tokenizer = processor.tokenizer
        torch.manual_seed(self.seed)
        model = build_model(language_model, processor, {})
        torch.nn.init.xavier_uniform_(model.model.multi_modal_projector.linear.weight)
        model.model.load_state_dict(whisper_tower(), strict=False)
        model.requires_grad_(False)
        corpus = {sentence.text for sentence in self.sentences()}
        opened = {sentence.text for sentence in chain(*self.opened())}
        counts = token_counts([*corpus, *opened], tokenizer)
        embeddings = language_model.get_input_embeddings().weight.detach()
        [space] = plain_tokens(tokenizer, " ")
        head = TokenHead(embeddings, counts, space)
        clips, _ = read_clips(self.folder / "clips")
        known = []
        for clip in clips:
            if clip.text in corpus or clip.text in opened:
                known.append(replace(clip, open=clip.text in opened))
        audio = AudioSide(model)
        if self.freeze_tower:
            audio.audio_tower.requires_grad_(False)
        return audio.to(self.device), head.to(self.device), known

    def ctc(self) -> None:
        """(d) CTC warm start."""
        audio, head, clips = self._audio()
        if not self.fresh:
            self._load_start(audio, head)
        train_ctc(
            audio,
            head,
            self.base[1].tokenizer,
            clips,
            self.folder,
            presentations=self.presentations["ctc"],
            seed=self.seed,
            flat_start=self.fresh,
            dtype=self.dtype,
        )

    def _load_start(self, audio: AudioSide, head: TokenHead) -> None:
        print(f"starting from the deltas in {self.start} (--fresh starts from Whisper's encoder)")
        shipped = load_file(self.start / "audio.safetensors")
        audio.load_state_dict({name: tensor.float() for name, tensor in shipped.items()})
        head.take(load_file(head_file(self.start)))

    def in_loop(self) -> None:
        """(e) Train through the language model with its safety adapter at full scale."""
        audio, head, clips = self._audio()
        checkpoint = self._weights("ctc")
        if checkpoint.exists():
            load_checkpoint(checkpoint, {"audio": audio, "head": head})
        else:
            self._load_start(audio, head)
        language_model, processor = self.base
        merge_delta(language_model, load_file(self._weights("safety")))
        taught = copy.deepcopy(language_model)
        shipped = self._begun(deltas_folder() / "listening.safetensors")
        if shipped:
            merge_delta(taught, shipped)
        train_in_loop(
            language_model,
            taught,
            audio,
            head,
            processor,
            clips,
            self._safety_prompts(),
            self.folder,
            presentations=self.presentations["in-loop"],
            listening=self._begun(self.start / "listening.safetensors"),
            dtype=self.dtype,
            seed=self.seed,
            polish=self.polish,
        )
        del self.base  # its weights now hold the adapter

    def export(self) -> None:
        """Write the newest checkpoint's audio side, the adapters and the logs to `self.to`.

        Head and logs of what ships go to DATA.
        """
        audio, head, _ = self._audio()
        stages = [self._weights(stage) for stage in ("polished", "in_loop", "ctc")]
        newest = next((path for path in stages if path.exists()), stages[-1])
        progress = load_checkpoint(newest, {"audio": audio, "head": head})
        shipping = self.to == deltas_folder()
        logs = DATA if shipping else self.to
        logs.mkdir(parents=True, exist_ok=True)
        metadata = {"stage": newest.stem, "seen": str(progress["seen"])}
        save_file(audio.audio_state(), self.to / "audio.safetensors", metadata=metadata)
        state = {name: t.contiguous() for name, t in head.state_dict().items()}
        save_file(state, head_file(self.to))
        copies = {f"{stage}.jsonl": logs / f"log-{stage}.jsonl" for stage in STAGES_WITH_LOGS}
        for name in ("readout", "listening", "safety") if shipping else ("listening",):
            copies[f"{name}.safetensors"] = self.to / f"{name}.safetensors"
        for name, target in copies.items():
            if (self.folder / name).exists():
                shutil.copy(self.folder / name, target)
        print(f"exported {newest.stem} after {progress['seen']:,} clips heard to {self.to}")
