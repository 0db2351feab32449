"""One file a framework: polyrank as the parts that other frameworks take, each an extra."""
