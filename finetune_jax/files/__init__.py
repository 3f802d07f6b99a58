"""What is on disk: run directories, checkpoints, trials, weight files, event logs."""
