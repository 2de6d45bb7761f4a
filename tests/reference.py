"""The method once more, independently: no hooks, no padding, own SVD in float64. Tests compare with
it."""

import numpy as np
import torch


def run_layers(lalm, h, vectors=None, first=0):
    """All decoder layers by hand, vectors[l] added from position `first` on; every layer's
    output."""
    n, decoder, outputs = h.shape[1], lalm.decoder, []
    position = torch.arange(n)[None]
    causal = torch.full((n, n), torch.finfo(h.dtype).min, dtype=h.dtype).triu(1)[None, None]
    for i, layer in enumerate(decoder.layers):
        h = layer(h, attention_mask=causal, position_embeddings=decoder.rotary_emb(h, position))
        if vectors is not None:
            h = torch.cat([h[:, :first], h[:, first:] + vectors[i]], 1)
        outputs.append(h)
    return outputs


@torch.no_grad()
def steered_greedy(lalm, prompt, vectors, n_tokens):
    """Token ids of greedy decoding, `vectors` added at the prompt's last position and every later
    token."""
    h = lalm.core(**lalm.inputs([prompt]), output_hidden_states=True).hidden_states[
        0
    ]  # clip and text embedded
    last, tokens, stop = h.shape[1] - 1, [], lalm.core.generation_config.eos_token_id
    while len(tokens) < n_tokens and (not tokens or tokens[-1] != stop):
        final = run_layers(lalm, h, vectors, last)[-1][:, -1:]
        token = lalm.core.lm_head(lalm.decoder.norm(final)).argmax(-1)
        tokens.append(token.item())
        h = torch.cat([h, lalm.decoder.embed_tokens(token)], 1)
    return tokens


def safe_space(states, k):
    """Top-k left singular vectors of the centred states' transpose, one (d_model, k) matrix per
    layer."""
    layers = np.moveaxis(np.asarray(states, np.float64), 1, 0)
    return [np.linalg.svd((h - h.mean(0)).T)[0][:, :k] for h in layers]


def sarsteer(base, refusal, harmless, k, lam):
    """Steps 2 to 4: the direction, and what is left of it outside the safe space."""
    d = np.mean(np.asarray(refusal, np.float64) - np.asarray(base, np.float64), axis=0)
    return d, np.stack(
        [v - lam * u @ (u.T @ v) for v, u in zip(d, safe_space(harmless, k), strict=True)]
    )
