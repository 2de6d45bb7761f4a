"""The public API: where each name of the package is."""

from sarsteer_lab.activations import capture as capture
from sarsteer_lab.derivation import derive as derive
from sarsteer_lab.directions import difference_in_means as difference_in_means
from sarsteer_lab.directions import text_refusal_direction as text_refusal_direction
from sarsteer_lab.lalm import LALM as LALM
from sarsteer_lab.loading import load_lalm as load_lalm
from sarsteer_lab.prompts import INSTRUCTION as INSTRUCTION
from sarsteer_lab.prompts import REFUSAL as REFUSAL
from sarsteer_lab.prompts import REFUSALS as REFUSALS
from sarsteer_lab.prompts import Prompt as Prompt
from sarsteer_lab.prompts import SpokenPrompt as SpokenPrompt
from sarsteer_lab.prompts import load_prompts as load_prompts
from sarsteer_lab.safe_space import ablate as ablate
from sarsteer_lab.safe_space import principal_space as principal_space
from sarsteer_lab.speech import read_clip as read_clip
from sarsteer_lab.steering import project_out as project_out
from sarsteer_lab.steering import steer as steer
from sarsteer_lab.store import cache_folder as cache_folder
from sarsteer_lab.store import data_folder as data_folder
from sarsteer_lab.vectors import SteeringVectors as SteeringVectors

__version__: str
