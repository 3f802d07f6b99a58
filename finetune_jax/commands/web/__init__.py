"""The pages of ``finetune-jax app``: who may ask, what is answered, and the server around them."""
