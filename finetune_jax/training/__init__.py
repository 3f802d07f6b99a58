"""From a network and a method to trained weights: objectives, steps, the loop over epochs."""
