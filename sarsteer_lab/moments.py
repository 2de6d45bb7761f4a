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
        new = states.double()
        mean = new.mean(0)
        before = torch.zeros_like(mean) if self._mean is None else self._mean
        shift, total = mean - before, self.count + len(new)
        self._mean = before + shift * (len(new) / total)
        if self._keep_scatter:
            centred = (new - mean).transpose(0, 1)
            if self._scatter is None:
                layers, width = mean.shape
                self._scatter = new.new_zeros(layers, width, width)
            self._scatter.baddbmm_(centred.transpose(1, 2), centred)
            self._scatter.baddbmm_(shift[:, :, None], shift[:, None], alpha=self.count * len(new) / total)
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
        variance, vectors = torch.linalg.eigh(self._scatter)
        variance, directions = variance.flip(-1).clamp_min(0), vectors.flip(-1).transpose(1, 2)
        whole = variance.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
        kept = min(k, self.count - 1, directions.shape[1])
        present = variance[:, :kept].sqrt() > RANK_TOLERANCE * variance[:, :1].sqrt()
        directions = directions[:, :kept]
        sign = directions.gather(2, directions.abs().argmax(2, keepdim=True)).sign()
        directions = torch.where(present[..., None], directions * sign, 0.0)
        missing = k - kept
        return SafeSpace(
            self.mean,
            torch.nn.functional.pad(directions, (0, 0, 0, missing)).float(),
            torch.nn.functional.pad((variance / whole)[:, :kept], (0, missing)).float(),
        )
