"""What the notebooks are made with, and where it is."""

from .claims import Claim as Claim
from .claims import claim_on_shares as claim_on_shares
from .claims import claim_on_value as claim_on_value
from .claims import closing as closing
from .claims import share_text as share_text
from .session import answers as answers
from .session import base_states as base_states
from .session import evaluation_folder as evaluation_folder
from .session import figure_folder as figure_folder
from .session import load_model as load_model
from .session import refusal_probabilities as refusal_probabilities
from .session import show as show
from .session import states as states
from .session import umap_map as umap_map
from .session import working_text as working_text
from .tables import table as table
