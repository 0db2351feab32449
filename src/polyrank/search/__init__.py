"""Search in stages: candidates, then cheaper and dearer models on fewer and fewer of them.

`fusion` joins rankings, `pruning` says how many candidates a stage may drop, `stages` are the
models, and `Search` runs them within a budget. Knows no files, no HTTP and no store but by what it
offers.
"""
