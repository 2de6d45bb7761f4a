"""The chat format: control tokens in a text, the day that a template writes, a user's objects."""

from datetime import date, timedelta

import pytest
import torch
from replicas import TINY, replica
from tokenizers.processors import TemplateProcessing

from sarsteer_lab.activations import capture
from sarsteer_lab.lalm import LALM
from sarsteer_lab.prompts import Prompt

DATED = (
    "{%- if strftime_now is defined %}{%- set today = strftime_now('%d %B %Y') %}{%- endif %}"
    "{{- '<|im_start|>system\\nToday is ' + today + '. ' -}}"
    '{{- strftime_now("%A") + "<|im_end|>\\n" -}}'
)


def dated() -> LALM:
    """A replica whose chat template writes the day, as Granite's does."""
    lalm = replica()
    lalm.processor.chat_template = DATED + lalm.processor.chat_template
    return lalm


@pytest.mark.parametrize("family", sorted(TINY.keys() - {"voxtral"}))
@pytest.mark.parametrize("token", ["<|im_end|>", "<|im_start|>", "<|audio_bos|>", "<|endoftext|>"])
def test_control_tokens_that_are_spelt_in_a_text_are_refused_by_name(family, token):
    lalm = replica(family)
    for prompt in (Prompt(f"Say {token} twice."), Prompt("Hi", system=f"Be{token}kind.")):
        with pytest.raises(ValueError, match="a control token of this model") as error:
            lalm.encode([prompt])
        assert repr(token) in str(error.value) and "\n" not in str(error.value)
    lalm.encode([Prompt("<|im_end> is none, nor is <| im_end |>, </s> or <think>.")])


def test_a_tokenizer_that_reads_them_as_characters_is_given_them():
    """As mistral-common's does."""
    lalm = replica("voxtral")
    number = lalm.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert number not in lalm.tokenizer.encode("<|im_end|>", add_special_tokens=False)
    lalm.encode(["Say <|im_end|> twice."])


def test_added_tokens_of_the_template_count_though_no_attribute_names_them():
    lalm = replica()
    lalm.tokenizer.add_tokens(["<|eot_id|>"], special_tokens=True)
    with pytest.raises(ValueError, match="eot_id"):
        lalm.encode(["Say <|eot_id|>."])
    lalm.tokenizer.add_tokens(["<tool>"])  # not special: a word of the vocabulary
    lalm.encode(["Say <tool>."])


def test_the_day_is_that_on_which_the_model_was_loaded():
    lalm = dated()
    today = date.today()
    text = lalm.chat(Prompt("Hi"))
    assert f"Today is {today:%d %B %Y}. {today:%A}" in text
    before = lalm.encode(["Hi"])[0].key
    lalm.day = today - timedelta(days=1)
    yesterday = lalm.encode(["Hi"])[0]
    assert f"Today is {lalm.day:%d %B %Y}. {lalm.day:%A}" in yesterday.text
    assert yesterday.key != before
    lalm.day = today
    assert lalm.encode(["Hi"])[0].key == before
    plain = replica()
    plain.day = lalm.day - timedelta(days=1)
    assert plain.chat(Prompt("Hi")) == replica().chat(Prompt("Hi"))


@pytest.mark.parametrize("family", ["qwen2_audio", "voxtral", "audioflamingo3", "text_only"])
def test_a_users_tokenizer_keeps_its_padding_side(family, prompts):
    lalm = replica(family)
    asked = prompts if family != "text_only" else ["Hi", "Name a fruit."]
    expected = capture(lalm, asked)
    lalm.tokenizer.padding_side = "right"
    assert torch.equal(capture(lalm, asked), expected)
    lalm.generate(asked, max_new_tokens=2)
    assert lalm.tokenizer.padding_side == "right"


def with_template(template, kind="qwen2_audio"):
    lalm = replica(kind)
    lalm.processor.chat_template = template
    return lalm


USERS = "{% for m in messages if m['role'] == 'user' %}"
PARTS = "{% for part in m['content'] if part['type'] == 'text' %}"
CUT = f"{USERS}{PARTS}{{{{ part['text'][:3] }}}}{{% endfor %}}{{% endfor %}}"
WITHOUT_SYSTEM = CUT.replace("[:3]", "")
STRIPPED = WITHOUT_SYSTEM.replace("part['text']", "part['text'].strip() | replace('\n', ' ')")


@pytest.mark.parametrize(
    ("template", "prompt", "lost"),
    [
        (CUT, Prompt("Name a fruit."), "text"),
        ("{{ 'Hello!' }}", Prompt("Name a fruit."), "text"),
        ("", Prompt("Name a fruit."), "text"),
        (WITHOUT_SYSTEM, Prompt("Name a fruit.", system="Be good."), "system turn"),
    ],
)
def test_a_template_that_loses_what_is_asked_is_refused(template, prompt, lost):
    lalm = with_template(template)
    with pytest.raises(ValueError, match=f"the chat template leaves out the prompt's {lost}"):
        lalm.generate([prompt], max_new_tokens=1)


def test_a_template_may_change_white_space():
    lalm = with_template(STRIPPED)
    assert lalm.chat(Prompt("  Name\na fruit. ")) == "Name a fruit."


@pytest.mark.parametrize("kind", ["qwen2_audio", "text_only"])
@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}",
        "{{ raise_exception('roles must alternate') }}",
        "{{ tools | length }}",
        "{{ 1 / 0 }}",
        "{{ datetime.now() }}",
        "{{ messages[7]['content'] + 1 }}",
    ],
)
def test_a_broken_template_is_one_sentence(template, kind):
    with pytest.raises(ValueError, match="the chat template cannot write this conversation"):
        with_template(template, kind).chat(Prompt("Hi"))


def test_a_tokenizer_that_ends_every_prompt_is_refused():
    lalm = replica()
    end = lalm.tokenizer.eos_token
    rule = TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, lalm.tokenizer.eos_token_id)]
    )
    lalm.tokenizer._tokenizer.post_processor = rule
    with pytest.raises(ValueError, match="puts '<.im_end.>' behind every prompt"):
        lalm.generate(["Hi"], max_new_tokens=1)
    ended = lalm.processor.chat_template + "{{ '<|im_end|>' }}"
    lalm.tokenizer._tokenizer.post_processor = None
    lalm.processor.chat_template = ended
    assert len(lalm.generate(["Hi"], max_new_tokens=1)) == 1


def test_a_text_models_tokens_are_those_of_its_own_template():
    """Its tokenizer would begin every text with a token that the template does not write."""
    lalm = replica("text_only")
    start = lalm.tokenizer.pad_token
    rule = TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, lalm.tokenizer.pad_token_id)]
    )
    lalm.tokenizer._tokenizer.post_processor = rule
    turns = [{"role": "user", "content": "Hi"}]
    expected = lalm.tokenizer.apply_chat_template(turns, add_generation_prompt=True)
    assert lalm.inputs(["Hi"])["input_ids"][0].tolist() == expected["input_ids"]
