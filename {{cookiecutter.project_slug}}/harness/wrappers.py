"""Names of parameters, whatever is wrapped around their model."""

# torch.compile, DistributedDataParallel, activation checkpointing; each may stand anywhere in a name.
WRAPPERS = ("_orig_mod.", "module.", "_checkpoint_wrapped_module.")


def plain(name: str) -> str:
    """Return a parameter's name without what wrappers add."""
    for wrapper in WRAPPERS:
        name = name.removeprefix(wrapper).replace(f".{wrapper}", ".")
    return name
