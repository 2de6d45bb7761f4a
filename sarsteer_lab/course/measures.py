"""What a chapter measures: the gap between typed and spoken states, layer by layer."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from sarsteer_lab.geometry import centroid_distance, pair_cosine, transfer_accuracy


@dataclass(frozen=True, eq=False)
class Gap:
    """How typed and spoken states of the derive split's requests compare, per layer (see `geometry`).

    `harm_distance` is that of typed harmful and harmless requests, the measure of scale for `distance`.
    """

    cosine: Float[Tensor, "prompt layer"]
    centred_cosine: Float[Tensor, "prompt layer"]
    distance: Float[Tensor, "layer"]
    harm_distance: Float[Tensor, "layer"]
    probe: Float[Tensor, "layer seed"]

    @property
    def layer(self) -> int:
        """The layer to look at: where typed harmful and harmless requests lie furthest apart."""
        return int(self.harm_distance.argmax())


def measure_gap(
    typed: Float[Tensor, "prompt layer d_model"],
    spoken: Float[Tensor, "prompt layer d_model"],
    n_harmful: int,
) -> Gap:
    """Compare typed and spoken states of the same requests, of which the first `n_harmful` are harmful.

    The probe is cross-validated with each request's two states on the same side of every split.
    """
    n = len(typed)
    both, forms = torch.cat([typed, spoken]), ["typed"] * n + ["spoken"] * n
    requests = [str(i) for i in range(n)] * 2
    probe = [
        transfer_accuracy(both, both, forms, groups=requests, folds=min(5, n), seed=seed)
        for seed in tqdm((0, 1, 2), desc="probes", unit="seed", delay=2, leave=False)
    ]
    return Gap(
        cosine=pair_cosine(typed, spoken, center=False),
        centred_cosine=pair_cosine(typed, spoken),
        distance=centroid_distance(typed, spoken),
        harm_distance=centroid_distance(typed[:n_harmful], typed[n_harmful:]),
        probe=torch.stack(probe, dim=1),
    )
