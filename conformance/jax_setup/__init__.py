"""Sets JAX up in a process: versions, devices, modes, compiled programs."""


def compile_less() -> None:
    """Keep compiled programs, and make the others cheaper to lower and compile; imports JAX."""
    from conformance.jax_setup import compile_cache, draws, mlir_context

    compile_cache.install()
    mlir_context.share_contexts()
    draws.compile_quickly()
