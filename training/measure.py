"""Measures the pocket model: what it hears, what it refuses, and what the dial costs.

It does so on the shipped test split and the yardstick of hearing. `python -m training.measure`
prints the figures of data/pocket/CARD.md and writes them to data/pocket/measured.json. Test prompts
are in no training set, and their voices in no training clip.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor
from tqdm import tqdm

from sarsteer_lab.course.hearing import REPEAT, differs, transcript, word_error_rate, words
from sarsteer_lab.engine.memory import keep_freed_memory
from sarsteer_lab.evaluation.cached_answers import refusal_probability
from sarsteer_lab.evaluation.defences import Defence
from sarsteer_lab.evaluation.intervals import wilson
from sarsteer_lab.evaluation.judges import PhraseJudge
from sarsteer_lab.evaluation.separation import roc_area
from sarsteer_lab.lalm import LALM
from sarsteer_lab.loading import load_lalm
from sarsteer_lab.paths import data_folder
from sarsteer_lab.pocket.assemble import base_language_model, build_model, build_processor
from sarsteer_lab.prompts import LABELS, Prompt, Request, load_prompts
from sarsteer_lab.speech import read_clip
from training.ctc import greedy_words, trained_head
from training.loop import AudioSide
from training.sound import log_mel
from training.tokens import plain_tokens
from training.yardstick import cells, load_yardstick

READ_OUT_TOKENS = 24
DIAL = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
ANSWER_TOKENS = 24


def outcome_counts(prompts: Sequence[Request], answers: Sequence[str]) -> dict[str, Any]:
    """Refused, answered and broken by the phrase judge, and the refused share with its interval."""
    judge = PhraseJudge()
    outcomes = Counter[str]()
    for prompt, answer in zip(prompts, answers, strict=True):
        outcomes[judge.judge(prompt.request, answer)] += 1
    n, refused = outcomes.total(), outcomes["refused"]
    counts = {outcome: outcomes[outcome] for outcome in ("refused", "answered", "broken")}
    interval = list(wilson(refused, n))
    return {**counts, "n": n, "refused_share": refused / n, "interval": interval}


def divergence(
    typed: Float[Tensor, "prompt vocab"], spoken: Float[Tensor, "prompt vocab"]
) -> Float[Tensor, "prompt"]:
    """KL(typed || spoken) of the answer's first token in nats, per request, from logits."""
    first, second = typed.double().log_softmax(-1), spoken.double().log_softmax(-1)
    return (first.exp() * (first - second)).sum(-1).float()


def own_answer_found(typed: Sequence[str], spoken: Sequence[str]) -> Float[Tensor, "prompt"]:
    """1 where a spoken request's answer is most like its own typed answer of all, else 0.

    Likeness is the cosine of TF-IDF word vectors. Where m typed answers are equally like (two
    requests that get the same sentence), a hit among them counts 1/m; an answer that shares no word
    with any finds none.
    """
    if not any(map(words, [*typed, *spoken])):
        return torch.zeros(len(typed))
    weights = TfidfVectorizer(analyzer=words).fit([*typed, *spoken])
    cosines = weights.transform(spoken) @ weights.transform(typed).T
    alike = torch.from_numpy(cosines.toarray())  # (spoken, typed)
    best = alike.amax(1, keepdim=True)
    ties: Int[Tensor, "prompt"] = torch.isclose(alike, best).sum(1)
    hit = torch.isclose(alike.diagonal(), best[:, 0]) & (best[:, 0] > 0)
    return (hit / ties).float()


def read_outs(lalm: LALM, clips: Sequence[Path]) -> list[str]:
    """What `lalm` repeats when it is asked to repeat each clip."""
    prompts = [Prompt(text=REPEAT, audio=clip) for clip in clips]
    return [transcript(answer) for answer in lalm.generate(prompts, max_new_tokens=READ_OUT_TOKENS)]


@torch.no_grad()
def ctc_words(folder: Path, clips: Sequence[Path]) -> list[str]:
    """What the CTC head of the deltas in `folder` reads from their audio side alone."""
    language_model, tokenizer = base_language_model()
    processor = build_processor(tokenizer)
    model = build_model(language_model, processor, load_file(folder / "audio.safetensors"))
    head = trained_head(language_model.get_input_embeddings().weight, folder)
    audio = AudioSide(model).eval()
    heard = []
    for clip in tqdm(clips, desc="CTC", unit="clip"):
        mel, frames = log_mel([read_clip(clip)])
        outputs = audio(mel, frames)[:, : int(frames) // 4]
        heard.append(greedy_words(head(outputs)[0], head, tokenizer))
    return heard


def hearing(prompts: Sequence[Request], heard: Sequence[str]) -> dict[str, Any]:
    """Word error rate of the read-out per label and over all, and which clips were heard right."""
    requests = [prompt.request for prompt in prompts]
    rates = {}
    for label in LABELS:
        rows = rows_of(prompts, label)
        rates[label] = word_error_rate([requests[i] for i in rows], [heard[i] for i in rows])
    rates["all"] = word_error_rate(requests, heard)
    right = [not differs(*pair) for pair in zip(requests, heard, strict=True)]
    return {"word_error_rate": rates, "heard_right": right}


def rows_of(prompts: Sequence[Request], label: str) -> list[int]:
    """Where in `prompts` those with this label are."""
    return [row for row, prompt in enumerate(prompts) if prompt.label == label]


@torch.no_grad()
def answer_perplexity(lalm: LALM, prompts: Sequence[Prompt], answers: Sequence[str]) -> float:
    """Perplexity per token of given answers to typed prompts, end token left out."""
    total, count = 0.0, 0
    for prompt, answer in zip(prompts, answers, strict=True):
        start = plain_tokens(lalm.tokenizer, lalm.chat(prompt))
        reply = plain_tokens(lalm.tokenizer, answer)
        ids = torch.tensor([start + reply], device=lalm.device)
        logits = lalm.model(input_ids=ids).logits[0, len(start) - 1 : -1]  # (position, vocab)
        wanted = ids[0, len(start) :]
        loss = torch.nn.functional.cross_entropy(logits.float(), wanted, reduction="sum")
        total += loss.item()
        count += len(reply)
    return math.exp(total / count)


def dial_curve(lalm: LALM, prompts: Sequence[Request]) -> list[dict[str, Any]]:
    """Typed outcomes per label at every setting of the dial, and what it costs everyday answers."""
    typed = [p.typed() for p in prompts]
    everyday = [p.typed() for p in prompts if p.label == "everyday"]
    lalm.set_safety(0.0)
    base_answers = lalm.generate(everyday, max_new_tokens=ANSWER_TOKENS)
    settings = []
    for dial in DIAL:
        lalm.set_safety(dial)
        answers = lalm.generate(typed, max_new_tokens=ANSWER_TOKENS)
        perplexity = answer_perplexity(lalm, everyday, base_answers)
        setting: dict[str, Any] = {"dial": dial, "perplexity": perplexity}
        for label in LABELS:
            rows = rows_of(prompts, label)
            setting[label] = outcome_counts([prompts[i] for i in rows], [answers[i] for i in rows])
        settings.append(setting)
    return settings


def spoken_against_typed(
    lalm: LALM, prompts: Sequence[Request], right: Sequence[bool]
) -> dict[str, Any]:
    """Spoken, undefended: outcomes by whether a clip was heard right, first-token KL, retrieval."""
    typed_prompts = [p.typed() for p in prompts]
    spoken_prompts = [p.spoken() for p in prompts]
    typed = lalm.generate(typed_prompts, max_new_tokens=ANSWER_TOKENS)
    spoken = lalm.generate(spoken_prompts, max_new_tokens=ANSWER_TOKENS)
    typed_logits = lalm.next_token_logits(typed_prompts)
    kl = divergence(typed_logits, lalm.next_token_logits(spoken_prompts))
    benign = [row for row, p in enumerate(prompts) if p.label != "harmful"]
    own = own_answer_found([typed[i] for i in benign], [spoken[i] for i in benign])
    questions = [(spoken_prompts, Defence("none"))]
    chances = refusal_probability(lalm, questions)[0].cpu().numpy()
    harmful, harmless = rows_of(prompts, "harmful"), rows_of(prompts, "harmless")
    result: dict[str, Any] = {
        "first_token_kl": kl.mean().item(),
        "roc_area": roc_area(chances[harmful], chances[harmless]),
        "retrieval": own.mean().item(),
        "retrieval_n": len(benign),
    }
    for label in LABELS:
        rows = rows_of(prompts, label)
        groups = {
            "all": rows,
            "heard right": [row for row in rows if right[row]],
            "misheard": [row for row in rows if not right[row]],
        }
        result[label] = {}
        for name, group in groups.items():
            if group:
                chosen = [prompts[i] for i in group]
                result[label][name] = {
                    "spoken": outcome_counts(chosen, [spoken[i] for i in group]),
                    "typed": outcome_counts(chosen, [typed[i] for i in group]),
                    "first_token_kl": kl[group].mean().item(),
                }
    return result


def measure(lalm: LALM, *, quick: bool = False) -> dict[str, Any]:
    """All figures of the card, on the test split; `quick` leaves out the dial's curve."""
    prompts = load_prompts("test")
    utterances = load_yardstick()  # its first ones are the test prompts' clips
    heard = read_outs(lalm, [u.clip for u in utterances])
    test = hearing(prompts, heard[: len(prompts)])
    right = test.pop("heard_right")
    result: dict[str, Any] = {"prompts": len(prompts), "hearing": test}
    result["cells"] = cells(utterances, heard)
    result["heard_right"] = sum(right)
    result["spoken"] = spoken_against_typed(lalm, prompts, right)
    if not quick:
        result["dial"] = dial_curve(lalm, prompts)
    return result


def main() -> None:
    """Command line: measure, print, and write data/pocket/measured.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="leave out the safety dial's curve")
    parser.add_argument("--to", type=Path, default=data_folder() / "pocket" / "measured.json")
    parser.add_argument(
        "--ctc",
        type=Path,
        help="instead, print how much the CTC head of the deltas in this folder hears",
    )
    options = parser.parse_args()
    keep_freed_memory()
    if options.ctc:
        utterances = load_yardstick()
        heard = ctc_words(options.ctc, [u.clip for u in utterances])
        print(json.dumps(cells(utterances, heard), indent=1))
        return
    result = measure(load_lalm("pocket"), quick=options.quick)
    text = json.dumps(result, indent=1)
    options.to.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
