"""The law: what PatchMerger, ATS, ToMe and LTM mean, in NumPy, one sample at a time, written to be read."""

if __name__ == "spec":
    raise ImportError("import it as 'tokenmerge.spec'")
