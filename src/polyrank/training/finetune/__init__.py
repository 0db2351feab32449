"""Training of a checkpoint's weights: rerankers, classifiers, embedders."""
