"""What other projects make of the rules: `python -m tokenmerge.conformance.others`. Adapters import, and copy nothing.

A project is only asked about what it has and claims. Where it has no such thing, the table says so, and that is no
fault: a rule is a decision of this library, which others were free to take in another way.
"""
