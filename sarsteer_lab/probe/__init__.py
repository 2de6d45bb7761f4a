"""Any LALM: doctor and dry run, a bridge to TransformerLens, random-weight replica, recordings."""
