"""What the notebooks are made with: session, claims, checks, figures and widgets."""
