"""A server that answers with the best of several candidates, ranked by the policy's own reward against its reference.

`python -m feedback_workloads.serving --policy SOURCE --reference SOURCE`: OpenAI-compatible chat completions about a
picture. A request goes protocol (what was asked) -> pictures (the bytes) -> admission (its turn) -> best_of (answers,
rewards, order) -> protocol (what is said); app joins them and server ends them.
"""
