"""The proof: a suite that shows whether a backend, ours or yours, agrees with the spec.

`tokenmerge conformance --backend NAME` runs it; so does `pytest --pyargs tokenmerge.conformance`.
"""

if __name__ == "conformance":
    raise ImportError("import it as 'tokenmerge.conformance'")
