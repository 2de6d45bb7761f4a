"""Made-up training clips."""

import torch

from training.clips import Clip


def random_clip(frames: int, seed: int, text: str = "hi there", kind: str = "question") -> Clip:
    """Noise of so many log-mel frames, its last 0.1 s silent."""
    noise = torch.randn(160 * frames, generator=torch.Generator().manual_seed(seed))
    noise[-1600:] = 0
    return Clip(text, kind, "voice", (3000 * noise).to(torch.int16))
