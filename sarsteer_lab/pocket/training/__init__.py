"""How the pocket model was trained. Nothing imports it, and wheels leave it out."""
