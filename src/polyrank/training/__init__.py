"""Training on a user's own data.

`finetune` changes a checkpoint's weights, `late_interaction` fits heads to a body that stays,
`first_stage` learns what a search's scores should count for. All three read their data by `data`.
Torch is imported when a run begins.
"""
