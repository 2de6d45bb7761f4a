"""Training stage (a), second half: sentences that the base language model itself makes up.

The frames of `corpus` say every word of the course often, and few others. A person who speaks to
the model says what they like. So the language model is asked, thousands of times, for a short
question, request or statement about one word of its own vocabulary, and begins it with a drawn
opener; what it says is kept if it is one clean, harmless, new sentence.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence

import torch
from tqdm import tqdm
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from training.corpus import Kind, PromptIndex, Sentence, words_of
from training.tokens import end_token

OPENERS = {
    "question": (
        "How do I|How can I|How does|How many|How much|How long|How often|What is|What are"
        "|What does|What should I|What happens if|What kind of|Why is|Why do|Why does|When should"
        "|When did|Where can I|Where is|Who is|Who was|Which|Is it|Is there|Are there|Do you|Does"
        "|Did|Can you|Can I|Could you|Should I|Would you|Will"
    ).split("|"),
    "request": (
        "Tell me|Explain|Describe|Give me|Show me|Write|Help me|Please|Make|List|Compare|Find"
        "|Suggest|Recommend|Name|Let's|I need|I want|I would like"
    ).split("|"),
    "story": (
        "The|A|My|Our|This|That|Every|Most|Some|In the|On|After|When|If|Yesterday|Last week|It"
        "|There|I|We|He|She|They|People|Children|One day|At night|Because|Although"
    ).split("|"),
}
# Not in the chat format: its system turn costs more to read than the sentence costs to write.
ASKED = {
    "question": "A question about {word}: {opener}",
    "request": "Somebody asks for help with {word}: {opener}",
    "story": "A sentence about {word}: {opener}",
}
# Questions and requests are what people say to a model; statements bring other words and tenses.
SHARE: dict[Kind, float] = {"question": 0.4, "request": 0.25, "story": 0.35}
SHORTEST, LONGEST = 3, 14  # words
NEW_TOKENS = 18
BATCH = 192
TOP_K = 60
# Sentences with a word of these families are left out whole, whether they are harmful or not.
_HARM = re.compile(
    r"\b(?:kill|murder|suicid|bomb|weapon|gun|rifle|explo|poison|drug|cocaine|heroin|meth|rape|sex|porn|nude|steal|stole|theft"
    r"|hack|malware|virus|phish|fraud|scam|launder|bribe|blackmail|kidnap|terror|assassin|attack|assault|abuse|hurt|harm"
    r"|shoot|stab|slave|nazi|racis|genocid|hate|illegal|smuggl|forge|counterfeit|stalk|spy|cheat|die|dead|death|violen|burgl"
    r"|arson|torture|cyanide|overdose|self-harm)\w*",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"[A-Z][A-Za-z',\- ]*[.?!]")


def topic_words(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The tokens of at least three letters that begin a word, in order of their id."""
    tokens = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return [token[1:] for token, _ in tokens if re.fullmatch(r"\u0120[a-z]{3,}", token)]


def clean(text: str, harmful: PromptIndex) -> str | None:
    """The first sentence of `text` if it can be spoken and trained on, else None."""
    match = _SENTENCE.match(" ".join(text.split()))
    if match is None:
        return None
    sentence = match.group()
    fits = SHORTEST <= len(words_of(sentence)) <= LONGEST
    if not fits or _HARM.search(sentence) or harmful.match(sentence) is not None:
        return None
    return sentence


@torch.no_grad()
def sample(
    lm: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, words: Sequence[str], seed: int
) -> Iterator[tuple[Kind, str]]:
    """(kind, text) for each of `words`: what `lm` says about it at temperature 1."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    kinds = draw.choices(list(SHARE), list(SHARE.values()), k=len(words))
    openers = [draw.choice(OPENERS[kind]) for kind in kinds]
    prompts = []
    for kind, word, opener in zip(kinds, words, openers, strict=True):
        prompts.append(ASKED[kind].format(word=word, opener=opener))
    tokenizer.padding_side = "left"
    batch = tokenizer(prompts, add_special_tokens=False, return_tensors="pt", padding=True)
    whole = lm.generate(
        **batch.to(lm.device),
        do_sample=True,
        temperature=1.0,
        top_k=TOP_K,
        max_new_tokens=NEW_TOKENS,
        pad_token_id=end_token(tokenizer),
    )
    said = whole[:, batch.input_ids.shape[1] :]
    texts = tokenizer.batch_decode(said, skip_special_tokens=True)
    for kind, opener, text in zip(kinds, openers, texts, strict=True):
        yield kind, opener + text


def open_sentences(
    lm: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    *,
    count: int,
    excluded: Iterable[str],
    known: Iterable[str] = (),
    seed: int = 0,
) -> Iterator[Sentence]:
    """`count` distinct sentences of `lm`'s own, none close to one `excluded`, none `known`."""
    harmful = PromptIndex(excluded)
    topics = topic_words(tokenizer)
    draw = random.Random(seed)
    met = {tuple(words_of(text)) for text in known}
    made = 0
    bar = tqdm(total=count, desc="making up sentences", unit="sentence")
    for number in range(100 * count // BATCH):
        words = draw.sample(topics, BATCH)
        for kind, text in sample(lm, tokenizer, words, seed * 1_000_003 + number):
            sentence = clean(text, harmful)
            key = tuple(words_of(sentence or ""))
            if sentence is None or key in met:
                continue
            met.add(key)
            made += 1
            bar.update()
            yield Sentence(sentence, kind)
            if made == count:
                bar.close()
                return


def scrambled(sentences: Sequence[Sentence], seed: int) -> Iterator[Sentence]:
    """The words of each of `sentences` in another order: what cannot be guessed must be heard."""
    draw = random.Random(seed)
    for sentence in sentences:
        words = [word.strip(",").lower() for word in sentence.text[:-1].split()]
        draw.shuffle(words)
        yield Sentence(" ".join(words).capitalize() + ".", "carrier")
