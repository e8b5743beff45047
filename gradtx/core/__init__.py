"""The protocol: transforms, chains, hyperparameters, trees and leaves. Imports nothing else of ours."""
