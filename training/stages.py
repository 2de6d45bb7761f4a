"""The stages of the pocket model's training, and what they share; `train` runs them."""

from __future__ import annotations

import copy
import json
import random
import shutil
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
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
from training.safety import choose_scale, read_safety_prompts, train_safety
from training.voices import training_voices
from training.whisper import whisper_tower

CORPUS_SIZE = 6000
OPEN_SIZE = 20_000
# Kokoro is seventy times slower than the other engines: it speaks this many sentences of either
# kind.
KOKORO_SENTENCES = 2000
# So many of the open sentences are spoken once more with their words in another order.
SCRAMBLED_SENTENCES = 3000
# Each of flite's pseudo-voices speaks this many times as often as one of espeak-ng's 84: half of
# the clips.
FLITE_TIMES = 12
CTC_PRESENTATIONS = 24_000
IN_LOOP_PRESENTATIONS = 12_000


class Training:
    """The stages, and what they share. Everything lies under `folder`; `seed` decides all that is
    drawn."""

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
        """Nothing is loaded before a stage needs it. (d) and (e) go on from the audio side and
        adapter in `start`, or, `fresh`, from Whisper's encoder; `export` writes to `to`. With
        `freeze_tower` the tower stays as it is (from Whisper's encoder, (d) then is a linear probe
        of it). With `polish` (e) leaves the adapter as it is, and changes the audio side little.
        What is frozen computes in `dtype`, everything on `device`.
        """
        self.folder, self.start, self.to = folder, start, to or deltas_folder()
        self.seed, self.fresh = seed, fresh
        self.freeze_tower, self.polish, self.dtype, self.device = (
            freeze_tower,
            polish,
            dtype,
            device,
        )
        self.presentations = {"ctc": ctc, "in-loop": in_loop}
        folder.mkdir(parents=True, exist_ok=True)

    @cached_property
    def base(self) -> tuple[LlamaForCausalLM, Qwen2AudioProcessor]:
        """The language model, read-out adapter and audio rows included, and the model's
        processor."""
        language_model, tokenizer = base_language_model()
        processor = build_processor(tokenizer)
        merge_delta(language_model, load_file(self._adapter("readout")))
        add_audio_rows(language_model, len(processor.tokenizer))
        return language_model.to(self.device), processor

    def _adapter(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def take_shipped_adapters(self) -> None:
        """Go on with the shipped text adapters, as (d) and (e) go on from the shipped audio
        side."""
        for path in (self._adapter("readout"), self._adapter("safety")):
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
        """The shipped prompts, and all texts that no training sentence may repeat: these and
        harmful ones."""
        lines = (
            (data_folder() / "prompts" / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
        )
        shipped = [json.loads(line)["text"] for line in lines]
        return shipped, shipped + [
            r["text"] for r in self._safety_prompts() if r["label"] == "harmful"
        ]

    def sentences(self) -> list[Sentence]:
        """The corpus as written by the stage `corpus`."""
        return read_sentences(self.corpus_file)

    def corpus(self) -> None:
        """(a) Compose the sentences; none may come close to any harmful prompt, shipped or trained
        on."""
        if self.corpus_file.exists():
            return
        shipped, never = self._prompt_texts()
        lexicon = lexicon_of([*shipped, INSTRUCTION, REFUSAL])
        sentences = build_corpus(lexicon, seed=self.seed, size=CORPUS_SIZE, excluded=never)
        check_harmless(sentences, never)
        random.Random(self.seed).shuffle(sentences)
        self.corpus_file.write_text(
            "".join(json.dumps(asdict(s)) + "\n" for s in sentences), encoding="utf-8"
        )

    @property
    def open_file(self) -> Path:
        """The sentences that the base language model made up, as `corpus_file`."""
        return DATA / "open.jsonl"

    def open(self) -> None:
        """(a) Open vocabulary: sentences of the base language model's own, none close to a prompt
        or to the yardstick.
        """
        known = read_sentences(self.open_file) if self.open_file.exists() else []
        if len(known) >= OPEN_SIZE:
            return
        yardstick = (YARDSTICK / "sentences.txt").read_text(encoding="utf-8").splitlines()
        language_model, tokenizer = base_language_model()
        with self.open_file.open("a", encoding="utf-8") as file:
            for sentence in open_sentences(
                language_model.to(self.device, self.dtype),
                tokenizer,
                count=OPEN_SIZE - len(known),
                excluded=[*self._prompt_texts()[1], *yardstick],
                seed=self.seed + len(known),
                known=[sentence.text for sentence in known],
            ):
                file.write(json.dumps(asdict(sentence)) + "\n")

    def opened(self) -> tuple[list[Sentence], list[Sentence]]:
        """The open sentences, and some of them with their words in another order."""
        opened = read_sentences(self.open_file)
        return opened, list(scrambled(opened[:SCRAMBLED_SENTENCES], seed=0))  # as they were spoken

    def clips(self) -> None:
        """(b) Speak all sentences in hibari's pseudo-voices and in espeak-ng's and flite's (some of
        the open ones in another order, too), and some of both kinds in Kokoro's.
        """
        corpus, (opened, shuffled) = self.sentences(), self.opened()
        engines = ("hibari", "kokoro", "espeak-ng", "flite")
        voices = {
            engine: [v for v in training_voices() if v.engine == engine] for engine in engines
        }
        programs = voices["espeak-ng"] + FLITE_TIMES * voices["flite"]
        some = [s for pair in zip(corpus[::-1], opened[::-1], strict=False) for s in pair]
        rounds = [
            (0, opened, voices["hibari"]),
            (0, opened, programs),
            (1000, corpus, voices["hibari"]),
            (1000, shuffled, programs),
            (2000, shuffled, voices["hibari"]),
            (2000, corpus, programs),
            (0, some[: 2 * KOKORO_SENTENCES], voices["kokoro"]),
        ]
        for first, chosen, speakers in rounds:
            speak_corpus(chosen, speakers, self.folder / "clips", seed=self.seed + 1, first=first)

    def readout(self) -> None:
        """(c) Train the adapter that repeats when asked to; from here on it belongs to the language
        model."""
        if self._adapter("readout").exists():
            return
        language_model, tokenizer = base_language_model()
        processor = build_processor(tokenizer)
        add_audio_rows(language_model, len(processor.tokenizer))
        language_model.to(self.device)
        train_readout(
            language_model, processor, self.sentences(), self._adapter("readout"), seed=self.seed
        )

    def safety(self) -> None:
        """(c) Train the typed safety adapter."""
        if self._adapter("safety").exists():
            return
        language_model, processor = self.base
        records = self._safety_prompts()
        shipped = deltas_folder() / "safety.safetensors"
        start = load_file(shipped) if shipped.exists() and not self.fresh else None
        train_safety(
            language_model,
            processor.tokenizer,
            records,
            self._adapter("safety"),
            seed=self.seed,
            start=start,
        )
        del self.base  # the adapter was injected into it

    def calibrate(self) -> None:
        """(c) Bring the safety adapter to the strength that does best on the validation split."""
        with safe_open(self._adapter("safety"), "pt") as file:
            if "scale" in (file.metadata() or {}):
                return
        delta = load_file(self._adapter("safety"))
        language_model, processor = self.base
        listening = self.folder / "listening.safetensors"
        if listening.exists():  # as the model will be assembled
            merge_delta(language_model, load_file(listening))
        prompts = load_prompts("validation")
        scale, rows = choose_scale(language_model, processor.tokenizer, delta, prompts)
        del self.base  # its weights now hold the adapter
        for row in rows:
            print("safety scale", json.dumps(row))
        scaled = {
            name: (t * scale if name.endswith(".B") else t).contiguous()
            for name, t in delta.items()
        }
        save_file(scaled, self._adapter("safety"), metadata={"scale": str(scale)})

    def _audio(self) -> tuple[AudioSide, TokenHead, list[Clip]]:
        """A fresh audio side with Whisper's encoder, its CTC head, and the clips that may be
        heard."""
        language_model, processor = self.base
        tokenizer = processor.tokenizer
        torch.manual_seed(self.seed)
        model = build_model(language_model, processor, {})
        torch.nn.init.xavier_uniform_(model.model.multi_modal_projector.linear.weight)
        model.model.load_state_dict(whisper_tower(), strict=False)
        model.requires_grad_(False)
        corpus = {sentence.text for sentence in self.sentences()}
        opened = {sentence.text for part in self.opened() for sentence in part}
        counts = token_counts([*corpus, *opened], tokenizer)
        embeddings = language_model.get_input_embeddings().weight.detach()
        head = TokenHead(embeddings, counts, tokenizer(" ", add_special_tokens=False).input_ids[0])
        clips, _ = read_clips(self.folder / "clips")
        texts = corpus | opened
        known = [replace(clip, open=clip.text in opened) for clip in clips if clip.text in texts]
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
        if (self.folder / "ctc.safetensors").exists():
            load_checkpoint(self.folder / "ctc.safetensors", {"audio": audio, "head": head})
        else:
            self._load_start(audio, head)
        language_model, processor = self.base
        merge_delta(language_model, load_file(self._adapter("safety")))
        taught = copy.deepcopy(language_model)
        if (shipped := deltas_folder() / "listening.safetensors").exists() and not self.fresh:
            merge_delta(taught, load_file(shipped))
        begun = self.start / "listening.safetensors"
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
            listening=load_file(begun) if begun.exists() and not self.fresh else None,
            dtype=self.dtype,
            seed=self.seed,
            polish=self.polish,
        )
        del self.base  # its weights now hold the adapter

    def export(self) -> None:
        """Write the newest checkpoint's audio side, the adapters there are and the logs to
        `self.to`."""
        audio, head, _ = self._audio()
        stages = [self.folder / f"{stage}.safetensors" for stage in ("polished", "in_loop", "ctc")]
        newest = next((path for path in stages if path.exists()), stages[-1])
        progress = load_checkpoint(newest, {"audio": audio, "head": head})
        shipping = self.to == deltas_folder()
        logs = DATA if shipping else self.to
        logs.mkdir(parents=True, exist_ok=True)
        save_file(
            audio.audio_state(),
            self.to / "audio.safetensors",
            metadata={"stage": newest.stem, "seen": str(progress["seen"])},
        )
        state = {name: t.contiguous() for name, t in head.state_dict().items()}
        save_file(state, head_file(self.to))
        for name in ("readout", "listening", "safety") if shipping else ("listening",):
            if self._adapter(name).exists():
                shutil.copy(self._adapter(name), self.to / f"{name}.safetensors")
        for stage in ("readout", "safety", "ctc", "in_loop"):
            if (log := self.folder / f"{stage}.jsonl").exists():
                shutil.copy(log, logs / f"log-{stage}.jsonl")
        print(f"exported {newest.stem} after {progress['seen']:,} clips heard to {self.to}")
