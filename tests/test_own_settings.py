"""A checkpoint's own generation settings: greedy ways heed them, or name what they do not."""

import pytest
import torch
from replicas import replica

from sarsteer_lab.engine.live import LivePrompt
from sarsteer_lab.engine.prepared import PreparedBatch


def up_to(answer, end):
    """The answer, with its end, which was no special token when the tokenizer was made."""
    return answer[: answer.find(end) + 1] or answer


@pytest.mark.parametrize("family", ["qwen2_5_omni", "qwen3_omni", "qwen2_audio"])
def test_answers_end_where_the_turn_ends_though_the_settings_name_no_token(family, prompts):
    lalm = replica(family)
    lalm.core.generation_config.eos_token_id = None
    whole = lalm.generate(prompts, max_new_tokens=12)
    end = whole[1][3]
    lalm.tokenizer.eos_token = end
    assert lalm.ends.tolist() == [lalm.tokenizer.convert_tokens_to_ids(end)]
    expected = [up_to(answer, end).strip() for answer in whole]
    assert lalm.generate(prompts, max_new_tokens=12) == expected != whole
    assert PreparedBatch(lalm, prompts).generate(12) == expected


def test_a_live_prompt_ends_there_too(prompts):
    lalm = replica()
    lalm.core.generation_config.eos_token_id = None
    whole = lalm.generate(prompts[1:2], max_new_tokens=12)[0]
    lalm.tokenizer.eos_token = whole[3]
    assert LivePrompt(lalm, prompts[1]).answer(12).text == up_to(whole, whole[3])[:-1].strip()


def test_a_model_without_an_end_says_so(prompts):
    lalm = replica()
    lalm.core.generation_config.eos_token_id = None
    lalm.tokenizer.pad_token = "<|endoftext|>"
    lalm.tokenizer.eos_token = None
    with pytest.raises(ValueError, match="names no token that ends an answer: set"):
        lalm.generate(prompts)
    lalm.core.generation_config.eos_token_id = [3, 5]
    assert torch.equal(lalm.ends, torch.tensor([3, 5]))
