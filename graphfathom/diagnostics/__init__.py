"""Measures of a network, what they say, and the record of both."""
