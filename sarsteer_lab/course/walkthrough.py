"""The main job: the typed/spoken gap, the refusal direction, the safe space, and what steering does.

`walkthrough` computes everything from the derive split, tries it on the test split and writes one table, four
figures and a summary in plain words. Whatever costs model time is kept in the user's cache as soon as it is
there, so that an interrupted run goes on where it stopped.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from sarsteer_lab.activations import activation_store, capture
from sarsteer_lab.course import hearing
from sarsteer_lab.course.findings import (
    CONDITIONS,
    SPOKEN,
    TYPED,
    Findings,
    Hearing,
    measure_gap,
    outcome_table,
)
from sarsteer_lab.course.summary import write_report
from sarsteer_lab.derivation import derive
from sarsteer_lab.directions import difference_in_means
from sarsteer_lab.engine.memory import chunks
from sarsteer_lab.engine.prepared import PreparedBatch
from sarsteer_lab.evaluation.judges import PhraseJudge
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import LABELS, Prompt, SpokenPrompt, rough_length
from sarsteer_lab.steering import SteeringVectors, steer
from sarsteer_lab.store import Store, cache_folder, content_key

ANSWER_TOKENS = 24
"""Length of an answer in tokens: whether it is a refusal shows in its first words."""

REPEAT_TOKENS = 32
"""Length of a transcript in tokens: the longest shipped request has 20."""

TRANSCRIPTS = "transcripts"

Logits = dict[int, Float[Tensor, "vocab"]]


class Ledger(Store):
    """The store of answers; `reused` counts those that were found rather than made."""

    reused = 0


@dataclass(frozen=True)
class Ask:
    """Prompts, how long their answers may be, and what steers them (None: nothing)."""

    prompts: Sequence[Prompt]
    tokens: int
    vectors: SteeringVectors | None = None


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

    `alpha`, `lam` and `k` are SARSteer's (arXiv 2510.17633, steps 3 to 5). Two to four minutes on two CPU
    cores with the pocket model and the shipped prompts; a second run reads states and answers from the
    cache. Hooks of your own must not be on the model: the cache could not tell them apart. Raises
    ValueError as `select_prompts` does, and `ClipError` for an unusable clip.
    """
    start = time.perf_counter()
    deriving, testing = select_prompts(prompts, limit)
    ledger = Ledger(cache_folder() / "answers")
    cache = activation_store()
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

    _say(
        f"Answers to {len(testing)} requests (test split) in {len(CONDITIONS)} conditions, and what is heard"
    )
    typed_asks = {TYPED: Ask([prompt.typed() for prompt in testing], ANSWER_TOKENS)}
    clips = [prompt.spoken() for prompt in testing]
    spoken_asks = {
        name: Ask(clips, ANSWER_TOKENS, vectors)
        for name, vectors in zip(
            CONDITIONS[1:], (None, derivation.direction, derivation.vectors), strict=True
        )
    }
    spoken_asks[TRANSCRIPTS] = Ask([p.spoken(instruction=hearing.REPEAT) for p in testing], REPEAT_TOKENS)
    logits: tuple[Logits, Logits] = {}, {}
    answers = answers_under(lalm, typed_asks, ledger, alpha, logits[0])
    answers |= answers_under(lalm, spoken_asks, ledger, alpha, logits[1])
    transcripts = answers.pop(TRANSCRIPTS)
    judge = PhraseJudge()
    outcomes = {
        condition: judge.judge_all(
            [(prompt.request, text) for prompt, text in zip(testing, texts, strict=True)]
        )
        for condition, texts in answers.items()
    }

    heard = measure_hearing(lalm, testing, answers, transcripts, ledger, logits)
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
    lalm: LALM,
    prompts: Sequence[SpokenPrompt],
    answers: dict[str, list[str]],
    transcripts: Sequence[str],
    ledger: Ledger,
    logits: tuple[Logits, Logits],
) -> Hearing:
    """Compare what was said with what was heard, and what typed and spoken requests lead to, undefended.

    `logits`: those of the first tokens of typed and spoken answers, as far as they are known.
    """
    typed, spoken = [prompt.typed() for prompt in prompts], [prompt.spoken() for prompt in prompts]
    texts = [hearing.transcript(text) for text in transcripts]
    requests = [prompt.request for prompt in prompts]
    # Half a set away, so that no request is compared with its own twin.
    apart = len(prompts) // 2
    key = lalm.key("first tokens", [prompt.key for prompt in lalm.encode([*typed, *spoken])])
    if (pairs := ledger.read(key)) is None:
        first, second = (
            torch.stack([known[row] for row in range(len(asked))])
            if len(known) == len(asked)
            else lalm.next_token_logits(asked)
            for asked, known in zip((typed, spoken), logits, strict=True)
        )
        apart_too = hearing.divergence(first, second), hearing.divergence(first, second.roll(apart, dims=0))
        pairs = [values.tolist() for values in apart_too]
        ledger.write(key, pairs)
    else:
        ledger.reused += 1
    own, wrong = pairs
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
    asks = {description: Ask(prompts, max_new_tokens, vectors)}
    return answers_under(lalm, asks, ledger, alpha)[description]


def answers_under(
    lalm: LALM,
    asks: Mapping[str, Ask],
    ledger: Ledger,
    alpha: float,
    logits: Logits | None = None,
) -> dict[str, list[str]]:
    """Greedy answers to each of `asks`, whose prompts at one place share their clip; read once for all.

    Those in the ledger are not computed again. `logits` is given the first tokens' logits of the first ask's
    prompts that are read here.
    """
    keys: dict[str, list[str]] = {}
    shared = lalm.key("answers")
    for name, ask in asks.items():
        steering = None if ask.vectors is None else [alpha, ask.vectors.layers, ask.vectors.values]
        how = content_key(shared, ask.tokens, steering)
        keys[name] = [content_key(how, prompt.key) for prompt in lalm.encode(ask.prompts)]
    known = {key: ledger.read(key) for found in keys.values() for key in found}
    missing = {name: {i for i, key in enumerate(found) if known[key] is None} for name, found in keys.items()}
    total, lacking = sum(map(len, keys.values())), sum(map(len, missing.values()))
    ledger.reused += total - lacking
    first = next(iter(asks.values()))
    # Long prompts first and together, so that little is padded.
    order = sorted(set().union(*missing.values()), key=lambda row: -rough_length(first.prompts[row]))
    with tqdm(total=total, initial=total - lacking, desc=", ".join(keys), unit="answer") as bar:
        for rows in chunks(lalm, order, [first.prompts[row] for row in order], first.tokens):
            ready: PreparedBatch | None = None
            for name, ask in asks.items():
                if not missing[name].intersection(rows):
                    continue
                prompts = [ask.prompts[row] for row in rows]
                ready = PreparedBatch(lalm, prompts) if ready is None else ready.retexted(prompts)
                if logits is not None and ask is first:
                    logits |= dict(zip(rows, ready.next_token_logits(), strict=True))
                with nullcontext() if ask.vectors is None else steer(lalm, ask.vectors, alpha):
                    texts = ready.generate(ask.tokens)
                for row, text in zip(rows, texts, strict=True):
                    known[keys[name][row]] = text
                    ledger.write(keys[name][row], text)
                bar.update(len(missing[name].intersection(rows)))
    return {name: [known[key] for key in found] for name, found in keys.items()}


def _say(what: str) -> None:
    print(what, file=sys.stderr)
