"""Whether a model is what it was, bit for bit, after something has been done to it."""

import torch


def traces(lalm):
    """All that could be left behind: weights, settings, hooks, watchers, the lock."""
    hooks = []
    for name, module in lalm.model.named_modules():
        for key in (*module._forward_hooks, *module._forward_pre_hooks):
            hooks.append((name, key))
    weights = [tensor.clone() for tensor in lalm.model.state_dict().values()]
    how = [lalm.model.config.to_json_string()]
    for module in lalm.model.modules():
        how.append(getattr(getattr(module, "config", None), "_attn_implementation", None))
    return weights, (hooks, list(lalm.watchers), list(lalm.access._steering), how)


def assert_untouched(lalm, before):
    weights, others = traces(lalm)
    assert others == before[1]
    assert all(torch.equal(one, other) for one, other in zip(weights, before[0], strict=True))
