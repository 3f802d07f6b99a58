"""What tests that start other processes agree on."""

FAST_COMPILATION = (
    "--xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1"
)
"""Flags of XLA that halve compile time, which is most of what small networks cost."""
SECONDS = 600
"""Limit of a child process: against hanging alone, so far above what any of them takes on a busy machine."""
