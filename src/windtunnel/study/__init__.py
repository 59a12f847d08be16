"""Studies: budgets and matching, plans, worker processes, statistics, verdicts.

`planning` makes a `plan.Plan`, `conduct` runs it in a `folder.StudyFolder` on the workers of
`execute`, `compare.judge` says what its records allow to be said. Nothing is imported here, so that
each costs only itself.
"""
