"""Checks of the exercises, a module per part of the course."""
