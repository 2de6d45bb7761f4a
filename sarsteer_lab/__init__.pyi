"""The public API: where each name of the package is."""

from .activations import capture as capture
from .activations import capture_answer as capture_answer
from .activations import capture_positions as capture_positions
from .derivation import derive as derive
from .directions import difference_in_means as difference_in_means
from .directions import text_refusal_direction as text_refusal_direction
from .evaluation.evaluate import evaluate as evaluate
from .heads import Head as Head
from .heads import audio_attention as audio_attention
from .heads import without_heads as without_heads
from .keeping import kept as kept
from .lalm import LALM as LALM
from .loading import load_lalm as load_lalm
from .patching import Patch as Patch
from .patching import patch as patch
from .paths import cache_folder as cache_folder
from .paths import data_folder as data_folder
from .prompts import INSTRUCTION as INSTRUCTION
from .prompts import REFUSAL as REFUSAL
from .prompts import REFUSALS as REFUSALS
from .prompts import Prompt as Prompt
from .prompts import Request as Request
from .prompts import load_prompts as load_prompts
from .safe_space import ablate as ablate
from .safe_space import principal_space as principal_space
from .speech import read_clip as read_clip
from .steering import project_out as project_out
from .steering import steer as steer
from .vectors import SteeringVectors as SteeringVectors
from .windows import audio_positions as audio_positions
from .windows import silenced as silenced
from .windows import window_positions as window_positions

__version__: str
