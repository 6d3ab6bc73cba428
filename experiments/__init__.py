"""Runs as functions of a typed configuration, and the tables and pages made from their results."""
