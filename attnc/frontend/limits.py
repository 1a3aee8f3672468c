"""Bounds that keep every text, however hostile, answered within a second."""

FILE_CHARACTERS = 1 << 20
TOKENS = 20_000
BRACKET_DEPTH = 100
#: Depth of an expression, as written and after names are put in place.
EXPRESSION_DEPTH = 200
#: Nodes of one expression after names are put in place, counted as a tree.
EXPRESSION_NODES = 20_000
#: Expressions looked at inside of what a file uses, each use counted anew.
USED_NODES = 20_000
INT_BITS = 64
LITERAL_CHARACTERS = 40
IMPORTED_FILES = 64
#: Findings after which a phase stops looking for more.
DIAGNOSTICS = 50
EXISTS_VALUES = 128
#: Queries or keys of a block of a tile lift: positions are below 2^31.
BLOCK = 2**31 - 1
#: Combinations of the values of nested `exists`.
EXISTS_COMBINATIONS = 4096


class Exhausted(Exception):
    """A bound ended the work. What is wrong has been recorded."""
