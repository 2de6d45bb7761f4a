"""Any LALM: the doctor, the logit lens and TransformerLens, and a replica without weights."""
