"""A sweep: a list of jobs, each a run in a process of its own, that the same command line continues.

sweep    the story: what is finished is skipped, the rest runs, a table at the end
search   instead of a list: what to try next is chosen from what came of the others
status   one small file a job: its state, how good it is, why it failed
launcher where jobs run, by `launcher.name`: what the launchers below have in common
local    so many processes at a time, warm ones; signals are handed on
gpus     each job has GPUs of its own
job      what a job's process does
table    what all came to: on the console, as CSV, JSON and a page

The process that starts the jobs imports nothing heavy, so that a finished sweep answers at once.
"""
