"""Defences measured against each other: sets of requests, a resumable run, judges, tables with
intervals."""
