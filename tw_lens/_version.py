"""The version of the package, in one place."""

__version__ = "0.2.0"


def versions() -> str:
    """Return the versions of this package, TransformerLens and torch, for pages and indexes."""
    from importlib.metadata import version

    packages = (("TransformerLens", "transformer-lens"), ("torch", "torch"))
    others = (f"{name} {version(package)}" for name, package in packages)
    return ", ".join([f"tw_lens {__version__}", *others])
