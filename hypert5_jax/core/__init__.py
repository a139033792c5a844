"""The words every room speaks: axes, batches, trees and the errors users cause."""
