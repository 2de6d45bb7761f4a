"""The sentences that the pocket model's audio side learns to hear: harmless by construction.

A word that was never heard in training is never understood, so every word of the shipped prompts
(the *lexicon*) is heard at least `MIN_COUNT` times, in different sentences. No shipped prompt, and
nothing that shares most of its content words with one, is among them: harmful requests because no
harmful request may be spoken in training, the others because the test has to stay held out.
Harm-related words occur only where a sentence warns, reports, tells a story, or speaks about the
word itself.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from training.frames import FRAMES, SLOTS
from training.records import read_records

# Hearings per lexicon word: 94% recall in the prototype, against 36% for words heard 1-4 times.
MIN_COUNT = 20
# The share of the smaller set of content words at which two sentences count as the same request.
OVERLAP = 0.75
MIN_WORDS, MAX_WORDS = 4, 11  # spoken in about 1.2-3.6 s
# The rest are carriers of words still rare.
QUESTION_SHARE, STORY_SHARE, SAFETY_SHARE = 0.6, 0.15, 0.15

# Fillings tried per natural sentence; the one that helps coverage most is kept.
_CANDIDATES = 4
_LIST_WORDS = 4  # the most lexicon words that a carrier lists
_CHARSET = re.compile(r"[A-Z][A-Za-z', ]*[.?]")
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)*")
_SLOT = re.compile(r"\{(\w+)\}")
_ARTICLE = re.compile(r"\b([Aa]) (?=(\w+))")
_AN = re.compile(r"(?!(?:eu|one|once|uni|use|usual|user))[aeiou]|hour|honest|honor", re.IGNORECASE)

# Words that carry no subject of their own: grammar, and the verbs by which a request is made.
_STOP = frozenset(
    """
    a an the and or but nor so as if of to in on at by for from with without about into onto over
    under up down out off than then that this these those there here it its is are was were be been
    being am do does did doing done have has had can could may might will would shall should must
    not no i i'm me my mine myself you your yours we us our he him his she her they them their who
    whom whose what which when where why how some any all each every one two three several please
    tell teach show give explain describe help write draft compose create make build get use need
    want like way ways best easiest fastest good step steps by instruction instructions guide tip
    tips list detailed simple short let know learn someone somebody people person thing things just
    really very also too only own new
    """.split()
)
_ENDINGS = "ations ation ings ing ers ies ied er ed es s y e".split()

Kind = Literal["question", "request", "carrier", "story"]


@dataclass(frozen=True)
class Sentence:
    """One harmless sentence to be spoken, and where it comes from."""

    text: str
    kind: Kind


def read_sentences(path: Path) -> list[Sentence]:
    """The sentences of a JSON Lines file, such as training/data/corpus.jsonl."""
    return [Sentence(**record) for record in read_records(path)]


def words_of(text: str) -> list[str]:
    """Return the words of `text` in order, lower case; inner apostrophes belong to a word."""
    return _WORD.findall(text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))


def lexicon_of(texts: Iterable[str]) -> Counter[str]:
    """Count the words of `texts`; inflected forms count separately."""
    return Counter(word for text in texts for word in words_of(text))


def coverage(sentences: Iterable[Sentence], lexicon: Iterable[str]) -> dict[str, int]:
    """Return for each word of `lexicon` in how many of `sentences` it occurs."""
    counts = Counter(word for sentence in sentences for word in set(words_of(sentence.text)))
    return {word: counts[word] for word in lexicon}


def content_words(text: str) -> frozenset[str]:
    """Return the stems of the words of `text` that say what it is about."""
    return frozenset(_stem(word) for word in words_of(text) if word not in _STOP)


class PromptIndex:
    """Finds the prompt that a sentence repeats or paraphrases with the same words."""

    def __init__(self, prompts: Iterable[str]) -> None:
        """Index `prompts` by their content words."""
        self._prompts = [(prompt, content_words(prompt)) for prompt in prompts]
        self._exact = {" ".join(words_of(prompt)): prompt for prompt, _ in self._prompts}
        self._by_stem: dict[str, list[int]] = {}
        for number, (_, stems) in enumerate(self._prompts):
            for stem in stems:
                self._by_stem.setdefault(stem, []).append(number)

    def match(self, text: str) -> str | None:
        """Return a prompt that `text` equals or paraphrases, or None.

        A paraphrase shares at least `OVERLAP` of the smaller set of content words. Where that set
        is a single word, the two sets must be equal: else no sentence at all could hold the word.
        """
        exact = self._exact.get(" ".join(words_of(text)))
        if exact is not None:
            return exact
        stems = content_words(text)
        shared = Counter(number for stem in stems for number in self._by_stem.get(stem, ()))
        for number, count in shared.items():
            prompt, prompt_stems = self._prompts[number]
            smaller = min(len(stems), len(prompt_stems))
            if stems == prompt_stems or (smaller > 1 and count >= OVERLAP * smaller):
                return prompt
        return None


def check_harmless(sentences: Iterable[Sentence | str], harmful_texts: Iterable[str]) -> None:
    """Check that no sentence repeats a harmful prompt, shipped or used in training.

    Raises:
        ValueError: a sentence equals a harmful text, or shares at least `OVERLAP` of the content
            words of the shorter one.
    """
    index = PromptIndex(harmful_texts)
    for sentence in sentences:
        text = sentence if isinstance(sentence, str) else sentence.text
        match = index.match(text)
        if match is not None:
            raise ValueError(
                f"the training sentence {text!r} is too close to the harmful prompt {match!r}: "
                "remove it"
            )


def build_corpus(
    lexicon: Iterable[str], seed: int = 0, size: int = 5000, *, excluded: Iterable[str] = ()
) -> list[Sentence]:
    """Compose the training sentences.

    Natural sentences come first, each the filling among several that adds most to words still rare;
    carriers then bring every word of `lexicon` to `MIN_COUNT` sentences.

    Args:
        lexicon: words that have to be covered, lower case.
        seed: of the one random generator; the same arguments give the same corpus.
        size: number of sentences; the corpus is longer where coverage needs it.
        excluded: prompts of every label that must be neither in the corpus nor paraphrased there.

    Raises:
        ValueError: `lexicon` holds something that is not a word, or a word cannot be covered.
    """
    words = list(dict.fromkeys(lexicon))
    strange = [word for word in words if not _WORD.fullmatch(word)]
    if strange:
        raise ValueError(
            f"not words of lower-case letters and apostrophes: {strange[:5]}; use lexicon_of"
        )
    composer = _Composer(words, random.Random(seed), PromptIndex(excluded))
    composer.natural(FRAMES["questions"], "question", round(size * QUESTION_SHARE))
    composer.natural(FRAMES["stories"], "story", round(size * STORY_SHARE))
    composer.natural(FRAMES["safety"], "carrier", round(size * SAFETY_SHARE))
    composer.carriers(size)
    return composer.shuffled()


class _Composer:
    """The sentences so far, and which lexicon words still need more of them."""

    def __init__(self, words: Sequence[str], rng: random.Random, excluded: PromptIndex) -> None:
        self._rng = rng
        self._excluded = excluded
        self._words = list(words)
        self._missing = dict.fromkeys(words, MIN_COUNT)
        self._heard: Counter[str] = Counter()
        self._texts: dict[str, Sentence] = {}
        # How often an item of a slot is drawn: once, and once more per hearing its words need.
        self._weights = {slot: [1] * len(items) for slot, items in SLOTS.items()}
        self._holders: dict[str, list[tuple[str, int]]] = {word: [] for word in words}
        for slot, items in SLOTS.items():
            for number, item in enumerate(items):
                own_words = set(words_of(_SLOT.sub("", item)))
                for word in self._missing.keys() & own_words:
                    self._holders[word].append((slot, number))
                    self._weights[slot][number] += MIN_COUNT

    def natural(self, templates: Sequence[str], kind: Kind, count: int) -> None:
        """Add `count` sentences from `templates`, all used about equally often."""
        cycle = self._cycle(templates)
        wanted = len(self._texts) + count
        for _ in range(20 * count):  # a frame with few fillings runs dry: the others take over
            if len(self._texts) >= wanted:
                return
            filled = [
                _fill(next(cycle), self._rng, weights=self._weights) for _ in range(_CANDIDATES)
            ]
            fitting = [text for text in filled if self._fits(text)]
            if fitting:
                best = max(fitting, key=self._value)
                self._add(Sentence(best, kind))
        raise ValueError(
            f"only {len(self._texts)} different sentences could be made, not {wanted}: "
            "ask for fewer"
        )

    def carriers(self, size: int) -> None:
        """Add carriers until every word is covered and the corpus has `size` sentences."""
        cycles = [self._cycle(FRAMES[f"carriers_{count}"]) for count in (1, 2, 3)]
        for _ in range(50 * (size + MIN_COUNT * len(self._words))):
            rare = self._rare()
            if not self._words or (not rare and len(self._texts) >= size):
                return
            pool = rare if len(rare) >= _LIST_WORDS else self._words
            chosen = self._rng.sample(pool, min(_LIST_WORDS, len(pool)))
            if rare and chosen[0] not in rare:
                chosen = [rare[0], *(word for word in chosen if word != rare[0])]
            template = next(self._rng.choice(cycles))
            if template.count("{word}") > len(chosen):
                continue
            text = _fill(template, self._rng, chosen)
            if self._fits(text):
                self._add(Sentence(text, "carrier"))
        raise ValueError(f"no carrier fits these words: {self._rare()[:10]}")

    def _rare(self) -> list[str]:
        """The words that still need sentences."""
        return [word for word, missing in self._missing.items() if missing > 0]

    def shuffled(self) -> list[Sentence]:
        """Return all sentences in random order: any prefix of the corpus is a fair sample."""
        sentences = list(self._texts.values())
        self._rng.shuffle(sentences)
        return sentences

    def _cycle(self, templates: Sequence[str]) -> Iterator[str]:
        while True:
            yield from self._rng.sample(templates, len(templates))

    def _fits(self, text: str) -> bool:
        return speakable(text) and text not in self._texts and self._excluded.match(text) is None

    def _value(self, text: str) -> float:
        """Return how much `text` helps: lexicon words still missing, then words seldom heard."""
        words = set(words_of(text))
        missing = sum(self._missing.get(word, 0) for word in words) / MIN_COUNT
        seldom = sum(1 / (1 + self._heard[word]) for word in words)
        return missing + 0.1 * seldom

    def _add(self, sentence: Sentence) -> None:
        self._texts[sentence.text] = sentence
        for word in set(words_of(sentence.text)):
            self._heard[word] += 1
            if self._missing.get(word, 0) > 0:
                self._missing[word] -= 1
                for slot, number in self._holders[word]:
                    self._weights[slot][number] -= 1


def speakable(text: str) -> bool:
    """Return whether `text` is one plain sentence of the length that the pocket model hears."""
    return bool(_CHARSET.fullmatch(text)) and MIN_WORDS <= len(words_of(text)) <= MAX_WORDS


def _fill(
    template: str,
    rng: random.Random,
    words: Sequence[str] = (),
    weights: Mapping[str, Sequence[int]] | None = None,
) -> str:
    """Fill every slot of `template`, no item twice; sentence case, with the right articles.

    `words` go into the `{word}` slots in turn. `weights` say, slot by slot, how often to draw each
    item.
    """
    lexicon_words = iter(words)
    used: set[str] = set()

    def item(match: re.Match[str]) -> str:
        slot = match[1]
        if slot == "word":
            return next(lexicon_words)
        options = SLOTS[slot]
        choice = rng.choices(options, None if weights is None else weights[slot])[0]
        while choice in used:
            choice = rng.choice(options)
        used.add(choice)
        return choice

    def article(match: re.Match[str]) -> str:
        ending = "n " if _AN.match(match[2]) else " "
        return match[1] + ending

    text = template
    while _SLOT.search(text):
        text = _SLOT.sub(item, text)
    text = _ARTICLE.sub(article, text)
    return text[0].upper() + text[1:]


@cache
def _stem(word: str) -> str:
    """Return `word` without its commonest endings, so that "stealing" meets "steals"."""
    stem = re.sub(r"'s?$", "", word)
    for ending in _ENDINGS:
        if stem.endswith(ending) and len(stem) - len(ending) >= 3:
            stem = stem.removesuffix(ending)
            break
    if len(stem) > 3 and stem[-1] == stem[-2] and stem[-1] not in "ls":
        stem = stem[:-1]
    return stem
