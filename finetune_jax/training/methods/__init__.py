"""The fine-tuning methods, one file per family; ``registry`` names them."""
