"""Fine-tuning of rerankers, classifiers and embedders on sentence-transformers' trainers.

Data come from `reading`, lists are drawn by `drawing`, and `pipeline.train` does the rest. Only
`losses`, `models` and `trainers` import torch; `pipeline` imports them when a run begins.
"""
