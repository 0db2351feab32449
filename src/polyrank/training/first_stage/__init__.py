"""What a first stage's scores should count for beside a reranker's."""
