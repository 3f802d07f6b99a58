"""ONNX graphs of pure functions of images: traced by JAX, about one node per layer, any batch size."""

from finetune_jax.models.onnx_graph.convert import to_onnx

__all__ = ["to_onnx"]
