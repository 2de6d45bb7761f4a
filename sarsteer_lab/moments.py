"""Running mean and scatter of hidden states: directions and safe space from any number of prompts.

`principal_space` wants all states at once: 100,000 prompts of a 7B model would be 50 GB. What it needs of
them is their mean and their scatter matrix, and both can be summed batch by batch.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from sarsteer_lab.safe_space import RANK_TOLERANCE, SafeSpace


class Moments:
    """Mean and scatter of states seen so far, batch by batch; memory does not grow with their number.

    Batches are merged by Chan, Golub and LeVeque's update (1983), in float64: (layers x d_model x d_model)
    numbers, 80 MB for the pocket model and 4.3 GB for the 7B Qwen2-Audio; leave `scatter` out where only the
    mean is wanted.
    """

    def __init__(self, *, scatter: bool = True) -> None:
        self.count = 0
        self._keep_scatter = scatter
        self._mean: Tensor | None = None
        self._scatter: Tensor | None = None

    def add(self, states: Float[Tensor, "prompt layer d_model"]) -> None:
        """Take a batch of states. Raises ValueError if its layers or width are not those seen before."""
        if states.ndim != 3 or (self._mean is not None and states.shape[1:] != self._mean.shape):
            raise ValueError(f"states of shape {tuple(states.shape)} do not go with those seen before")
        if not len(states):
            return
        n, layers, width = states.shape
        if self._mean is None:
            self._mean = states.new_zeros(layers, width, dtype=torch.float64)
        if self._scatter is None and self._keep_scatter:
            self._scatter = states.new_zeros(layers, width, width, dtype=torch.float64)
        total = self.count + n
        # A layer at a time: what is made on the way stays small beside the scatter.
        for layer in range(layers):
            new = states[:, layer].double()
            mean = new.mean(0)
            shift = mean - self._mean[layer]
            self._mean[layer] += shift * (n / total)
            if self._scatter is not None:
                new -= mean
                self._scatter[layer].addmm_(new.T, new).addr_(shift, shift, alpha=self.count * n / total)
        self.count = total

    @property
    def mean(self) -> Float[Tensor, "layer d_model"]:
        """Mean of all states so far, float32. Raises ValueError if there are none."""
        if self._mean is None:
            raise ValueError("no states have been added yet")
        return self._mean.float()

    def principal_space(self, k: int = 10) -> SafeSpace:
        """`safe_space.principal_space` of all states so far, up to rounding (SARSteer, step 3).

        The scatter's eigenvalues are the squares of the states' singular values, so directions below about
        1e-7 of the largest singular value are lost in rounding. Raises ValueError for k < 1, fewer than 2
        states, or without the scatter.
        """
        if k < 1 or self.count < 2 or self._scatter is None:
            raise ValueError(f"needs k >= 1, 2 states and their scatter; got k={k}, {self.count} states")
        kept = min(k, self.count - 1, self._scatter.shape[-1])
        directions = self._scatter.new_zeros(len(self._scatter), k, self._scatter.shape[-1])
        ratios = self._scatter.new_zeros(len(self._scatter), k)
        for layer, scatter in enumerate(self._scatter):
            variance, vectors = torch.linalg.eigh(scatter)
            variance, found = variance.flip(0).clamp_min(0), vectors.flip(1).T[:kept]
            present = variance[:kept].sqrt() > RANK_TOLERANCE * variance[0].sqrt()
            sign = found.gather(1, found.abs().argmax(1, keepdim=True)).sign()
            directions[layer, :kept] = torch.where(present[:, None], found * sign, 0.0)
            ratios[layer, :kept] = variance[:kept] / variance.sum().clamp_min(torch.finfo(torch.float64).tiny)
        return SafeSpace(self.mean, directions.float(), ratios.float())
