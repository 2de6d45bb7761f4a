"""What the notebooks are made with: session, claims, checks, figures and widgets."""

from sarsteer_lab.course.claims import Claim, claim_on_shares, claim_on_value, closing, share_text
from sarsteer_lab.course.session import (
    base_states,
    evaluation_folder,
    figure_folder,
    load_model,
    measure_gap,
    show,
    states,
    umap_map,
    working_text,
)
from sarsteer_lab.evaluation.kept import answers, refusal_probabilities
