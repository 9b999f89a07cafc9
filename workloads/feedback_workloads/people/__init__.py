"""What people say of claims and pairs: a local page to say it on, sheets to carry it, and how far they agree.

A folder of `feedback annotate` has the tasks, their pictures, and a file of answers for each person. It needs nothing
else, so that it can be given away, and judged without the artifacts it was drawn from.
"""
