"""What tests that start other processes agree on."""

import importlib.metadata

FAST_COMPILATION = (
    "--xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1"
)
"""Flags of XLA that halve compile time, which is most of what small networks cost."""
if importlib.metadata.version("jaxlib").startswith("0.10."):
    # Convolutional networks compile in a third of the time; later versions refuse the flag.
    FAST_COMPILATION += " --xla_cpu_use_fusion_emitters=false"
SECONDS = 600
"""Limit of a child process: against hanging alone, so far above what any of them takes on a busy machine."""
