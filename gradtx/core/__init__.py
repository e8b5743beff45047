"""The protocol: transforms, chains, hyperparameters, trees. Imports nothing else of ours."""
