"""`tokenmerge bench`: how fast operators and networks are, beside what they are compared with."""
