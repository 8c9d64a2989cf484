"""Small random encoders: every way that is known to spell a part, in every combination, and parts that mix tokens.

Each model is made from one seed. Beside it stands what its outputs mean, so that two runs can be compared where a
comparison says something: on rows of real tokens, and on sequences that have a token at all.
"""
