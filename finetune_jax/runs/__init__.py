"""One run: trained, evaluated, used for prediction, explained."""
