"""The quickstart's names, adapted to `aime`: nothing is implemented here that `aime` does not do.

Run from the folder that holds this one, as the quickstart does. New code is better off with `aime` itself.
"""
