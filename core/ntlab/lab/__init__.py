"""The laboratory: experiments with arms, claims, statistics, results.

A run goes one way through these modules: `registry` (what is installed) and `options` (typed settings) give
`experiment` (what is to be compared), `runner` turns that into runs, which `workers` make, `statistics` and
`claims` judge them, `results` keeps them. `ablation` makes an experiment of the differences between two arms
of another, by a plan of `designs`; `sweep` runs one over a grid, and `store` keeps what it gives. `tables`,
`listings`, `order`, `reference`, `profiling` and `hardware` show things; `scaffold` writes new ones. `api` is
the face of it all, for Python and for the command line.
"""
