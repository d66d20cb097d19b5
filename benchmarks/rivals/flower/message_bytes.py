"""Prints the bytes of the arrays in a message of Flower, which its ArrayRecord holds encoded."""

from flwr.app import ArrayRecord
from local_training import classifier, trained

print(sum(len(array.data) for array in ArrayRecord(trained(classifier())).values()))
