"""The main job: the typed/spoken gap, the refusal direction, the safe space, and what steering does.

`walkthrough` computes everything from the derive split, tries it on the test split and writes one table, four
figures and a summary in plain words. Whatever costs model time is kept in the user's cache as soon as it is
there, so that an interrupted run goes on where it stopped.
"""

import hashlib
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from tqdm.auto import tqdm

from sarsteer_lab import cache_folder, hearing
from sarsteer_lab.activations import capture
from sarsteer_lab.derivation import activation_cache, derive
from sarsteer_lab.directions import difference_in_means
from sarsteer_lab.findings import CONDITIONS, SPOKEN, TYPED, Findings, Hearing, measure_gap, outcome_table
from sarsteer_lab.judges import PhraseJudge
from sarsteer_lab.lalm import LALM, Prompt
from sarsteer_lab.ledger import Ledger
from sarsteer_lab.prompts import LABELS, SpokenPrompt
from sarsteer_lab.steering import SteeringVectors, steer
from sarsteer_lab.summary import write_report

ANSWER_TOKENS = 24
"""Length of an answer in tokens: whether it is a refusal shows in its first words."""

REPEAT_TOKENS = 32
"""Length of a transcript in tokens: the longest shipped request has 20."""

CHUNK = 16
"""Prompts that run, and are kept, together."""


def select_prompts(
    prompts: Sequence[SpokenPrompt], limit: int | None = None
) -> tuple[list[SpokenPrompt], list[SpokenPrompt]]:
    """The prompts to derive from (harmful and harmless) and those to test on (all labels), by label.

    `limit` keeps at most so many per label, evenly spaced over the topics. Raises ValueError if the
    derive split lacks two harmful and two harmless requests, the test split lacks either, or a prompt has
    no clip on disk.
    """
    if limit is not None and limit < 2:
        raise ValueError(f"limit={limit}: at least 2 requests per label are needed")
    chosen: dict[str, list[SpokenPrompt]] = {}
    for split, labels in (("derive", LABELS[:2]), ("test", LABELS)):
        chosen[split] = []
        for label in labels:
            found = [prompt for prompt in prompts if prompt.split == split and prompt.label == label]
            if label in LABELS[:2] and len(found) < 2:
                raise ValueError(
                    f"the {split} split has {len(found)} {label} requests; at least 2 are needed"
                )
            if limit is not None and len(found) > limit:
                found = [found[round(i * (len(found) - 1) / (limit - 1))] for i in range(limit)]
            chosen[split] += found
    without = [p for found in chosen.values() for p in found if p.clip is None or not p.clip.is_file()]
    if without:
        names = ", ".join(prompt.id for prompt in without[:3]) + (", ..." if len(without) > 3 else "")
        raise ValueError(
            f"{len(without)} of {sum(map(len, chosen.values()))} prompts have no clip on disk ({names}); the "
            "walkthrough needs every request spoken: complete the checkout, or record the missing clips"
        )
    return chosen["derive"], chosen["test"]


def walkthrough(
    lalm: LALM,
    prompts: Sequence[SpokenPrompt],
    folder: Path | str,
    *,
    alpha: float = 0.1,
    lam: float = 1.0,
    k: int = 10,
    limit: int | None = None,
) -> Findings:
    """Run the main job, print its table and write figures, summary, results and responses to `folder`.

    `alpha`, `lam` and `k` are SARSteer's (arXiv 2510.17633, steps 3 to 5). About ten minutes on two CPU
    cores with the pocket model and the shipped prompts; a second run reads states and answers from the
    cache. Hooks of your own must not be on the model: the cache could not tell them apart. Raises
    ValueError as `select_prompts` does, and `ClipError` for an unusable clip.
    """
    start = time.perf_counter()
    deriving, testing = select_prompts(prompts, limit)
    ledger = Ledger(cache_folder() / "walkthrough" / f"{lalm.fingerprint[:16]}.jsonl")
    cache = activation_cache()
    harmful = [prompt for prompt in deriving if prompt.label == "harmful"]
    harmless = [prompt for prompt in deriving if prompt.label == "harmless"]

    _say(f"States of {len(deriving)} requests (derive split), typed and spoken")
    derivation = derive(lalm, harmful, harmless, lam=lam, k=k, cache=cache)
    typed = capture(lalm, [prompt.typed() for prompt in deriving], cache=cache)
    spoken = torch.cat([derivation.harmful_base, derivation.harmless_base])
    gap = measure_gap(typed, spoken, len(harmful))
    cosines = {
        f"of {name} requests": torch.cosine_similarity(
            derivation.direction.values,
            difference_in_means(states[: len(harmful)], states[len(harmful) :]),
            dim=-1,
        )
        for name, states in (("spoken", spoken), ("typed", typed))
    }

    _say(f"Answers to {len(testing)} requests (test split) in {len(CONDITIONS)} conditions")
    answers: dict[str, list[str]] = {}
    for condition, vectors in zip(
        CONDITIONS, (None, None, derivation.direction, derivation.vectors), strict=True
    ):
        asked = [prompt.typed() if condition == TYPED else prompt.spoken() for prompt in testing]
        answers[condition] = cached_answers(lalm, asked, ledger, condition, ANSWER_TOKENS, vectors, alpha)
    judge = PhraseJudge()
    outcomes = {
        condition: judge.judge_all(
            [(prompt.request, text) for prompt, text in zip(testing, texts, strict=True)]
        )
        for condition, texts in answers.items()
    }

    _say("What the model hears in the test split's clips")
    heard = measure_hearing(lalm, testing, answers, ledger)
    findings = Findings(
        derive=deriving,
        test=testing,
        typed_states=typed,
        spoken_states=spoken,
        derivation=derivation,
        gap=gap,
        cosines=cosines,
        answers=answers,
        outcomes=outcomes,
        hearing=heard,
        table=outcome_table(testing, outcomes),
        alpha=alpha,
        lam=lam,
        k=k,
        seconds=time.perf_counter() - start,
        reused=ledger.reused,
    )
    write_report(findings, lalm, Path(folder))
    return findings


def measure_hearing(
    lalm: LALM, prompts: Sequence[SpokenPrompt], answers: dict[str, list[str]], ledger: Ledger
) -> Hearing:
    """Have every clip repeated, and compare what typed and spoken requests lead to, undefended."""
    typed, spoken = [prompt.typed() for prompt in prompts], [prompt.spoken() for prompt in prompts]
    repeat = [prompt.spoken(instruction=hearing.REPEAT) for prompt in prompts]
    texts = [
        hearing.transcript(text)
        for text in cached_answers(lalm, repeat, ledger, "transcripts", REPEAT_TOKENS)
    ]
    requests = [prompt.request for prompt in prompts]
    # Half a set away, so that no request is compared with its own twin.
    apart = len(prompts) // 2
    keys = [_key(lalm, prompt, "first token") for prompt in (*typed, *spoken)]
    key = hashlib.sha256("".join(keys).encode()).hexdigest()
    if key in ledger:
        ledger.reused += 1
    else:
        first = lalm.next_token_logits(typed, batch_size=CHUNK)
        second = lalm.next_token_logits(spoken, batch_size=CHUNK)
        pairs = (
            hearing.divergence(first, second),
            hearing.divergence(first, second.roll(apart, dims=0)),
        )
        ledger.write({key: [values.tolist() for values in pairs]})
    own, wrong = ledger[key]
    return Hearing(
        transcripts=texts,
        errors=[hearing.word_error_rate([a], [b]) for a, b in zip(requests, texts, strict=True)],
        divergence=own,
        wrong_divergence=wrong,
        own_found=hearing.own_answer_found(answers[TYPED], answers[SPOKEN]).tolist(),
    )


def cached_answers(
    lalm: LALM,
    prompts: Sequence[Prompt],
    ledger: Ledger,
    description: str,
    max_new_tokens: int,
    vectors: SteeringVectors | None = None,
    alpha: float = 0.0,
) -> list[str]:
    """Greedy answers, steered if there are vectors; those in the ledger are not computed again."""
    steering = ""
    if vectors is not None:
        values = hashlib.sha256(vectors.values.cpu().numpy().tobytes()).hexdigest()
        steering = f"{alpha} {vectors.layers} {values}"
    keys = [_key(lalm, prompt, f"{max_new_tokens} tokens {steering}") for prompt in prompts]
    missing = [i for i, key in enumerate(keys) if key not in ledger]
    ledger.reused += len(prompts) - len(missing)
    steered = nullcontext() if vectors is None else steer(lalm, vectors, alpha)
    done = len(prompts) - len(missing)
    with steered, tqdm(total=len(prompts), initial=done, desc=description, unit="request") as bar:
        for at in range(0, len(missing), CHUNK):
            rows = missing[at : at + CHUNK]
            texts = lalm.generate(
                [prompts[row] for row in rows], max_new_tokens=max_new_tokens, batch_size=CHUNK
            )
            ledger.write({keys[row]: text for row, text in zip(rows, texts, strict=True)})
            bar.update(len(rows))
    return [ledger[key] for key in keys]


def _key(lalm: LALM, prompt: Prompt, what: str) -> str:
    """The ledger's key: model, prompt as rendered, clip's samples, and what is done with them."""
    return activation_cache().key(lalm, prompt, (), what)


def _say(what: str) -> None:
    print(what, file=sys.stderr)
