"""A server that answers with the best of several candidates, ranked by the policy's own reward against its reference.

`python -m feedback_workloads.serving --policy SOURCE --reference SOURCE`: OpenAI-compatible chat completions about a
picture, and rewards of given answers. A request goes protocol (what was asked) -> prompts (its picture and tokens) ->
admission (its turn) -> best_of (answers, rewards, order) -> protocol (what is said); service does so for chats, scoring
for given answers; app joins them and server ends them.
"""
