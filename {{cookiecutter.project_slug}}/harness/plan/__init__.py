"""What will this take? `python train.py --plan`: parameters, memory, steps, hours, disk, without a run.

command    the story: each job that is not finished, in a process of its own; the table, the sum
child      that process: the experiment's own `train`, with one of two Trainers that do not train
measured   a few steps, validation batches and a checkpoint of the real thing, timed; the peak of memory
counted    for a device that is not here, or several: one step of tensors without content
amounts    from both to a plan: how often, how long, how much
show       a plan, and a sum, in the terminal
"""
