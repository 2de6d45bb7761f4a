"""The live panels of the course."""
